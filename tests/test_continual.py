"""The matrix of a sequence: a hand-worked one, its limits, and what is written of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dualasr.errors import RunError
from dualasr.evaluation.continual import (
    awer,
    bwt,
    fwt,
    im,
    matrix_of,
    read_finished,
    read_matrix,
    regressions,
    steps_of,
    to_markdown,
    write_matrix,
)

STEPS = ("base", "+ ky", "+ ga")
LEARNT = {"en": 0, "de": 0, "ky": 1, "ga": 2}
# WER of en, de, ky, ga after each step; ky and ga are zero-shot before they are learnt
WER = [[0.10, 0.20, 0.90, 0.80], [0.12, 0.20, 0.30, 0.85], [0.10, 0.24, 0.35, 0.40]]


def report(rates, aware=None) -> dict:
    languages = {}
    for code, rate in zip(LEARNT, rates, strict=True):
        if rate is not None:
            score = {
                "wer": rate,
                "cer": rate / 2,
                "wer_interval": [rate - 0.02, rate + 0.02],
                "cer_interval": [0.0, 1.0],
            }
            languages[code] = {
                mode: score for mode in ("pipeline_aware", "group_aware", "agnostic")
            }
    routing = {"accuracy": 0.99, "confusion": {"en": {"primary": 4, "ky": 1}}}
    return {"languages": languages, "routing": routing, "decoded": {"primary": 4, "ky": 1}}


@pytest.fixture
def matrix():
    return matrix_of([report(row) for row in WER], STEPS, LEARNT)


def test_by_hand(matrix):
    # tasks: 0 is the mean of en and de, 1 is ky, 2 is ga
    #   R = [[.15], [.16, .30], [.17, .35, .40]]
    assert awer(matrix) == pytest.approx([0.15, 0.23, (0.17 + 0.35 + 0.40) / 3])
    # BWT_1 = .15 - .16; BWT_2 = mean of (.15 - .17, .30 - .35)
    assert bwt(matrix)[1:] == pytest.approx([-0.01, -0.035]) and np.isnan(bwt(matrix)[0])
    assert bwt(matrix, measure="cer")[1:] == pytest.approx([-0.005, -0.0175])
    joint = matrix_of(
        [report(WER[0]), report([0.1, 0.2, 0.28, 0.43])],
        ("base", "joint"),
        LEARNT | {"ky": 1, "ga": 1},
    )
    assert im(matrix, joint)[1:] == pytest.approx([0.30 - 0.28, 0.40 - 0.43])
    alone = matrix_of(
        [report(WER[0]), report([0.1, 0.2, 0.33, 0.8]), report([0.1, 0.2, 0.99, 0.42])],
        STEPS,
        LEARNT,
    )
    assert fwt(matrix, alone)[1:] == pytest.approx([0.33 - 0.30, 0.42 - 0.40])


def test_a_language_nobody_evaluated_is_not_a_number(matrix):
    gap = matrix_of(
        [report(WER[0]), report([0.12, 0.20, None, 0.85]), report(WER[2])], STEPS, LEARNT
    )
    assert np.isnan(gap.table(measure="wer")[1, 2]) and np.isnan(awer(gap)[1])
    assert np.isnan(matrix.change()[0, 2:]).all() and matrix.change(measure="wer")[
        2
    ] == pytest.approx([0, 0.04, 0.05, 0])


def test_without_the_bases_languages():
    alone = matrix_of([report([None, None, *row[2:]]) for row in WER], STEPS, {"ky": 1, "ga": 2})
    assert awer(alone)[1:] == pytest.approx([0.30, (0.35 + 0.40) / 2]) and np.isnan(awer(alone)[0])
    assert bwt(alone)[2] == pytest.approx(-0.05) and np.isnan(bwt(alone)[:2]).all()


@pytest.mark.parametrize(
    ("most", "named"), [(1.9, ["en", "de", "ky"]), (2.0, ["de", "ky"]), (4.0, ["ky"]), (5.0, [])]
)
def test_regressions_at_below_and_above_the_limit(matrix, most, named):
    found = regressions(matrix, most)
    assert [r.language for r in found] == named
    if named[:1] == ["en"]:  # the first step that is too bad, though the last is not
        assert (
            found[0].step == "+ ky"
            and str(found[0]) == "en worsened by 2.00 points after + ky: 10.0 to 12.0 %"
        )


def test_zero_shot_is_no_regression(matrix):
    # ga went from 80 to 85 % before it was learnt
    assert regressions(matrix, 0)[-1].language == "ky"


def test_half_a_sequence(matrix):
    half = matrix_of([report(row) for row in WER[:2]], STEPS[:2], LEARNT)
    assert np.isnan(half.change()[:, 3]).all() and awer(half) == pytest.approx(awer(matrix)[:2])
    assert "| + ky | 6.0 (+1.0) | 10.0 | 15.0 | *42.5* |" in to_markdown(half, "make")


def test_what_is_written(matrix, tmp_path):
    write_matrix(tmp_path, matrix, "python add_sequence.py ky ga", alone=matrix)
    again = read_matrix(tmp_path)
    for mode in matrix.rates:
        assert np.array_equal(again.table(mode, "wer"), matrix.table(mode, "wer"))
    assert replace(again, rates=matrix.rates, intervals=matrix.intervals) == matrix
    text = (tmp_path / "matrix.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| + ga")
    ]
    assert rows[0] == ["+ ga", "5.0", "12.0 (+2.0)", "17.5 (+2.5)", "20.0"]  # CER, pipeline known
    assert (
        rows[2][:4] == ["+ ga", "30.7", "30.7", "-3.5"] and "`python add_sequence.py ky ga`" in text
    )
    assert "| base | 5.0 | 10.0 | *45.0* | *40.0* |" in text and "IM" not in text and "FWT" in text
    written = json.loads((tmp_path / "matrix.json").read_text())
    assert (
        written["awer"]["pipeline_aware"] == pytest.approx(awer(matrix))
        and written["bwt"]["agnostic"][0] is None
    )
    assert (
        written["confusion"] == [{"en": {"primary": 4, "ky": 1}}] * 3 and "| en | 4 | 1 |" in text
    )
    assert (tmp_path / "matrix.png").stat().st_size > 10_000 and not list(tmp_path.glob(".*"))


def test_many_languages_are_drawn(tmp_path):
    codes = [f"l{i}" for i in range(29)]
    learnt = {code: max(0, i - 9) for i, code in enumerate(codes)}
    score = {"wer": 0.3, "cer": 0.1, "wer_interval": [0.2, 0.4], "cer_interval": [0.05, 0.2]}
    row = {
        "languages": {
            code: dict.fromkeys(("pipeline_aware", "group_aware", "agnostic"), score)
            for code in codes
        },
        "routing": {"accuracy": None, "confusion": {"l0": {"primary": 0}}},
        "decoded": {},
    }
    many = matrix_of([row] * 20, [f"+ {k}" for k in range(20)], learnt)
    write_matrix(tmp_path, many, "make")
    assert bwt(many)[1:] == pytest.approx([0] * 19)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"steps": []})])
def test_no_matrix(tmp_path, content):
    (tmp_path / "matrix.json").write_text(content)
    with pytest.raises(RunError, match="no matrix of a sequence"):
        read_matrix(tmp_path)


def test_a_run_to_compare_with_is_whole_and_of_its_kind(matrix, tmp_path):
    write_matrix(tmp_path, matrix, "make")
    assert read_finished(tmp_path, "pack", LEARNT).steps == matrix.steps
    with pytest.raises(RunError, match="has no om, or, only "):
        read_finished(tmp_path, "pack", [*LEARNT, "or", "om"])
    with pytest.raises(RunError, match="is a --grow pack run; wanted one of --grow joint"):
        read_finished(tmp_path, "joint", LEARNT)
    half = matrix_of([report(row) for row in WER[:2]], STEPS[:2], LEARNT, "joint")
    write_matrix(tmp_path, half, "make")
    with pytest.raises(RunError, match="not finished: it ends after [+] ky"):
        read_finished(tmp_path, "joint", LEARNT)


def test_steps_of_evaluations_with_more_and_more_packs(matrix):
    reports, packs = [report(row) for row in WER], ([], ["ky"], ["ky", "ga"])
    for k, (one, names) in enumerate(zip(reports, packs, strict=True)):
        one["packs"] = [{"name": name} for name in names]
        for code, row in one["languages"].items():
            row["known"] = LEARNT[code] <= k
    assert (
        steps_of(reports) == (list(STEPS), LEARNT)
        and matrix_of(reports, *steps_of(reports)) == matrix
    )
    assert steps_of(reports[:2])[1] == {
        "en": 0,
        "de": 0,
        "ky": 1,
        "ga": 2,
    }, "what is never known is never learnt"
