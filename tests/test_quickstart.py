"""The main job, at the smallest size: every step runs, old numbers stand still, a second run goes
on.
"""

import json

import pytest

pytest.importorskip("espeakng_loader")

from dataclasses import replace

import numpy as np

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.audio.vad import VadOptions
from dualasr.data.corpus import load_corpus
from dualasr.errors import RunError
from dualasr.packs.format import read_pack
from dualasr.packs.load import load_model
from dualasr.training.quickstart import NEW, OLD, QuickstartOptions, quickstart
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe

LIMIT = 8  # sentences of each split


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    options = QuickstartOptions(
        tmp_path_factory.mktemp("qs") / "run", readings=1, steps=3, limit=LIMIT
    )
    return options, quickstart(options)


def test_three_reports_over_all_languages(small):
    options, steps = small
    assert [step["step"] for step in steps] == ["base", "+ ky", "+ ga"]
    for step in steps:
        assert set(step["languages"]) == {*NEW, *OLD}
        assert all(row["n"] == LIMIT for row in step["languages"].values())
    assert [len(step["packs"]) for step in steps] == [0, 1, 2]


def test_pipeline_aware_old_languages_and_the_first_new_one_do_not_move(small):
    _, steps = small
    for code in OLD:
        assert (
            len({json.dumps(step["languages"][code]["pipeline_aware"]) for step in steps}) == 1
        ), code
    assert (
        steps[1]["languages"]["ky"]["pipeline_aware"]
        == steps[2]["languages"]["ky"]["pipeline_aware"]
    )


def test_what_lies_in_the_folder(small):
    options, steps = small
    assert (options.out / "regression.png").read_bytes().startswith(b"\x89PNG")
    table = (options.out / "regression.md").read_text()
    assert "| + ga |" in table and "dualasr quickstart" in table
    for code in NEW:
        assert {"regression.md", "regression.png"} < set(
            read_pack(options.out / "packs" / code)["files"]
        )
        assert (options.out / "packs" / code / "regression.md").read_text() == table
    rows = (options.out / "corpus" / "data" / "ky_kg" / "test.tsv").read_text().splitlines()
    assert len(rows) == LIMIT and all(len(row.split("\t")) == 7 for row in rows)
    assert not [path for path in options.out.rglob("*") if ".part" in path.name]


def test_a_second_run_goes_on_and_another_is_refused(small):
    options, steps = small
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*.safetensors")}
    assert quickstart(options) == steps
    assert before and before == {
        path: path.stat().st_mtime_ns for path in options.out.rglob("*.safetensors")
    }
    with pytest.raises(RunError, match="other settings"):
        quickstart(replace(options, seed=2))


def test_a_long_file_keeps_order_and_routes(small):
    """Blocks of one language each, too long for two to share a window, with the pauses between them
    cut out.
    """
    options, _ = small
    model = load_model("micro", [options.out / "packs" / code for code in NEW])
    clips = load_corpus(options.out / "corpus", "test").utterances
    said, blocks = ["en", "ky", "de", "ga", "en", "tr"], []
    for k, code in enumerate(said):
        block = np.zeros(0, np.float32)
        for clip in [u for u in clips if u.language == code][3 * (k > 3) :]:
            if len(block) < 9 * SAMPLE_RATE:
                block = np.concatenate(
                    [block, load_audio(clip.sound), np.zeros(SAMPLE_RATE // 4, np.float32)]
                )
        blocks += [block, np.zeros(3 * SAMPLE_RATE, np.float32)]
    starts = np.cumsum([0, *map(len, blocks)]) / SAMPLE_RATE
    places = [
        (start, start + len(block) / SAMPLE_RATE, code)
        for start, block, code in zip(starts[:-1:2], blocks[::2], said, strict=True)
    ]
    asked = TranscribeOptions(vad=VadOptions(min_silence_duration_ms=1000), words=True)
    result = transcribe(model, np.concatenate(blocks), options=asked)
    assert [s.start for s in result.segments] == sorted(s.start for s in result.segments)
    heard = [
        (next(code for first, last, code in places if first - 1 < s.start and s.end < last + 1), s)
        for s in result.segments
    ]
    for code, segment in heard:
        assert segment.language == code and segment.route == (code if code in NEW else "primary")
    assert {code for code, _ in heard} == set(said)
