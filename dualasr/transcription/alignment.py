"""Times of the words of a transcript.

Two methods, one for each pipeline:

- A pack's words come from CTC forced alignment on its character head (`align_words`). CTC marks a
  character in one or two frames somewhere inside it. A word begins at the mark of the space before
  it. A word without a space before it begins `LAG` before the mark of its first letter. A word
  ends at the end of the mark of its last letter.
- The primary's words come from its decoder's cross-attention and dynamic time warping
  (`warp_words`), as in openai-whisper's `timing.py`.
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
from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.language_id import EncodedAudio, PackEncoding, encode
from dualasr.model.selector import PRIMARY
from dualasr.model.tokenizer import PackTokenizer
from dualasr.text import scoring_unit
from dualasr.transcription.transcript import Word

FILTER_WIDTH = 7  # frames of the median filter over attention weights, as in openai-whisper

# Seconds from the beginning of a character to its CTC mark: the median over four packs with 30
# clips each.
LAG = 0.045


@dataclass(frozen=True)
class Mark:
    """The frames that CTC assigns to one character.

    Attributes:
        index: Index of the character in the text.
        first: Its first frame.
        end: The frame after its last.
        probability: The highest probability of the character in these frames.
    """

    index: int
    first: int
    end: int
    probability: float


def check_alignment() -> None:
    """Check that forced alignment can run here.

    Raises:
        AlignmentError: torchaudio cannot be loaded.
    """
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
    """Find the time of each word of a window by CTC forced alignment.

    1. Align the characters of the text with the frames (`mark_characters`).
    2. Begin a word at the mark of the space before it. Without a space, begin `LAG` before the
       mark of its first letter, but not before the character before it ends.
    3. End a word with the mark of its last letter.
    4. Give words without any mark the time between their neighbours, in equal shares.

    Args:
        log_probs: Of the character head, over the frames of the clip without padding; shape
            (frames, 1 + characters), the blank first.
        text: The transcript of the window.
        tokenizer: The pack's.
        frame_s: Seconds of a frame.
        seconds: Length of the window; no word ends later.
        unit: What counts as a word (`split_words`).

    Returns:
        The words in order, without overlap, in seconds of the window; their texts joined are the
        text. A word's probability is the mean over its letters. A word is `shared` if it has no
        character that the head knows, or if the text does not fit into the frames.

    Raises:
        AlignmentError: torchaudio cannot be loaded.
    """
    places = split_words(text, unit)
    marks = mark_characters(log_probs, text, tokenizer) or ()
    words: list[Word | None] = []
    for first, last in places:
        letters = [
            k
            for k, mark in enumerate(marks)
            if first <= mark.index < last and _is_letter(text[mark.index])
        ]
        if not letters:
            words.append(None)
            continue
        before = marks[letters[0] - 1] if letters[0] else None
        start = marks[letters[0]].first * frame_s - LAG
        if before is not None:
            start = (
                before.first * frame_s
                if text[before.index].isspace()
                else max(start, before.end * frame_s)
            )
        earlier = next((word.end for word in reversed(words) if word), 0.0)
        start = min(max(start, earlier), seconds)
        end = min(max(marks[letters[-1]].end * frame_s, start), seconds)
        probability = sum(marks[k].probability for k in letters) / len(letters)
        words.append(Word(start, end, text[first:last], probability, False))
    texts = [text[first:last] for first, last in places]
    return tuple(_share(words, texts, seconds))


def split_words(text: str, unit: Literal["word", "character"]) -> list[tuple[int, int]]:
    """Cut a text into words. The space before a word is part of it, as in Whisper.

    Args:
        text: A transcript.
        unit: "word" cuts at spaces. "character", for languages that are written without spaces,
            makes each letter a word, with its combining marks and the punctuation after it.

    Returns:
        For each word the index of its first character and the index after its last.
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
    """Align the characters of a text with frames: the most likely CTC path.

    Args:
        log_probs: Of the character head; shape (frames, 1 + characters).
        text: What to align.
        tokenizer: The pack's; characters that it does not know are left out.

    Returns:
        A mark for each known character. None if no character is known, or if there are fewer
        frames than CTC needs: one for each character, and a blank between two equal ones.

    Raises:
        AlignmentError: torchaudio cannot be loaded.
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
    spans = merge_tokens(path[0], likely)  # runs of frames with one character; blanks are dropped
    return tuple(
        Mark(i, span.start, span.end, float(likely[span.start : span.end].max()))
        for i, span in zip(known, spans, strict=True)
    )


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _share(words: list[Word | None], texts: list[str], seconds: float) -> list[Word]:
    """Give words without a time equal shares of the gap between their neighbours."""
    filled: list[Word] = []
    for k, word in enumerate(words):
        if word is None:
            start = filled[-1].end if filled else 0.0
            end, missing = seconds, len(words) - k
            for count, after in enumerate(words[k:]):
                if after is not None:
                    end, missing = after.start, count
                    break
            word = Word(start, start + (end - start) / missing, texts[k], None, True)
        filled.append(word)
    return filled


def warp_words(
    weights: torch.Tensor,
    probabilities: torch.Tensor,
    words: Sequence[tuple[str, int]],
    frame_s: float,
    seconds: float,
) -> tuple[Word, ...]:
    """Find the time of each word from cross-attention, by dynamic time warping.

    The method is that of openai-whisper's `timing.py`:

    1. Scale each row of weights to sum 1, then each frame over the tokens to mean 0 and standard
       deviation 1. This takes away what all tokens attend to.
    2. Smooth over time with a median filter of `FILTER_WIDTH` frames, and average the heads.
    3. Find the path through (tokens, frames) with the most attention (`warp`).
    4. A token begins at the first frame of its part of the path; a word begins with its first
       token and ends where the token after its last one begins.

    Args:
        weights: Cross-attention over the frames of the clip without padding; the last row is that
            of the end token; shape (heads, tokens + 1, frames).
        probabilities: Of each token; shape (tokens,).
        words: The text of each word and its number of tokens; these add up to all tokens.
        frame_s: Seconds of a frame.
        seconds: Length of the window; no word ends later.

    Returns:
        The words in order, without overlap, in seconds of the window. A word's probability is the
        mean over its tokens.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    scores = ((weights - mean) / spread.clamp_min(1e-9)).cpu().numpy()
    smooth = median_filter(scores, (1, 1, FILTER_WIDTH), mode="mirror")
    tokens, frames = warp(-smooth.mean(0))
    first = np.flatnonzero(np.diff(tokens, prepend=-1))  # index on the path of each token's start
    starts = frames[first] * frame_s
    found: list[Word] = []
    at, likely = 0, probabilities.tolist()
    for text, count in words:
        start, end = (min(float(starts[place]), seconds) for place in (at, at + count))
        found.append(Word(start, end, text, sum(likely[at : at + count]) / count, False))
        at += count
    return tuple(found)


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the cheapest path through a matrix by dynamic time warping.

    The path leads from the first cell to the last. A step goes to the next row, the next column,
    or both. Of steps with the same cost, the one to both comes first, then the next column, then
    the next row.

    Args:
        cost: Cost of each cell, without NaN; shape (rows, columns).

    Returns:
        Row and column of each cell on the path, as integers; shape (cells,) each.

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
    on_step: OnStep = uninterrupted,
) -> list[tuple[Word, ...]]:
    """Find the words of each window.

    The primary's words come from its decoder's cross-attention, a pack's from CTC forced alignment
    on its character head.

    Args:
        model: The model that decoded the windows.
        audio: The encoded windows.
        results: One for each window.
        task: The primary's task: "transcribe" or "translate".
        rows: Indices of the windows whose words are needed; None for all. The others get ().
        encodings: Encoder output by name of pack, as far as decoding has computed it; what is
            missing is computed here.
        required: Whether a library that cannot be loaded is an error. If not, the windows that
            need it get no words, and a warning is logged once.
        on_step: Function that is called between steps; it may raise, to stop the work.

    Returns:
        The words of each window, in seconds of the window.

    Raises:
        AlignmentError: torchaudio cannot be loaded, and a pack's words are required.
    """
    found: list[tuple[Word, ...]] = []
    for i, result in enumerate(results):
        on_step()
        wanted = rows is None or i in rows
        possible = required or (_can_warp() if result.route == PRIMARY else _can_align())
        found.append(
            _words(model, audio, i, result, task, encodings) if wanted and possible else ()
        )
    return found


