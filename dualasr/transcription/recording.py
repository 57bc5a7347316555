"""A file between its first window and its transcript.

This module decides which windows are decoded (not digital silence), which decoded windows give
text (not those that Whisper's thresholds call no speech), where a window takes the route of its
neighbours, and how windows become segments. The primary inside the model stays plain Whisper. A
file is read as a stream, so memory does not grow with its length.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from pathlib import Path

import numpy as np

from dualasr.audio.load import SAMPLE_RATE, SHORTEST, Sound, stream_audio
from dualasr.audio.windows import Window, windows_of
from dualasr.errors import AudioError, DualasrError, NoSamplesError
from dualasr.model.dual_whisper import DecodeOptions, WindowResult
from dualasr.model.fallback import compression_ratio
from dualasr.model.selector import PRIMARY, SelectorOptions
from dualasr.model.whisper import Span
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcript import Segment, Transcription, Word, space_between

LONG_PAUSE = 1.0  # seconds between two words that end a sentence
_SENTENCE_END = re.compile(r"[.!?…。！？؟۔।॥።]['\"”’»」』)\]]*\s*$")

UNSURE = 0.5  # text decoded at a higher temperature is no prompt for the next window, as in Whisper
Audio = str | Path | Sound | np.ndarray
Decoded = tuple[WindowResult, tuple[Word, ...]]  # a window's result, and its words


@dataclass(frozen=True)
class Piece:
    """A decoded window.

    Attributes:
        start: Seconds from the beginning of the file.
        end: Seconds from the beginning of the file.
        result: The transcript of the window.
        words: Its words, in seconds of the window; () if they were not needed.
    """

    start: float
    end: float
    result: WindowResult
    words: tuple[Word, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the window in seconds."""
        return self.end - self.start


