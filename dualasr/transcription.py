"""Files in, transcripts out: windows, batches, what counts as silence, and one answer for the whole file.

The primary inside the model stays plain Whisper. Whatever keeps text out of a transcript, such as a window that is digital
silence or one that Whisper itself takes for no speech, is decided here. Files are read as streams and their windows decoded
together, whichever files they are of, so that memory does not depend on how long a file is, nor time on how short.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from dualasr.audio import SAMPLE_RATE, SHORTEST, Sound, stream_audio
from dualasr.backbone import Span
from dualasr.errors import AudioError, DualasrError, PackError
from dualasr.languages import tag_among
from dualasr.model import DecodeOptions, DualWhisper, WindowResult
from dualasr.selector import PRIMARY
from dualasr.transcript import Segment, Transcription, Word, space_between
from dualasr.vad import VadOptions
from dualasr.windows import Window, windows_of
from dualasr.word_times import sentences, words_of

Audio = str | Path | Sound | np.ndarray
Answered = tuple[WindowResult, tuple[Word, ...]]


@dataclass(frozen=True)
class TranscribeOptions:
    """How a file is decoded, and which of its windows give no text.

    batch: windows decoded at once. A window of the primary is no speech where no_speech_prob > no_speech_threshold and
    avg_logprob < logprob_threshold (Radford et al. 2023, section 4.5); 1.0 and above switches that off. A pack's window is
    never judged so: its language may be no speech to the primary, and `<|other|>` has turned noise away. A window is
    silence, and is not decoded, where no sample reaches silence_peak (full scale is 1). With `vad` windows hold speech
    alone. `stretches` (start, end in seconds, None: the end) are all that is heard of a file. A window whose neighbours both
    go another way goes with them if its lead is below `smoothing`, in log-odds.

    words: when each was said. With `sentences` a window where the primary wrote no timestamps is cut into its sentences by
    them. With `condition_on_previous_text` what the primary wrote of a file is the prompt of its next window, unless it looks
    like a failure, and windows are decoded one by one. With `detect_only` nothing is decoded: languages are named, and there
    is no text. Raises ValueError for a batch below 1.
    """

    decode: DecodeOptions = DecodeOptions()
    batch: int = 8
    words: bool = False
    sentences: bool = False
    condition_on_previous_text: bool = False
    detect_only: bool = False
    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    silence_peak: float = 1e-4
    vad: VadOptions | None = None
    stretches: tuple[tuple[float, float | None], ...] = ()
    smoothing: float = 2.0

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be at least 1 window")


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


def transcribe(model: DualWhisper, audio: Audio, *, route: str | None = None, language: str | None = None,
               options: TranscribeOptions = TranscribeOptions()) -> Transcription:  # fmt: skip
    """Transcribe a file, or float samples of shape (samples,) at 16 kHz, of any length.

    `route` forces a pipeline, `language` a language (and, without a route, the pipeline that knows it). Raises PackError
    for either that is unknown, before the sound is looked at, and AudioError for sound that cannot be used.
    """
    _check_choice(model, route, language)
    [(_, result)] = _transcribe_all(model, [audio], route, language, options)
    if isinstance(result, DualasrError):
        raise result
    return result


def transcribe_files(
    model: DualWhisper, paths: Iterable[str | Path], *, route: str | None = None, language: str | None = None,
    options: TranscribeOptions = TranscribeOptions(), heard: Callable[[float], None] = lambda seconds: None,
) -> Iterator[tuple[Path, Transcription | DualasrError]]:  # fmt: skip
    """Transcribe files, each given in turn once it is whole; a broken one gives its error and the others are still done.

    `heard` is told the seconds of audio as they are decoded. Raises PackError at once for an unknown route or language,
    which would fail every file alike.
    """
    _check_choice(model, route, language)
    return _transcribe_all(model, map(Path, paths), route, language, options, heard)


@dataclass
class _Open:
    """A file between its first window and its last answer."""

    audio: Audio
    options: TranscribeOptions
    spans: Callable[[Sequence[int], float], tuple[Span, ...]] = lambda tokens, seconds: ()  # the backbone's
    pieces: list[Piece] = field(default_factory=list)
    kept: deque[np.ndarray] = field(default_factory=lambda: deque(maxlen=2))  # samples of the last two pieces
    samples: int = 0
    silent: int = 0
    waiting: int = 0  # windows that are not decoded yet
    over: bool = False
    error: DualasrError | None = None

    def windows(self, window_s: float) -> Iterator[Window]:
        """The windows with sound. Raises AudioError where the sound cannot be read."""
        for start, blocks in _blocks(self.audio, self.options.stretches):
            for window in windows_of(map(self._counted, blocks), window_s, self.options.vad):
                if len(window.samples) >= SHORTEST and float(np.abs(window.samples).max()) >= self.options.silence_peak:
                    yield replace(window, start=start + window.start)
                else:
                    self.silent += 1

    def _counted(self, block: np.ndarray) -> np.ndarray:
        self.samples += len(block)
        return block

    def take(self, piece: Piece, samples: np.ndarray, again: Callable[[np.ndarray, str], Answered], beta: float) -> None:
        """Keep an answer; the one before it is heard `again`, by their route, where its neighbours outvote it."""
        self.pieces.append(piece)
        self.kept.append(samples)
        if len(self.pieces) < 3:
            return
        before, lone, after = self.pieces[-3:]
        routes = {before.result.route, after.result.route}
        if len(routes) == 1 and lone.result.rival and lone.result.route not in routes:
            [route] = routes
            lead = lone.result.scores[lone.result.rival]["log_odds"] + beta
            if abs(lead) < self.options.smoothing and route in (PRIMARY, lone.result.rival):
                changed, words = again(self.kept[0], route)
                reason = f"{lone.result.reason}; both neighbours go to {route}"
                self.pieces[-2] = replace(lone, result=replace(changed, reason=reason), words=words)

    def prompt(self) -> str:
        """What the primary wrote of the file so far, back to the last window that went elsewhere or looks like a failure."""
        decode, texts = self.options.decode, []
        for piece in reversed(self.pieces):
            answer = piece.result.hypotheses.get(PRIMARY)
            if piece.result.route != PRIMARY or answer is None:
                return " ".join(texts[::-1])
            if decode.fallback and decode.fallback.fails(answer[0], piece.result.no_speech_prob):
                return " ".join(texts[::-1])
            texts.append(piece.result.text.strip())
        return " ".join([decode.prompt, *texts[::-1]]).strip()

    def result(self) -> Transcription | DualasrError:
        if self.error:
            return self.error
        speech = [piece for piece in self.pieces if not _is_no_speech(piece.result, self.options)]
        spoken = [piece for piece in speech if piece.result.text.strip()]
        segments = tuple(segment for piece in spoken for segment in _segments(piece, self.spans, self.options))
        windows = {"text": len(spoken), "empty": len(speech) - len(spoken), "no_speech": len(self.pieces) - len(speech),
                   "silent": self.silent}  # fmt: skip
        return _whole(segments, _mean_language_probs(self.pieces), self.samples / SAMPLE_RATE, windows)


def _transcribe_all(model: DualWhisper, audios: Iterable[Audio], route: str | None, language: str | None,
                    options: TranscribeOptions, heard: Callable[[float], None] = lambda seconds: None
                    ) -> Iterator[tuple[Audio, Transcription | DualasrError]]:  # fmt: skip
    """Each audio with its transcript or error, in order."""
    def decode(batch: Sequence[tuple[_Open, Window]]) -> None:
        clips, asked = [window.samples for _, window in batch], options
        if options.condition_on_previous_text:
            [(file, _)] = batch
            asked = replace(options, decode=replace(options.decode, prompt=file.prompt()))

        def again(samples: np.ndarray, to: str) -> Answered:
            return _hear(model, [samples], to, None, asked)[0]

        for (file, window), (result, words) in zip(batch, _hear(model, clips, route, language, asked), strict=True):
            file.waiting -= 1
            file.take(Piece(window.start, window.end, result, words), window.samples, again, model.selector.beta)
            heard(len(window.samples) / SAMPLE_RATE)

    size = 1 if options.condition_on_previous_text else options.batch
    files: deque[_Open] = deque()
    batch: list[tuple[_Open, Window]] = []
    for audio in audios:
        file = _Open(audio, options, model.backbone.spans)
        files.append(file)
        try:
            for window in file.windows(model.backbone.window_s):
                batch.append((file, window))
                file.waiting += 1
                if len(batch) == size:
                    decode(batch)
                    batch = []
        except AudioError as error:
            file.error = error
            batch = [pair for pair in batch if pair[0] is not file]
            file.waiting = 0
        file.over = True
        while files and files[0].over and not files[0].waiting:
            yield (done := files.popleft()).audio, done.result()
    if batch:
        decode(batch)
    yield from ((file.audio, file.result()) for file in files)


def _hear(model: DualWhisper, clips: Sequence[np.ndarray], route: str | None, language: str | None,
          options: TranscribeOptions) -> list[Answered]:  # fmt: skip
    """What is in windows, and its words where they are asked for."""
    heard = model.listen(clips)
    if options.detect_only:
        return [(result, ()) for result in model.detect(heard)]
    results = model.transcribe_heard(heard, route=route, language=language, options=options.decode)
    if not (options.words or options.sentences):
        return [(result, ()) for result in results]
    return list(zip(results, words_of(model, heard, results, options.decode.generate.get("task", "transcribe")), strict=True))


def _blocks(audio: Audio, stretches: Sequence[tuple[float, float | None]]) -> Iterator[tuple[float, Iterator[np.ndarray]]]:
    """The stretches of a sound that are heard: the second each starts at, and its blocks."""
    if isinstance(audio, str | os.PathLike | Sound):
        sound = audio if isinstance(audio, Sound) else Sound(Path(audio))
        for start, end in stretches or ((0.0, None),):
            ends = [e for e in (sound.end, None if end is None else sound.start + end) if e is not None]
            yield start, stream_audio(Sound(sound.path, sound.start + start, min(ends, default=None)))
    else:
        samples = _checked(audio)
        for start, end in stretches or ((0.0, None),):
            yield start, iter([samples[round(start * SAMPLE_RATE) : None if end is None else round(end * SAMPLE_RATE)]])


def _check_choice(model: DualWhisper, route: str | None, language: str | None) -> None:
    """Raise PackError for a route or language that is unknown, or a language that the route does not know."""
    if route is None:
        if language is not None:
            model.route_of(language)
        return
    known = list(model.backbone.languages) or ["en"] if route == PRIMARY else list(model.pack(route).info.languages)
    if language is not None and not (tag_among(language, known) if route == PRIMARY else language in known):
        raise PackError(f"Route {route!r} does not know {language!r}; it knows: {', '.join(known)}.")


def _checked(audio: np.ndarray) -> np.ndarray:
    """Samples as float32, shape (samples,), finite. Raises AudioError."""
    samples = np.asarray(audio)
    if samples.dtype.kind != "f":
        raise AudioError(f"The audio array holds {samples.dtype}, not floats; scale it to +-1 (int16: divide by 32768).")
    if samples.ndim != 1:
        raise AudioError(f"The audio array has shape {samples.shape}, not (samples,); average its channels.")
    if not np.isfinite(samples).all():
        raise AudioError("The audio array has NaN or infinite samples; replace or remove them.")
    return samples.astype(np.float32, copy=False)


def _is_no_speech(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whisper's rule: the no-speech probability alone is not enough, the transcript must be unsure too."""
    unsure = result.no_speech_prob > options.no_speech_threshold and result.avg_logprob < options.logprob_threshold
    return unsure and result.route == PRIMARY


