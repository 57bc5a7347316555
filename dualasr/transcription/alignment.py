"""When each word of a transcript was said: CTC forced alignment on a pack's character head.

CTC marks a character by a frame or two inside it. The mark of the space before a word stands where
the word begins; a word without one before it begins a little before its first character's mark, and
ends with the mark of its last letter.
"""

import logging
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import median_filter

from dualasr.audio.load import SAMPLE_RATE, SHORTEST, split_windows
from dualasr.audio.torchaudio_fault import torchaudio_fault
from dualasr.errors import AlignmentError, RunError
from dualasr.model.dual_whisper import DualWhisper, WindowResult
from dualasr.model.language_id import EncodedAudio, PackEncoding, encode
from dualasr.model.selector import PRIMARY
from dualasr.model.tokenizer import PackTokenizer
from dualasr.text import scoring_unit
from dualasr.transcription.transcript import Word

FILTER_WIDTH = 7  # frames

# s from where a character begins to its mark: the median over four packs, of 30 clips each
LAG = 0.045


@dataclass(frozen=True)
class Mark:
    """Where CTC says a character: its place in the text, frames `first` to `end` (not with it), its
    highest probability.
    """

    index: int
    first: int
    end: int
    probability: float


def check_alignment() -> None:
    """Raise AlignmentError where forced alignment cannot run."""
    if fault := torchaudio_fault():
        raise AlignmentError(f"{fault}, or transcribe without word times.")


def align_words(
    log_probs: torch.Tensor,
    text: str,
    tokenizer: PackTokenizer,
    frame_s: float,
    seconds: float,
    unit: Literal["word", "character"] = "word",
) -> tuple[Word, ...]:
    """The words of a text in a window of so many seconds, in order and without overlap; joined they
    are the text.

    log_probs (frames, blank + characters) of the clip's own frames; a frame lasts `frame_s`
    seconds. A word's probability is the mean of its marks'. A word is `shared` where it has no
    character that the head knows, or no alignment of the text fits the sound: it shares the time
    between its neighbours evenly. Raises AlignmentError where torchaudio cannot be loaded.
    """
    places = split_words(text, unit)
    marks = mark_characters(log_probs, text, tokenizer) or ()
    words: list[Word | None] = []
    for first, last in places:
        mine = [
            k
            for k, mark in enumerate(marks)
            if first <= mark.index < last and _is_letter(text[mark.index])
        ]
        if not mine:
            words.append(None)
            continue
        before = marks[mine[0] - 1] if mine[0] else None
        begins = marks[mine[0]].first * frame_s - LAG
        if before is not None:
            begins = (
                before.first * frame_s
                if text[before.index].isspace()
                else max(begins, before.end * frame_s)
            )
        earlier = next((word.end for word in reversed(words) if word), 0.0)
        begins = min(max(begins, earlier), seconds)
        ends = min(max(marks[mine[-1]].end * frame_s, begins), seconds)
        probability = sum(marks[k].probability for k in mine) / len(mine)
        words.append(Word(begins, ends, text[first:last], probability, False))
    texts = [text[first:last] for first, last in places]
    return tuple(_share(words, texts, seconds))