@dataclass(eq=False)
class Recording:
    """A sound while it is read and decoded.

    This object changes as windows are decoded; the segments and transcripts that it returns do
    not.

    Attributes:
        audio: The sound: a file, a part of a file, or float samples of shape (samples,) at 16 kHz.
        options: How to transcribe it.
        spans: Function that cuts the primary's tokens at their timestamps (`Backbone.spans`).
        on_audio: Function that is called with the seconds of sound of each block that was read.
        pieces: The decoded windows, in order.
        samples: Number of samples that were read, at 16 kHz.
        silent: Number of windows that were silence.
        error: The error that stopped the reading; None if there was none.
    """

    audio: Audio
    options: TranscribeOptions
    spans: Callable[[Sequence[int], float], tuple[Span, ...]] = lambda tokens, seconds: ()
    on_audio: Callable[[float], None] = lambda seconds: None
    pieces: list[Piece] = field(default_factory=list)
    samples: int = 0
    silent: int = 0
    error: DualasrError | None = None
    # samples of the last piece, the only one that `add` may decode again
    _last_samples: np.ndarray | None = None
    _n_reported: int = 0  # pieces whose segments `new_segments` has yielded

    def windows(self, window_s: float) -> Generator[Window, None, None]:
        """Yield the windows with sound.

        Args:
            window_s: Longest window, in seconds.

        Raises:
            AudioError: The sound cannot be read, or none of the stretches holds any.
        """
        missing = None
        for start, blocks in _blocks(self.audio, self.options.stretches):
            try:
                for window in windows_of(map(self._counted, blocks), window_s, self.options.vad):
                    if (
                        len(window.samples) >= SHORTEST
                        and float(np.abs(window.samples).max()) >= self.options.silence_peak
                    ):
                        yield replace(window, start=start + window.start)
                    else:
                        self.silent += 1
            except NoSamplesError as error:
                missing = error
        if missing and not self.samples:
            raise missing

    def _counted(self, block: np.ndarray) -> np.ndarray:
        self.samples += len(block)
        self.on_audio(len(block) / SAMPLE_RATE)
        return block

    def add(
        self,
        piece: Piece,
        samples: np.ndarray,
        decode_again: Callable[[np.ndarray, str], Decoded],
        selector: SelectorOptions,
    ) -> None:
        """Keep a decoded window, and smooth the route of the window before it.

        A language seldom changes for one window alone. So a window is decoded again by the route
        of its neighbours if

        1. both neighbours have the same route, and it is not the window's own,
        2. the lead of the window's own route is below `options.smoothing` log-odds,
        3. that route is the primary, or the window's runner-up whose log-odds reach its threshold
           in `selector.floors`,
        4. none of the three windows is no speech.

        Args:
            piece: The decoded window.
            samples: Its samples at 16 kHz; shape (samples,).
            decode_again: Function that decodes samples by a route. If it raises, the recording
                stays as it was.
            selector: The settings of the selector that chose the routes.
        """
        if (smooth := self._smoothed(piece, decode_again, selector)) is not None:
            self.pieces[-1] = smooth
        self.pieces.append(piece)
        self._last_samples = samples

    def _smoothed(
        self,
        after: Piece,
        decode_again: Callable[[np.ndarray, str], Decoded],
        selector: SelectorOptions,
    ) -> Piece | None:
        """Return the last piece with the route of its neighbours; None if it keeps its own."""
        if len(self.pieces) < 2 or any(
            piece.result.no_speech_prob > selector.no_speech for piece in (*self.pieces[-2:], after)
        ):
            return None
        before, lone = self.pieces[-2:]
        routes = {before.result.route, after.result.route}
        if len(routes) == 1 and lone.result.runner_up and lone.result.route not in routes:
            [route], odds = routes, lone.result.scores[lone.result.runner_up]["log_odds"]
            close = abs(odds + selector.beta) < self.options.smoothing
            allowed = route == lone.result.runner_up and odds >= selector.floors.get(route, -np.inf)
            if close and (route == PRIMARY or allowed):
                assert self._last_samples is not None  # those of the last piece
                changed, words = decode_again(self._last_samples, route)
                reason = f"{lone.result.reason}; both neighbours go to {route}"
                return replace(lone, result=replace(changed, reason=reason), words=words)
        return None

    def next_options(self) -> DecodeOptions:
        """Return the options of the next window, with the text so far as its prompt.

        The prompt is what the primary wrote, without windows of no speech. It reaches back to the
        last window that a pack wrote, that looks like a failure, or that was decoded at a
        temperature above `UNSURE`. The caller's prompt comes before it if it reaches back to the
        beginning of the file, or if `carry_prompt` is set.
        """
        decode, whole = self.options.decode, True
        texts: list[str] = []
        for piece in reversed(self.pieces):
            result, hypothesis = piece.result, piece.result.hypotheses.get(PRIMARY)
            if _is_no_speech(result, self.options):
                continue
            failed = (
                decode.fallback
                and hypothesis
                and decode.fallback.fails(hypothesis[0], result.no_speech_prob)
            )
            usable = hypothesis is not None and not failed and result.temperature <= UNSURE
            if result.route != PRIMARY or not usable:
                whole = False
                break
            texts.append(result.text.strip())
        if self.options.carry_prompt:
            return replace(decode, context=" ".join(texts[::-1]))
        return replace(
            decode,
            prompt="",
            context=" ".join([*([decode.prompt] if whole else []), *texts[::-1]]).strip(),
        )

    @property
    def seconds(self) -> float:
        """Seconds of sound that have been read so far."""
        return self.samples / SAMPLE_RATE

    def result(self) -> Transcription | DualasrError:
        """Return the transcript, or the error that stopped the reading."""
        return self.error or self._transcription(self.pieces)

    def new_segments(self, *, last: bool = False) -> Iterator[Segment]:
        """Yield the segments that are final and were not yielded before.

        Args:
            last: Whether all windows have been decoded, so that all segments are final. Until then
                the route of the last window may still change.
        """
        fresh = self.pieces[self._n_reported : None if last else -1]
        self._n_reported += len(fresh)
        return self._segments_of(fresh)

    def partial(self) -> Transcription:
        """Return the transcript so far, of all windows but the last: no later window changes it."""
        return self._transcription(self.pieces[:-1])

    def _segments_of(self, pieces: Sequence[Piece]) -> Iterator[Segment]:
        for piece in pieces:
            if piece.result.text.strip() and not _is_no_speech(piece.result, self.options):
                yield from _segments(piece, self.spans, self.options)

    def _transcription(self, pieces: Sequence[Piece]) -> Transcription:
        speech = [piece for piece in pieces if not _is_no_speech(piece.result, self.options)]
        segments = tuple(self._segments_of(pieces))
        texts = sum(bool(piece.result.text.strip()) for piece in speech)
        route_seconds: dict[str, float] = {}
        language_seconds: dict[str | None, float] = {}
        spoken: Iterable[tuple[str, str | None, float]] = (
            (segment.route, segment.language, segment.end - segment.start) for segment in segments
        )
        if self.options.detect_only:
            spoken = ((p.result.route, p.result.language, p.seconds) for p in speech)
        for route, language, seconds in spoken:
            route_seconds[route] = route_seconds.get(route, 0) + seconds
            language_seconds[language] = language_seconds.get(language, 0) + seconds
        windows = {
            "text": texts,
            "empty": len(speech) - texts,
            "no_speech": len(pieces) - len(speech),
            "silent": self.silent,
        }
        return Transcription(
            text=_join(segments),
            language=max(language_seconds, key=language_seconds.__getitem__, default=None),
            route=max(route_seconds, key=route_seconds.__getitem__, default=PRIMARY),
            language_probs=_mean_language_probs(pieces),
            segments=segments,
            duration=self.seconds,
            scores={
                "windows": windows,
                "route_seconds": route_seconds,
                "language_seconds": language_seconds,
            },
        )