def _segments(piece: Piece, time: Callable[[Sequence[int], float], tuple[Span, ...]], options: TranscribeOptions
              ) -> Iterator[Segment]:  # fmt: skip
    """A window's segments: what stands between the primary's timestamps, its sentences, or all of it; with their words."""
    result = piece.result
    spans = time(result.tokens, piece.seconds) if result.route == PRIMARY else ()
    if not spans and options.sentences:
        spans = sentences(piece.words)
    words = deque(replace(word, start=piece.start + word.start, end=piece.start + word.end) for word in piece.words)
    for span in spans or (Span(0.0, piece.seconds, result.text.strip()),):
        mine, letters = [], len("".join(span.text.split()))
        while words and letters > 0:
            mine.append(words.popleft())
            letters -= len("".join(mine[-1].word.split()))
        yield Segment(
            piece.start + span.start, piece.start + span.end, span.text, result.language, result.route, result.avg_logprob,
            result.no_speech_prob, result.language_probs, result.scores, result.reason, tuple(mine) if options.words else (),
        )  # fmt: skip


def _mean_language_probs(pieces: Sequence[Piece]) -> dict[str, float]:
    """Mean of the windows' posteriors, weighted by duration, most likely first."""
    total, mean = sum(piece.seconds for piece in pieces), Counter()
    for piece in pieces:
        for code, prob in piece.result.language_probs.items():
            mean[code] += prob * piece.seconds / total
    return dict(mean.most_common())


def _whole(segments: tuple[Segment, ...], language_probs: dict[str, float], duration: float,
           windows: dict[str, int]) -> Transcription:  # fmt: skip
    routes, languages = Counter(), Counter()
    for segment in segments:
        routes[segment.route] += segment.end - segment.start
        languages[segment.language] += segment.end - segment.start
    route = routes.most_common(1)[0][0] if segments else PRIMARY
    language = languages.most_common(1)[0][0] if segments else None
    scores = {"windows": windows, "route_seconds": dict(routes), "language_seconds": dict(languages)}
    return Transcription(_join(segments), language, route, language_probs, segments, duration, scores)


def _join(segments: tuple[Segment, ...]) -> str:
    """The texts in one line, with a space between two unless both languages are written without."""
    text = segments[0].text if segments else ""
    for before, after in pairwise(segments):
        text += space_between(before, after) + after.text
    return text
