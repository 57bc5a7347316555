"""When each word of a transcript was said: CTC forced alignment on a pack's character head.

CTC marks a character by a frame or two inside it. The mark of the space before a word stands where the word begins; a word
without one before it begins a little before its first character's mark, and ends with the mark of its last letter.
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

import torch
from torchaudio.functional import forced_align

from dualasr.tokenizer import PackTokenizer

LAG = 0.045  # s from where a character begins to its mark: the median over four packs, of 30 clips each


@dataclass(frozen=True)
class Span:
    """A word: characters `first` to `last` of its text, the seconds of the window, and the mean probability of its marks.

    probability is None where the time is not heard but shared out: the word has no character that the head knows, or no
    alignment of the text fits the sound.
    """

    first: int
    last: int
    start: float
    end: float
    probability: float | None


@dataclass(frozen=True)
class Mark:
    """Where CTC says a character: its place in the text, frames `first` to `end` (not with it), its highest probability."""

    index: int
    first: int
    end: int
    probability: float


def align_words(log_probs: torch.Tensor, text: str, tokenizer: PackTokenizer, frame_s: float, seconds: float,
                unit: Literal["word", "character"] = "word") -> tuple[Span, ...]:  # fmt: skip
    """The words of a text in a window of so many seconds, in order and without overlap; its space goes to the word after it.

    log_probs (frames, blank + characters) of the clip's own frames; a frame lasts `frame_s` seconds.
    """
    words = split_words(text, unit)
    marks = mark_characters(log_probs, text, tokenizer) or ()
    spans: list[Span | None] = []
    for first, last in words:
        mine = [k for k, mark in enumerate(marks) if first <= mark.index < last and _is_letter(text[mark.index])]
        if not mine:
            spans.append(None)
            continue
        before = marks[mine[0] - 1] if mine[0] else None
        start = marks[mine[0]].first * frame_s - LAG
        if before is not None:
            start = before.first * frame_s if text[before.index].isspace() else max(start, before.end * frame_s)
        earlier = next((span.end for span in reversed(spans) if span), 0.0)
        start = min(max(start, earlier), seconds)
        end = min(max(marks[mine[-1]].end * frame_s, start), seconds)
        spans.append(Span(first, last, start, end, sum(marks[k].probability for k in mine) / len(mine)))
    return _fill(spans, words, seconds)


def split_words(text: str, unit: Literal["word", "character"]) -> list[tuple[int, int]]:
    """First character of each word and the one after its last: the space before a word is part of it, as Whisper has it.

    Where a language is written without spaces every letter with its marks is a word, with the punctuation after it.
    """
    starts = [i for i, c in enumerate(text) if not c.isspace() and (i == 0 or text[i - 1].isspace())]
    if unit == "character":
        starts = sorted({*starts[:1], *(i for i, c in enumerate(text) if unicodedata.category(c)[0] in "LN")})
    if not starts:
        return []
    while any(text[i - 1].isspace() for i in starts[1:]):
        starts = [i - 1 if i and text[i - 1].isspace() else i for i in starts]
    return list(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


def mark_characters(log_probs: torch.Tensor, text: str, tokenizer: PackTokenizer) -> tuple[Mark, ...] | None:
    """The most likely marks of the characters that the head knows; None where there is none, or too few frames for them."""
    units = tokenizer.encode_characters(text)
    known = [i for i, c in enumerate(text) if tokenizer.encode_characters(c)]
    repeats = sum(a == b for a, b in zip(units, units[1:], strict=False))
    if not units or len(log_probs) < len(units) + repeats:
        return None
    path, scores = forced_align(log_probs.float().cpu().unsqueeze(0), torch.tensor([units]))
    marks: list[Mark] = []
    before = 0
    for frame, (unit, score) in enumerate(zip(path[0].tolist(), scores[0].exp().tolist(), strict=True)):
        if unit and unit == before:
            mark = marks.pop()
            marks.append(Mark(mark.index, mark.first, frame + 1, max(mark.probability, score)))
        elif unit:
            marks.append(Mark(known[len(marks)], frame, frame + 1, score))
        before = unit
    return tuple(marks)


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _fill(spans: list[Span | None], words: list[tuple[int, int]], seconds: float) -> tuple[Span, ...]:
    """Words without a time share the gap between their neighbours evenly."""
    filled: list[Span] = []
    for k, span in enumerate(spans):
        if span is None:
            run = next((j for j in range(k, len(spans)) if spans[j]), len(spans)) - k
            start = filled[-1].end if filled else 0.0
            end = spans[k + run].start if k + run < len(spans) else seconds
            span = Span(*words[k], start, start + (end - start) / run, None)
        filled.append(span)
    return tuple(filled)