def _blocks(
    audio: Audio, stretches: Sequence[tuple[float, float | None]]
) -> Iterator[tuple[float, Iterator[np.ndarray]]]:
    """Yield the stretches of a sound: the second each starts at, and its blocks of samples."""
    if isinstance(audio, str | os.PathLike | Sound):
        sound = audio if isinstance(audio, Sound) else Sound(Path(audio))
        for start, end in stretches or ((0.0, None),):
            ends = [
                e for e in (sound.end, None if end is None else sound.start + end) if e is not None
            ]
            yield (
                start,
                stream_audio(Sound(sound.path, sound.start + start, min(ends, default=None))),
            )
    else:
        samples = _checked(audio)
        for start, end in stretches or ((0.0, None),):
            first = round(start * SAMPLE_RATE)
            last = None if end is None else round(end * SAMPLE_RATE)
            yield start, iter([samples[first:last]])


def _checked(audio: np.ndarray) -> np.ndarray:
    """Return samples as finite float32 of shape (samples,). Raises AudioError for others."""
    samples = np.asarray(audio)
    if samples.dtype.kind != "f":
        raise AudioError(
            f"The audio array holds {samples.dtype}, not floats; scale it to +-1 (int16: divide by"
            " 32768)."
        )
    if samples.ndim != 1:
        raise AudioError(
            f"The audio array has shape {samples.shape}, not (samples,); average its channels."
        )
    if not np.isfinite(samples).all():
        raise AudioError("The audio array has NaN or infinite samples; replace or remove them.")
    return samples.astype(np.float32, copy=False)


def _is_no_speech(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whether a window gives no text; if nothing was decoded, no_speech_prob decides alone."""
    avg_logprob = -np.inf if options.detect_only else result.avg_logprob
    return options.thresholds.is_silence(avg_logprob, result.no_speech_prob)


def _segments(
    piece: Piece,
    time: Callable[[Sequence[int], float], tuple[Span, ...]],
    options: TranscribeOptions,
) -> Iterator[Segment]:
    """Cut a window into segments, and share its words among them.

    The cuts are the primary's timestamps; without them, the ends of sentences if `options` want
    these; else the window is one segment. Words go to the segments in order: each segment takes
    words until they have as many letters as its text.
    """
    result = piece.result
    spans = time(result.tokens, piece.seconds) if result.route == PRIMARY else ()
    if not spans and options.sentences:
        spans = sentences(piece.words)
    words = deque(
        replace(word, start=piece.start + word.start, end=piece.start + word.end)
        for word in piece.words
    )
    if len(spans) < 2 and not any(span.tokens for span in spans):
        spans = (
            replace(
                spans[0] if spans else Span(0.0, piece.seconds, result.text.strip()),
                tokens=result.tokens,
            ),
        )
    seek, compression = round(100 * piece.start), compression_ratio(result.text)
    for span in spans:
        own: list[Word] = []
        letters = len("".join(span.text.split()))
        while words and letters > 0:
            own.append(words.popleft())
            letters -= len("".join(own[-1].word.split()))
        yield Segment(
            start=piece.start + span.start,
            end=piece.start + span.end,
            text=span.text,
            language=result.language,
            route=result.route,
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            language_probs=result.language_probs,
            scores=result.scores,
            reason=result.reason,
            words=tuple(own) if options.words else (),
            seek=seek,
            tokens=span.tokens,
            temperature=result.temperature,
            compression_ratio=compression,
        )


def _mean_language_probs(pieces: Sequence[Piece]) -> dict[str, float]:
    """Return the mean of the windows' language_probs, weighted by duration, most likely first."""
    total = sum(piece.seconds for piece in pieces)
    mean: dict[str, float] = {}
    for piece in pieces:
        for code, prob in piece.result.language_probs.items():
            mean[code] = mean.get(code, 0) + prob * piece.seconds / total
    return dict(sorted(mean.items(), key=lambda item: item[1], reverse=True))


def _join(segments: tuple[Segment, ...]) -> str:
    """Join the texts of segments on one line."""
    text = segments[0].text if segments else ""
    for before, after in pairwise(segments):
        text += space_between(before, after) + after.text
    return text


def sentences(words: Sequence[Word]) -> tuple[Span, ...]:
    """Cut words into sentences: after a full stop or its like, or at a pause over `LONG_PAUSE`."""
    spans: list[Span] = []
    sentence: list[Word] = []
    for word, after in zip_longest(words, words[1:]):
        sentence.append(word)
        if after is None or _SENTENCE_END.search(word.word) or after.start - word.end > LONG_PAUSE:
            text = "".join(word.word for word in sentence).strip()
            spans.append(Span(sentence[0].start, sentence[-1].end, text))
            sentence = []
    return tuple(spans)
