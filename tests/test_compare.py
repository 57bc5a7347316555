"""Two reports compared: differences by hand, clips paired by language and id, and a sentence for
what cannot be.
"""

import json
import shlex

import pytest

from dualasr.cli.main import main
from dualasr.errors import RunError
from dualasr.evaluation.compare import compare, to_markdown, write_comparison
from dualasr.metrics import paired_bootstrap, per_sentence_errors


@pytest.fixture
def write(tmp_path):
    """A report of (language, id, ref, hyp) with the same hypothesis in both modes, or (agnostic,
    pipeline-aware).
    """

    def make(name, *clips):
        rows = []
        for language, id, ref, hyp in clips:
            agnostic, aware = (hyp, hyp) if isinstance(hyp, str) else hyp
            rows.append(
                {
                    "id": id,
                    "language": language,
                    "ref": ref,
                    "agnostic": {"hyp": agnostic},
                    "pipeline_aware": {"hyp": aware},
                }
            )
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"languages": {}}))
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.with_suffix(".clips.jsonl").write_text(lines, encoding="utf-8")
        return path

    return make


def test_differences_by_hand(write):
    a = write(
        "a",
        ("ky", "1", "ab cd", "ab cd"),
        ("ky", "2", "ab cd ef", ("ab", "ab cd")),
        ("th", "1", "ที่ ดี", "ที่ดี"),
    )
    b = write(
        "b",
        ("th", "1", "ที่ ดี", "ที ดี"),
        ("ky", "2", "ab cd ef", "xx cd ef"),
        ("ky", "1", "ab cd", "Ab, cd!"),
    )
    found = compare(a, b)
    ky, th = found["languages"]["ky"], found["languages"]["th"]
    assert (ky["n"], th["n"]) == (2, 1)
    # Ky has 5 words and 13 characters: a deletes 2 words and 6 characters, or 1 and 3; b is wrong
    # in 1 word, 2 characters.
    expected = {
        ("agnostic", "wer"): (2 / 5, 1 / 5),
        ("agnostic", "cer"): (6 / 13, 2 / 13),
        ("pipeline_aware", "wer"): (1 / 5, 1 / 5),
        ("pipeline_aware", "cer"): (3 / 13, 2 / 13),
    }
    for (mode, rate), (left, right) in expected.items():
        entry = ky[mode][rate]
        assert (entry["a"], entry["b"], entry["difference"]) == pytest.approx(
            (left, right, left - right)
        )
        assert entry["interval"][0] <= entry["difference"] <= entry["interval"][1]
    # Thai: its space is no character, the tone mark is one of 5.
    assert th["agnostic"]["cer"] == {"a": 0, "b": 0.2, "difference": -0.2, "interval": [-0.2, -0.2]}
    assert found["mean"]["agnostic"]["cer"]["difference"] == pytest.approx((4 / 13 - 0.2) / 2)
    assert found["only_a"] is found["only_b"] is None
    json.dumps(found, allow_nan=False)


def test_intervals_are_paired(write):
    refs = [f"one two three four {'five ' * (k % 4)}".strip() for k in range(30)]
    hyps_a, hyps_b = (
        [ref.replace("two", word) if k % step else ref for k, ref in enumerate(refs)]
        for word, step in (("tow", 2), ("too", 3))
    )
    a, b = (
        write(
            name,
            *(
                ("ky", f"{k:02}", ref, hyp)
                for k, (ref, hyp) in enumerate(zip(refs, hyps, strict=True))
            ),
        )
        for name, hyps in (("a", hyps_a), ("b", hyps_b))
    )
    found = compare(a, b, samples=300, seed=4)
    for rate, unit in (("wer", "word"), ("cer", "character")):
        counts = [per_sentence_errors(refs, hyps, unit) for hyps in (hyps_a, hyps_b)]
        expected = paired_bootstrap(*counts, samples=300, seed=4)
        entry = found["languages"]["ky"]["agnostic"][rate]
        assert (entry["difference"], *entry["interval"]) == pytest.approx(expected)
    assert found == compare(a, b, samples=300, seed=4) != compare(a, b, samples=300, seed=5)
    mean, turned = (
        pair["mean"]["agnostic"]["cer"] for pair in (found, compare(b, a, samples=300, seed=4))
    )
    low, high = mean["interval"]
    assert (turned["difference"], *turned["interval"]) == pytest.approx(
        (-mean["difference"], -high, -low)
    )


