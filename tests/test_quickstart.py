"""The main job, at the smallest size: every step runs, old numbers stand still, a second run goes on."""

import json

import pytest

pytest.importorskip("espeakng_loader")

from dataclasses import replace

from dualasr.errors import RunError
from dualasr.quickstart import NEW, OLD, QuickstartOptions, quickstart


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    options = QuickstartOptions(tmp_path_factory.mktemp("qs") / "run", readings=1, steps=3, beam=2, limit=10)
    return options, quickstart(options, say=lambda line: None)


def test_three_reports_over_all_languages(small):
    options, steps = small
    assert [step["step"] for step in steps] == ["base", "+ ky", "+ ga"]
    for step in steps:
        assert set(step["languages"]) == {*NEW, *OLD}
        assert all(row["n"] == 10 for row in step["languages"].values())
    assert [len(step["packs"]) for step in steps] == [0, 1, 2]


def test_pipeline_aware_old_languages_and_the_first_new_one_do_not_move(small):
    _, steps = small
    for code in OLD:
        assert len({json.dumps(step["languages"][code]["pipeline_aware"]) for step in steps}) == 1, code
    assert steps[1]["languages"]["ky"]["pipeline_aware"] == steps[2]["languages"]["ky"]["pipeline_aware"]


def test_what_lies_in_the_folder(small):
    options, steps = small
    assert (options.out / "regression.png").read_bytes().startswith(b"\x89PNG")
    table = (options.out / "regression.md").read_text()
    assert "| + ga |" in table and "dualasr quickstart" in table
    rows = (options.out / "corpus" / "data" / "ky_kg" / "test.tsv").read_text().splitlines()
    assert len(rows) == 10 and all(len(row.split("\t")) == 7 for row in rows)
    assert not [path for path in options.out.rglob("*") if ".part" in path.name]


def test_a_second_run_goes_on_and_another_is_refused(small):
    options, steps = small
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.safetensors")}
    assert quickstart(options, say=lambda line: None) == steps
    assert before and before == {path: path.stat().st_mtime_ns for path in options.out.rglob("*.safetensors")}
    with pytest.raises(RunError, match="other settings"):
        quickstart(replace(options, seed=2), say=lambda line: None)
