"""A file on its way from windows to a transcript: what is heard of it, what the neighbours of a
window change, the whole.

The primary inside the model stays plain Whisper. Whatever keeps text out of a transcript, such as a
window that is digital silence or one that Whisper itself takes for no speech, is decided here. A
file is read as a stream: memory does not depend on how long it is.
"""

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
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

LONG_PAUSE = 1.0  # s; nobody reads on over it
_SENTENCE_END = re.compile(r"[.!?…。！？؟۔।॥።]['\"”’»」』)\]]*\s*$")

UNSURE = 0.5  # temperature above which a text is not carried on, as in Whisper
Audio = str | Path | Sound | np.ndarray
Answered = tuple[WindowResult, tuple[Word, ...]]


@dataclass(frozen=True)
class Piece:
    """A window that was decoded: seconds in its file, and what came of it."""

    start: float
    end: float
    result: WindowResult
    words: tuple[Word, ...] = ()  # in seconds of the window

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Recording:
    """A sound between its first window and its last answer. This is the part that changes; what it
    yields does not.

    Attributes:
        audio: The sound: a file, a part of one, or samples.
        options: How it is transcribed.
        spans: Cuts the primary's tokens at their timestamps (`Backbone.spans`).
        on_audio: Is told the seconds of sound as they are read.
        pieces: The windows that were decoded, in order.
        samples: How many samples were read.
        silent: Windows that were silence.
        error: What stopped the reading; None for nothing.
    """

    audio: Audio
    options: TranscribeOptions
    spans: Callable[[Sequence[int], float], tuple[Span, ...]] = lambda tokens, seconds: ()
    on_audio: Callable[[float], None] = lambda seconds: None
    pieces: list[Piece] = field(default_factory=list)
    samples: int = 0
    silent: int = 0
    error: DualasrError | None = None
    # of the last two pieces
    _last_samples: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=2))
    _n_reported: int = 0  # pieces whose segments were given out

    def windows(self, window_s: float) -> Iterator[Window]:
        """Yield the windows with sound, each of at most so many seconds.

        Raises:
            AudioError: The sound cannot be read, or none of the stretches holds any.
        """
        behind = None
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
                behind = error
        if behind and not self.samples:
            raise behind

    def _counted(self, block: np.ndarray) -> np.ndarray:
        self.samples += len(block)
        self.on_audio(len(block) / SAMPLE_RATE)
        return block

    def add(
        self,
        piece: Piece,
        samples: np.ndarray,
        again: Callable[[np.ndarray, str], Answered],
        selector: SelectorOptions,
    ) -> None:
        """Keep a window's answer, and smooth the route of the one before it.

        A window between two that both go another way, with a lead below `options.smoothing`, is
        decoded `again` by their route: languages seldom change for one window alone.

        Args:
            piece: The answer.
            samples: The window's, (samples,).
            again: Decodes samples by a route.
            selector: The settings that the first routes come from.
        """
        self.pieces.append(piece)
        self._last_samples.append(samples)
        if len(self.pieces) < 3 or any(
            piece.result.no_speech_prob > selector.no_speech for piece in self.pieces[-3:]
        ):
            return
        before, lone, after = self.pieces[-3:]
        routes = {before.result.route, after.result.route}
        if len(routes) == 1 and lone.result.runner_up and lone.result.route not in routes:
            [route], odds = routes, lone.result.scores[lone.result.runner_up]["log_odds"]
            close = abs(odds + selector.beta) < self.options.smoothing
            allowed = route == lone.result.runner_up and odds >= selector.floors.get(route, -np.inf)
            if close and (route == PRIMARY or allowed):
                changed, words = again(self._last_samples[0], route)
                reason = f"{lone.result.reason}; both neighbours go to {route}"
                self.pieces[-2] = replace(lone, result=replace(changed, reason=reason), words=words)

    def next_options(self) -> DecodeOptions:
        """Return the options of the next window where it is told of the file so far.

        It is told what the primary wrote, back to the last window that another pipeline wrote, that
        looks like a failure, or that was drawn at more than UNSURE; without what is no speech. The
        caller's prompt stands before it if it reaches back to the beginning, or is carried on.
        """
        decode, texts, whole = self.options.decode, [], True
        for piece in reversed(self.pieces):
            result, answer = piece.result, piece.result.hypotheses.get(PRIMARY)
            if _is_no_speech(result, self.options):
                continue
            failed = (
                decode.fallback
                and answer
                and decode.fallback.fails(answer[0], result.no_speech_prob)
            )
            if result.route != PRIMARY or answer is None or failed or result.temperature > UNSURE:
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
        """Seconds of sound that were read so far."""
        return self.samples / SAMPLE_RATE

    def result(self) -> Transcription | DualasrError:
        """Return the transcript, or the error that ended it."""
        return self.error or self._transcription(self.pieces)

    def new_segments(self, *, last: bool = False) -> Iterator[Segment]:
        """Yield the segments that are certain and were not yielded before; after the `last` answer
        all are certain.
        """
        fresh = self.pieces[self._n_reported : None if last else -1]
        self._n_reported += len(fresh)
        return self._segments_of(fresh)

    def partial(self) -> Transcription:
        """Return the transcript so far, of the windows whose answer no later one can change."""
        return self._transcription(self.pieces[:-1])

    def _segments_of(self, pieces: Sequence[Piece]) -> Iterator[Segment]:
        for piece in pieces:
            if piece.result.text.strip() and not _is_no_speech(piece.result, self.options):
                yield from _segments(piece, self.spans, self.options)

    def _transcription(self, pieces: Sequence[Piece]) -> Transcription:
        speech = [piece for piece in pieces if not _is_no_speech(piece.result, self.options)]
        segments, texts = (
            tuple(self._segments_of(pieces)),
            sum(bool(piece.result.text.strip()) for piece in speech),
        )
        spoken = [
            (segment.route, segment.language, segment.end - segment.start) for segment in segments
        ]
        if self.options.detect_only:
            spoken = [
                (piece.result.route, piece.result.language, piece.seconds) for piece in speech
            ]
        routes, languages = Counter(), Counter()
        for route, language, seconds in spoken:
            routes[route] += seconds
            languages[language] += seconds
        windows = {
            "text": texts,
            "empty": len(speech) - texts,
            "no_speech": len(pieces) - len(speech),
            "silent": self.silent,
        }
        scores = {
            "windows": windows,
            "route_seconds": dict(routes),
            "language_seconds": dict(languages),
        }
        return Transcription(
            _join(segments),
            max(languages, key=languages.get, default=None),
            max(routes, key=routes.get, default=PRIMARY),
            _mean_language_probs(pieces),
            segments,
            self.seconds,
            scores,
        )