def test_clips_of_one_report_only_are_named(write):
    shared = ("ky", "shared", "ab", "ab")
    a = write("a", shared, *(("ky", f"extra-{k}", "ab", "ab") for k in range(7)))
    b = write("b", shared, ("ga", "shared", "ab", "ab"))
    found = compare(a, b)
    assert found["only_a"] == {"n": 7, "first": [f"ky/extra-{k}" for k in range(5)]}
    assert found["only_b"] == {"n": 1, "first": ["ga/shared"]} and list(found["languages"]) == [
        "ky"
    ]
    text = to_markdown(found)
    assert (
        "Only in A: 7 clips (ky/extra-0, ky/extra-1, ky/extra-2, ky/extra-3, ky/extra-4, …)."
        in text
    )
    assert "Only in B: 1 clips (ga/shared)." in text


def test_a_language_without_reference_text_has_no_rate(write):
    a = write("a", ("ky", "1", "...", "ab"), ("ga", "1", "ab", "ac"))
    found = compare(a, a)
    assert found["languages"]["ky"]["agnostic"]["cer"]["difference"] is None
    assert found["mean"]["agnostic"]["cer"]["a"] == 0.5
    assert "| ky | 1 | agnostic | – | – | – | – | – | – |" in to_markdown(found)


def test_a_line_separator_in_a_text_ends_no_line(write):
    a = write("a", ("ky", "1", "ab\u2028cd", "ab\u0085cd"))
    assert compare(a, a)["mean"]["agnostic"]["wer"]["a"] == 0


def test_what_cannot_be_compared(write, tmp_path):
    a = write("a", ("ky", "1", "ab", "ab"))
    with pytest.raises(RunError, match=r"Clip '1' \(ky\) has another reference"):
        compare(a, write("b", ("ky", "1", "abc", "ab")))
    with pytest.raises(RunError, match="no clip in common"):
        compare(a, write("b", ("ga", "1", "ab", "ab")))
    with pytest.raises(RunError, match=r"b.clips.jsonl:2 is the second clip '1' \(ky\)"):
        compare(a, write("b", ("ky", "1", "ab", "ab"), ("ky", "1", "ab", "ab")))
    with pytest.raises(RunError, match=r"a.clips.jsonl:1 has no 'group_aware'.*--mode"):
        compare(a, a, ["group_aware"])
    with pytest.raises(RunError, match="Cannot read .*nowhere.json: No such file"):
        compare(a, tmp_path / "nowhere.json")
    b = write("b", ("ky", "1", "ab", "ab"))
    for content in ("no JSON", "[]", "{}", b"\xff\xfe"):
        b.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(RunError, match="no report"):
            compare(a, b)
    b.with_suffix(".clips.jsonl").unlink()
    b.write_text('{"languages": {}}')
    with pytest.raises(RunError, match="b.clips.jsonl, belong beside it"):
        compare(a, b)


def test_the_command(write, tmp_path, capsys):
    a, b = write("a", ("ky", "1", "ab cd", "ab cd")), write("b", ("ky", "1", "ab cd", "ab xx"))
    out = tmp_path / "new" / "diff.json"
    assert main(["compare", str(a), str(b), "--mode", "agnostic", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        "| ky | 1 | agnostic | 0.00 | 40.00 | -40.00 (-40.00 to -40.00) | 0.00 | 50.00 | -50.00 ("
        in printed
    )
    assert "pipeline-aware" not in printed
    written = json.loads(out.read_text())
    command = written.pop("command")
    assert written == compare(a, b, ["agnostic"]) and [*out.parent.iterdir()] == [out]
    first = out.read_bytes()
    out.unlink()
    assert main(shlex.split(command)[1:]) == 0 and out.read_bytes() == first
    capsys.readouterr()
    assert main(["compare", str(a), str(tmp_path / "none.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dualasr: Cannot read") and "Traceback" not in error


def test_a_comparison_that_cannot_be_written(write, tmp_path):
    a = write("a", ("ky", "1", "ab", "ab"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="Cannot write .*taken"):
        write_comparison(tmp_path / "taken", compare(a, a))
    assert not list(tmp_path.glob("*.part"))
