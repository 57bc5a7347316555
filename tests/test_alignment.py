"""Word times from CTC: known paths (those of the primary on real sound: test_word_times.py)."""

import numpy as np
import pytest
import torch

from dualasr.model.tokenizer import PackTokenizer
from dualasr.transcription.alignment import LAG, align_words, mark_characters, split_words

TEXT = "кар тоо"


@pytest.fixture(scope="module")
def tokenizer():
    return PackTokenizer.train(["кар тоо суу"], ("ky",))


def emissions(tokenizer, path: str, sure: float = 0.9) -> torch.Tensor:
    """Log-probabilities of a path, `_` for blank: (frames, blank + characters)."""
    units = [0 if c == "_" else tokenizer.encode_characters(c)[0] for c in path]
    size = len(tokenizer.characters) + 1
    probs = torch.full((len(path), size), (1 - sure) / (size - 1))
    probs[range(len(path)), units] = sure
    return probs.log()


def test_marks_are_the_path(tokenizer):
    marks = mark_characters(emissions(tokenizer, "__кк_а_р_ _т_о_оо_"), TEXT, tokenizer)
    assert [(m.index, m.first, m.end) for m in marks] == [
        (0, 2, 4),
        (1, 5, 6),
        (2, 7, 8),
        (3, 9, 10),
        (4, 11, 12),
        (5, 13, 14),
        (6, 15, 17),
    ]
    assert all(m.probability == pytest.approx(0.9) for m in marks)


def test_a_mark_has_the_probability_of_its_surest_frame(tokenizer):
    log_probs = emissions(tokenizer, "_ккк_а__р_")
    log_probs[2], log_probs[3] = (
        emissions(tokenizer, "кк", 0.99)[0],
        emissions(tokenizer, "к", 0.7)[0],
    )
    marks = mark_characters(log_probs, "кXар", tokenizer)
    # X is unknown
    assert [(m.index, m.first, m.end) for m in marks] == [(0, 1, 4), (2, 5, 6), (3, 8, 9)]
    assert [m.probability for m in marks] == pytest.approx([0.99, 0.9, 0.9])


def test_words_begin_at_the_space_and_end_with_their_last_letter(tokenizer):
    first, second = align_words(
        emissions(tokenizer, "____к_а_р_ _т_о_о_"), TEXT, tokenizer, 0.02, 0.5
    )
    assert (first.word, second.word) == ("кар", " тоо") and not first.shared
    assert first.start == pytest.approx(4 * 0.02 - LAG) and first.end == pytest.approx(9 * 0.02)
    assert second.start == pytest.approx(10 * 0.02) and second.end == pytest.approx(17 * 0.02)
    assert first.probability == pytest.approx(0.9)


def test_a_word_without_a_space_before_it_begins_before_its_mark(tokenizer):
    """45 ms before the mark of its first letter, not before 0, and not before the last one ends."""
    for path, start in (("____к_а_р_", 0.035), ("___к_а_р_", 0.015), ("_к_а_р_", 0.0)):
        [word] = align_words(emissions(tokenizer, path), "кар", tokenizer, 0.02, 0.5)
        assert word.start == pytest.approx(start)
    for path, start in (("_к____т_", 0.12 - 0.045), ("_к_т_", 0.04)):
        _, second = align_words(emissions(tokenizer, path), "кт", tokenizer, 0.02, 0.5, "character")
        assert second.start == pytest.approx(start)


def test_a_word_that_the_head_cannot_spell_shares_the_gap(tokenizer):
    spans = align_words(
        emissions(tokenizer, "к_а_р__ _____ _т_о_о_"), "кар QX 77 тоо", tokenizer, 0.02, 0.5
    )
    assert [span.shared for span in spans] == [False, True, True, False]
    kar, qx, seven, too = spans
    assert (
        qx.start == kar.end
        and qx.end == pytest.approx(seven.start)
        and seven.end == pytest.approx(too.start)
    )
    assert qx.end - qx.start == pytest.approx(seven.end - seven.start)


@pytest.mark.parametrize("text, path", [("кар тоо", "кар"), ("abc def", "____"), ("оо", "оо")])
def test_where_nothing_can_be_aligned_words_share_the_window_evenly(tokenizer, text, path):
    """Too few frames, no known character, no frame left for the blank between two alike."""
    spans = align_words(emissions(tokenizer, path), text, tokenizer, 0.02, 3.0)
    assert all(span.shared and span.probability is None for span in spans)
    assert [span.start for span in spans] == pytest.approx(np.linspace(0, 3, len(spans) + 1)[:-1])
    assert spans[-1].end == pytest.approx(3.0) and "".join(s.word for s in spans) == text


@pytest.mark.parametrize(
    "text, unit, words",
    [
        ("Cad é, an?", "word", ["Cad", " é,", " an?"]),
        ("  кар \n тоо ", "word", ["  кар", " \n тоо "]),
        ("", "word", []),
        ("ฟ้าใส.", "character", ["ฟ้", "า", "ใ", "ส."]),
        ("你好, 世界", "character", ["你", "好,", " 世", "界"]),
        ("«你»", "character", ["«", "你»"]),
    ],
)
def test_words_are_split_with_the_space_before_them(text, unit, words):
    assert [text[a:b] for a, b in split_words(text, unit)] == words