def _blocks(
    audio: Audio, stretches: Sequence[tuple[float, float | None]]
) -> Iterator[tuple[float, Iterator[np.ndarray]]]:
    """The stretches of a sound that are heard: the second each starts at, and its blocks."""
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
            yield (
                start,
                iter(
                    [
                        samples[
                            round(start * SAMPLE_RATE) : (
                                None if end is None else round(end * SAMPLE_RATE)
                            )
                        ]
                    ]
                ),
            )


def _checked(audio: np.ndarray) -> np.ndarray:
    """Samples as float32, shape (samples,), finite. Raises AudioError."""
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
    """Whether a window gives no text. Where nothing was decoded the no-speech probability decides
    alone.
    """
    avg_logprob = -np.inf if options.detect_only else result.avg_logprob
    return options.thresholds.is_silence(avg_logprob, result.no_speech_prob)


def _segments(
    piece: Piece,
    time: Callable[[Sequence[int], float], tuple[Span, ...]],
    options: TranscribeOptions,
) -> Iterator[Segment]:
    """A window's segments: what stands between the primary's timestamps, its sentences, or all of
    it; with their words.
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
        mine, letters = [], len("".join(span.text.split()))
        while words and letters > 0:
            mine.append(words.popleft())
            letters -= len("".join(mine[-1].word.split()))
        yield Segment(
            piece.start + span.start,
            piece.start + span.end,
            span.text,
            result.language,
            result.route,
            result.avg_logprob,
            result.no_speech_prob,
            result.language_probs,
            result.scores,
            result.reason,
            tuple(mine) if options.words else (),
            seek,
            span.tokens,
            result.temperature,
            compression,
        )


def _mean_language_probs(pieces: Sequence[Piece]) -> dict[str, float]:
    """Mean of the windows' posteriors, weighted by duration, most likely first."""
    total, mean = sum(piece.seconds for piece in pieces), Counter()
    for piece in pieces:
        for code, prob in piece.result.language_probs.items():
            mean[code] += prob * piece.seconds / total
    return dict(mean.most_common())


def _join(segments: tuple[Segment, ...]) -> str:
    """The texts in one line, with a space between two unless both languages are written without."""
    text = segments[0].text if segments else ""
    for before, after in pairwise(segments):
        text += space_between(before, after) + after.text
    return text


def sentences(words: Sequence[Word]) -> tuple[Span, ...]:
    """The sentences that words make, from the first word's start to the last one's end; a long
    pause ends one, too.
    """
    spans, mine = [], []
    for word, after in zip_longest(words, words[1:]):
        mine.append(word)
        if after is None or _SENTENCE_END.search(word.word) or after.start - word.end > LONG_PAUSE:
            spans.append(Span(mine[0].start, mine[-1].end, "".join(w.word for w in mine).strip()))
            mine = []
    return tuple(spans)