@cache
def _can_warp() -> bool:
    """Whether dynamic time warping can run here. The first call logs a warning if it cannot."""
    try:
        warp(np.zeros((1, 1)))
    except RunError as error:
        logging.getLogger("dualasr").warning("Speech without text is not looked for: %s", error)
        return False
    return True


@cache
def _can_align() -> bool:
    """Whether forced alignment can run here. The first call logs a warning if it cannot."""
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
        found = None if encoding is None else encoding.of([row])
        if found is None:
            fresh = encode(pack, audio, [row])
            found = fresh.encoded, fresh.lengths
        encoded, lengths = found
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
    """Find the words of a clip that was transcribed before; nothing is decoded again.

    Args:
        model: The model that transcribed it.
        samples: float32, shape (samples,), 16 kHz.
        results: One for each window of at least 25 ms, as `split_windows` cuts the clip.

    Returns:
        The words in order, in seconds of the clip.
    """
    ranges = [
        (a, b) for a, b in split_windows(samples, model.backbone.window_s) if b - a >= SHORTEST
    ]
    words = []
    for (first, last), result in zip(ranges, results, strict=True):
        offset = first / SAMPLE_RATE
        [found] = words_of(model, model.encode_audio([samples[first:last]]), [result])
        words += [replace(word, start=offset + word.start, end=offset + word.end) for word in found]
    return tuple(words)
