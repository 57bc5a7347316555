"""References without text: how many there are, and what the rates are without them."""

import pytest

from dualasr.evaluation.report_sections import sections
from dualasr.evaluation.scoring import MODES, ClipResult, ModeResult, empty_references_of


def clip(ref, hyp, language="ky"):
    """A clip whose transcript is the same in two modes; agnostic adds a word of one letter."""
    said = ModeResult(hyp, "primary", language, "")
    more = ModeResult(f"{hyp} x".strip(), "primary", language, "")
    return ClipResult(
        id=ref,
        language=language,
        ref=ref,
        seconds=1.0,
        windows=1,
        pipeline_aware=said,
        group_aware=said,
        agnostic=more,
        confidence=None,
    )


CLIPS = {
    "ky": [clip("Ат суу.", "ат"), clip("—!", "ат ат"), clip("[күлүү]", "күл")],
    "ga": [clip("Tá.", "tá", "ga")],
    "or": [clip("...", "", "or")],
}


def test_rates_without_empty_references_by_hand():
    """Marks keep the word in brackets, Whisper's normaliser drops it."""
    found = empty_references_of(CLIPS)
    assert list(found) == ["ky", "or"], "a language without such clips is not there"
    ky = found["ky"]
    assert ky["marks"]["n"] == 1 and ky["whisper"]["n"] == 2
    # marks: "ат суу", "күлүү" against "ат", "күл": 2 of 3 words, 4 + 2 of 6 + 5 characters
    for mode in ("pipeline_aware", "group_aware"):
        assert ky["marks"][mode] == pytest.approx({"wer": 2 / 3, "cer": 6 / 11})
    # "ат x", "күл x": the x takes the place of a word and of a letter, or is one too much
    assert ky["marks"]["agnostic"]["wer"] == pytest.approx(3 / 3)
    # whisper: "ат суу" alone, against "ат": 1 of 2 words, 4 of 6 characters
    assert ky["whisper"]["pipeline_aware"] == pytest.approx({"wer": 1 / 2, "cer": 4 / 6})
    nothing = {mode: {"wer": None, "cer": None} for mode in MODES}
    assert found["or"] == {"marks": {"n": 1, **nothing}, "whisper": {"n": 1, **nothing}}
    assert empty_references_of({"ga": CLIPS["ga"]}) == {}


def report(**more):
    """The least that the sections of a report need."""
    rates = {"wer": 0.5, "cer": 0.25, "wer_interval": None, "cer_interval": None}
    rates["whisper"] = {"wer": 0.75, "cer": 0.5}
    modes = dict.fromkeys(MODES, rates)
    entry = {"n": 3, "pipeline": "primary", "known": True, "unit": "word", **modes}
    return {
        "languages": {"ky": entry, "ga": entry | {"n": 1}},
        "mean": modes,
        "routing": {
            "accuracy": 1.0,
            "language_accuracy": 1.0,
            "confusion": {"ky": {"primary": 3}, "ga": {"primary": 1}},
        },
        "packs": [],
        "base": {"name": "micro"},
        "settings": {},
        "skipped": [],
        "seconds": 1.0,
        "real_time_factor": None,
        **more,
    }


def empty(**more):
    return [section for section in sections(report(**more)) if section.key == "empty"]


def test_the_report_says_how_many_are_empty():
    [section] = empty(empty_references={"ky": empty_references_of(CLIPS)["ky"]})
    assert "1 of 4 with the mark-safe normaliser, 2 with Whisper's" in section.text
    assert section.head[3:] == ("empty", "CER, all", "CER, without", "WER, all", "WER, without")
    assert ("ky", "mark-safe", "pipeline-aware", "1", "25.00", "54.55", "50.00", "66.67") in (
        section.rows
    )
    assert ("ky", "Whisper's", "pipeline-aware", "2", "50.00", "66.67", "75.00", "50.00") in (
        section.rows
    )
    assert len(section.rows) == 2 * len(MODES)
    [none] = empty(empty_references={})
    assert "0 of 4" in none.text and not none.head
    assert empty() == [], "a report of an earlier version does not say"