def split_words(text: str, unit: Literal["word", "character"]) -> list[tuple[int, int]]:
    """First character of each word and the one after its last: the space before a word is part of
    it, as Whisper has it.

    Where a language is written without spaces every letter with its marks is a word, with the
    punctuation after it.
    """
    starts = [
        i for i, c in enumerate(text) if not c.isspace() and (i == 0 or text[i - 1].isspace())
    ]
    if unit == "character":
        starts = sorted(
            {*starts[:1], *(i for i, c in enumerate(text) if unicodedata.category(c)[0] in "LN")}
        )
    if not starts:
        return []
    while any(text[i - 1].isspace() for i in starts[1:]):
        starts = [i - 1 if i and text[i - 1].isspace() else i for i in starts]
    return list(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


def mark_characters(
    log_probs: torch.Tensor, text: str, tokenizer: PackTokenizer
) -> tuple[Mark, ...] | None:
    """The most likely marks of the characters that the head knows; None where there is none, or too
    few frames for them.
    """
    units = tokenizer.encode_characters(text)
    known = [i for i, c in enumerate(text) if tokenizer.encode_characters(c)]
    repeats = sum(a == b for a, b in zip(units, units[1:], strict=False))
    if not units or len(log_probs) < len(units) + repeats:
        return None
    check_alignment()
    from torchaudio.functional import forced_align, merge_tokens

    path, scores = forced_align(log_probs.float().cpu().unsqueeze(0), torch.tensor([units]))
    likely = scores[0].exp()
    # a run of frames with the same character each, none of blanks
    spans = merge_tokens(path[0], likely)
    return tuple(
        Mark(i, span.start, span.end, float(likely[span.start : span.end].max()))
        for i, span in zip(known, spans, strict=True)
    )


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _share(words: list[Word | None], texts: list[str], seconds: float) -> list[Word]:
    """Words without a time share the gap between their neighbours evenly."""
    filled: list[Word] = []
    for k, word in enumerate(words):
        if word is None:
            run = next((j for j in range(k, len(words)) if words[j]), len(words)) - k
            start = filled[-1].end if filled else 0.0
            end = words[k + run].start if k + run < len(words) else seconds
            word = Word(start, start + (end - start) / run, texts[k], None, True)
        filled.append(word)
    return filled


def warp_words(
    weights: torch.Tensor,
    probabilities: torch.Tensor,
    words: Sequence[tuple[str, int]],
    frame_s: float,
    seconds: float,
) -> tuple[Word, ...]:
    """The words of a window of so many seconds, in order and without overlap.

    weights (heads, tokens + 1, frames) over the clip's own frames, the last row the end token's;
    probabilities (tokens,); words as text and number of tokens, of which there are as many as
    tokens in all. A word's probability is the mean of its tokens'.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    scores = ((weights - mean) / spread.clamp_min(1e-9)).cpu().numpy()
    smooth = median_filter(scores, (1, 1, FILTER_WIDTH), mode="mirror")
    tokens, frames = warp(-smooth.mean(0))
    first = np.flatnonzero(np.diff(tokens, prepend=-1))  # where the path comes to each token
    starts = frames[first] * frame_s
    found, at, likely = [], 0, probabilities.tolist()
    for text, count in words:
        begins, ends = (min(float(starts[place]), seconds) for place in (at, at + count))
        found.append(Word(begins, ends, text, sum(likely[at : at + count]) / count, False))
        at += count
    return tuple(found)


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the cheapest way through a matrix from its first cell to its last (dynamic time
    warping).

    A step goes to the next row, the next column, or both. Of steps that cost the same, the
    one to both is taken before the one to the next column, and this before the next row.

    Args:
        cost: of each cell, no NaN; shape (rows, columns).

    Returns:
        The row and the column of each cell on the way, int, shape (cells,) each.

    Raises:
        RunError: numba, which compiles librosa, finds no folder to keep the result in.
    """
    try:
        from librosa.sequence import dtw  # takes seconds to import
    except RuntimeError as error:
        raise RunError(
            f"Cannot load librosa, which finds the times of words: {error}. Set NUMBA_CACHE_DIR to"
            " a folder that can be written to."
        ) from error

    _, backwards = dtw(C=cost)
    rows, columns = backwards[::-1].T
    return rows, columns


def words_of(
    model: DualWhisper,
    audio: EncodedAudio,
    results: Sequence[WindowResult],
    task: str = "transcribe",
    *,
    rows: Collection[int] | None = None,
    encodings: Mapping[str, PackEncoding] = MappingProxyType({}),
    required: bool = True,
) -> list[tuple[Word, ...]]:
    """Return the words of each window, in seconds of the window.

    The primary's come from its decoder's cross-attention, a pack's from CTC forced alignment on its
    character head.

    Args:
        model: The model that wrote the results.
        audio: The windows as it encoded them. results: One a window. task: "transcribe" or
        "translate", as the primary was asked. rows: The windows whose words are wanted; None for
        all. The others get (). encodings: By pack, the encoder output that was computed to decode;
        what is missing is computed here. required: False leaves a pack's windows without words, and
        logs a warning once, where torchaudio cannot be loaded.

    Raises:
        AlignmentError: torchaudio cannot be loaded, and a pack's words are required.
    """
    found: list[tuple[Word, ...]] = []
    for i, result in enumerate(results):
        wanted = rows is None or i in rows
        possible = required or result.route == PRIMARY or _can_align()
        found.append(
            _words(model, audio, i, result, task, encodings) if wanted and possible else ()
        )
    return found


@cache
def _can_align() -> bool:
    """Whether packs have word times here. The first call logs a warning where they have none."""
    if fault := torchaudio_fault():
        message = "What a pack writes is not cut into sentences: %s."
        logging.getLogger("dualasr").warning(message, fault)
    return not fault


def _words(
    model: DualWhisper,
    audio: EncodedAudio,
    row: int,
    result: WindowResult,
    task: str,
    encodings: Mapping[str, PackEncoding],
) -> tuple[Word, ...]:
    text, seconds = result.text.strip(), audio.seconds[row]
    if not text:
        return ()
    if result.route != PRIMARY:
        pack = model.pack(result.route)
        encoding = encodings.get(result.route)
        if encoding is None or row not in encoding.rows:
            encoding = encode(pack, audio, [row])
        encoded, lengths = encoding.of([row])
        secondary = pack.secondary
        frames = secondary.ctc_log_probs(encoded)[0, : int(lengths[0])]
        return align_words(
            frames,
            text,
            secondary.tokenizer,
            secondary.frame_s,
            seconds,
            scoring_unit(result.language),
        )
    backbone = model.backbone
    tokens = backbone.text_tokens(result.tokens)
    weights, probabilities = backbone.attend(
        audio.encoded[row : row + 1], result.language, tokens, task
    )
    frame_s = backbone.window_s / backbone.positions
    words = backbone.token_words(tokens, result.language)
    return warp_words(weights[..., : audio.frames[row]], probabilities, words, frame_s, seconds)


def words_of_clip(
    model: DualWhisper, samples: np.ndarray, results: Sequence[WindowResult]
) -> tuple[Word, ...]:
    """Find the words of a clip that was transcribed before, window by window; nothing is decoded
    again.

    Args:
        model: What transcribed it.
        samples: float32, shape (samples,), 16 kHz.
        results: Of its windows, as `split_windows` cuts them; those shorter than 25 ms have none.

    Returns:
        The words in order, in seconds of the clip.
    """
    ranges = [
        (a, b) for a, b in split_windows(samples, model.backbone.window_s) if b - a >= SHORTEST
    ]
    words = []
    for (first, last), result in zip(ranges, results, strict=True):
        at = first / SAMPLE_RATE
        [found] = words_of(model, model.encode_audio([samples[first:last]]), [result])
        words += [replace(word, start=at + word.start, end=at + word.end) for word in found]
    return tuple(words)
