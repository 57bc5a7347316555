"""Find stretches of a window in which somebody speaks, and for which the transcript has no words.

Whisper sometimes ends the text of a window early, or passes over a sentence in it: one that is much
quieter than the others, or in another language. Such a stretch is heard again by itself
(`transcription.transcribe`). The times of the words show where it is: words are missing between two
words that are far apart, and inside a word that takes longer than anybody speaks it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from dualasr.audio.load import SAMPLE_RATE
from dualasr.model.dual_whisper import DualWhisper, WindowResult
from dualasr.model.selector import PRIMARY
from dualasr.transcription.transcript import Word

LEAST_S = 1.0  # shortest gap, in seconds
LEAST_SPEECH_S = 0.6  # least speech in a gap, in seconds
LEAST_LETTERS_S = 3.0  # fewest letters of speech a second
FRAME = SAMPLE_RATE // 50  # samples of a frame whose level is measured
LOUDER_DB = 10.0  # speech is so much louder than the quiet frames of its gap
FAINT_DB = -70.0  # and louder than this, relative to full scale
SILENT_DB = -90.0  # frames below are digital silence, which says nothing of the background
SENTENCE_MARKS = tuple(".!?…。！？؟۔।॥")


@dataclass(frozen=True)
class Gap:
    """A stretch of a window that has speech and no words.

    Attributes:
        start: Seconds from the beginning of the window.
        end: Seconds from the beginning of the window.
        word: Number of words before it.
    """

    start: float
    end: float
    word: int


def find_gaps(samples: np.ndarray, words: Sequence[Word]) -> list[Gap]:
    """Find the gaps of a window.

    Args:
        samples: The window, float32, shape (samples,), 16 kHz.
        words: Its words in order, in seconds of the window; at least one.

    Returns:
        The gaps in order: at least `LEAST_S` long, with at least `LEAST_SPEECH_S` of speech.
    """
    found = []
    for start, end, word in _uncovered(words, len(samples) / SAMPLE_RATE):
        if end - start >= LEAST_S:
            stretch = samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            if speech_s(stretch) >= LEAST_SPEECH_S:
                found.append(Gap(start, end, word))
    return found


def speech_s(samples: np.ndarray) -> float:
    """Return how many seconds of a sound may be speech, by its level.

    A frame may be speech if it is `LOUDER_DB` louder than the quietest tenth of the frames that
    are not digital silence.

    Args:
        samples: float32, shape (samples,), 16 kHz.
    """
    count = len(samples) // FRAME
    if not count:
        return 0.0
    power = np.square(samples[: count * FRAME].reshape(count, FRAME), dtype=np.float64).mean(1)
    levels = 10 * np.log10(power + 1e-12)
    levels = levels[levels > SILENT_DB]
    if not len(levels):
        return 0.0
    limit = max(float(np.quantile(levels, 0.1)) + LOUDER_DB, FAINT_DB)
    return float((levels > limit).sum()) * FRAME / SAMPLE_RATE


def is_speech(text: str, seconds: float) -> bool:
    """Return whether the transcript of a gap is long enough to be what was said there.

    Of noise and breath Whisper writes "Thank you." or "...".

    Args:
        text: The transcript.
        seconds: Length of the gap.
    """
    return sum(char.isalnum() for char in text) >= LEAST_LETTERS_S * seconds


def _longest_s(*words: Word) -> float:
    """Return how long words take at most that are spoken slowly, in seconds."""
    return sum(0.4 + 0.1 * sum(char.isalnum() for char in word.word) for word in words)


def _uncovered(words: Sequence[Word], seconds: float) -> list[tuple[float, float, int]]:
    """Return the stretches without words as (start, end, number of words before).

    A word that takes `LEAST_S` longer than `_longest_s` hides a gap. It was spoken at the beginning
    of its time if it ends a sentence, and at its end if it begins one; else either is possible, and
    both are kept. Neighbours of this kind are taken together.
    """
    stretched = [word.end - word.start > _longest_s(word) + LEAST_S for word in words]
    covered: list[tuple[float, float, int]] = []  # start, end, number of words up to here
    for alike, group in groupby(range(len(words)), key=stretched.__getitem__):
        rows = list(group)
        if not alike:
            covered += [(words[k].start, words[k].end, k + 1) for k in rows]
            continue
        first, last = rows[0], rows[-1] + 1
        split = _sentence_split(words, first, last)
        early = _longest_s(*words[first : last if split is None else split])
        late = _longest_s(*words[first if split is None else split : last])
        from_s, to_s = words[first].start, words[last - 1].end
        covered.append((from_s, min(from_s + early, to_s), first if split is None else split))
        covered.append((max(to_s - late, from_s), to_s, last))
    found: list[tuple[float, float, int]] = []
    at, before = 0.0, 0
    for start, end, count in covered:
        if start > at:
            found.append((at, start, before))
        at, before = max(at, end), count
    if seconds > at:
        found.append((at, seconds, before))
    return found


def _sentence_split(words: Sequence[Word], first: int, end: int) -> int | None:
    """Return where stretched words are split: those before were spoken early, the others late.

    None if neither the end of a sentence nor of the window tells.
    """
    for k in reversed(range(first - 1, end)):
        if k >= 0 and words[k].word.rstrip().endswith(SENTENCE_MARKS):
            return k + 1
    return first if first == 0 else end if end == len(words) else None


def part_of(
    model: DualWhisper,
    result: WindowResult,
    words: Sequence[Word],
    rows: range,
    start: float,
) -> tuple[WindowResult, tuple[Word, ...]]:
    """Return a part of a window's transcript, as that of a window of its own.

    Args:
        model: The model that wrote it.
        result: The transcript of the window.
        words: All its words, in seconds of the window.
        rows: Numbers of the words of the part.
        start: Where the part begins, in seconds of the window.

    Returns:
        The part's transcript, whose timestamps count from its beginning, and its words.
    """
    mine = tuple(
        replace(word, start=max(0.0, word.start - start), end=max(0.0, word.end - start))
        for word in words[rows.start : rows.stop]
    )
    text = "".join(word.word for word in mine).strip()
    if result.route != PRIMARY:
        tokens = tuple(model.pack(result.route).secondary.tokenizer.encode(text))
        return replace(result, text=text, tokens=tokens), mine
    backbone = model.backbone
    times, shift = backbone.special_ids.times, round(start / backbone.frame_s)
    counts = [
        n for _, n in backbone.token_words(backbone.text_tokens(result.tokens), result.language)
    ]
    first, last = sum(counts[: rows.start]), sum(counts[: rows.stop])
    kept: list[int] = []
    seen = 0
    for i, token in enumerate(result.tokens):
        if token not in times:
            if first <= seen < last:
                kept.append(token)
            seen += 1
        elif (
            first < seen < last
            or (seen == first and _opens(result.tokens, i, times))
            or (seen == last and not _opens(result.tokens, i, times))
        ):
            kept.append(max(times.start, token - shift))
    return replace(result, text=text, tokens=tuple(kept)), mine


def _opens(tokens: Sequence[int], place: int, times: range) -> bool:
    """Whether a timestamp stands before text, and not after."""
    return place + 1 < len(tokens) and tokens[place + 1] not in times
