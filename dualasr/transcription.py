"""Files in, transcripts out: windows, batches, what counts as silence, and one answer for the whole file.

The primary inside the model stays plain Whisper. Whatever keeps text out of a transcript, such as a window that is digital
silence or one that Whisper itself takes for no speech, is decided here.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dualasr.audio import SAMPLE_RATE, SHORTEST, Sound, load_audio, split_windows
from dualasr.errors import AudioError, DualasrError, PackError
from dualasr.languages import tag_among
from dualasr.model import DecodeOptions, DualWhisper, WindowResult
from dualasr.selector import PRIMARY
from dualasr.transcript import Segment, Transcription, space_between


@dataclass(frozen=True)
class TranscribeOptions:
    """How a file is decoded, and which of its windows give no text.

    batch: windows decoded at once. A window of the primary is no speech where no_speech_prob > no_speech_threshold and
    avg_logprob < logprob_threshold (Radford et al. 2023, section 4.5); 1.0 and above switches that off. A pack's window is
    never judged so: its language may be no speech to the primary, and `<|other|>` has turned noise away. A window is
    silence, and is not decoded, where no sample reaches silence_peak (full scale is 1). Raises ValueError for a batch below 1.
    """

    decode: DecodeOptions = DecodeOptions()
    batch: int = 8
    no_speech_threshold: float = 0.6
    logprob_threshold: float = -1.0
    silence_peak: float = 1e-4

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be at least 1 window")


def transcribe(model: DualWhisper, audio: str | Path | Sound | np.ndarray, *, route: str | None = None,
               language: str | None = None, options: TranscribeOptions = TranscribeOptions()) -> Transcription:  # fmt: skip
    """Transcribe a file, or float samples of shape (samples,) at 16 kHz, of any length.

    `route` forces a pipeline, `language` a language (and, without a route, the pipeline that knows it). Raises PackError
    for either that is unknown, before the sound is looked at, and AudioError for sound that cannot be used.
    """
    _check_choice(model, route, language)
    samples = _samples(audio)
    spans = split_windows(samples, model.backbone.window_s)
    sounding = [(start, end) for start, end in spans if _has_sound(samples[start:end], options.silence_peak)]
    heard: list[tuple[tuple[int, int], WindowResult]] = []
    for at in range(0, len(sounding), options.batch):
        group = sounding[at : at + options.batch]
        clips = [samples[start:end] for start, end in group]
        results = model.transcribe_windows(clips, route=route, language=language, options=options.decode)
        heard += zip(group, results, strict=True)
    speech = [(span, result) for span, result in heard if not _is_no_speech(result, options)]
    segments = tuple(_segment(span, result) for span, result in speech if result.text.strip())
    windows = {
        "text": len(segments), "empty": len(speech) - len(segments), "no_speech": len(heard) - len(speech),
        "silent": len(spans) - len(heard),
    }  # fmt: skip
    return _whole(segments, _mean_language_probs(heard), len(samples) / SAMPLE_RATE, windows)


def transcribe_files(
    model: DualWhisper, paths: Iterable[str | Path], *, route: str | None = None, language: str | None = None,
    options: TranscribeOptions = TranscribeOptions(),
) -> Iterator[tuple[Path, Transcription | DualasrError]]:  # fmt: skip
    """Transcribe files in turn, each when it is asked for; a broken one gives its error and the others are still done.

    Raises PackError at once for an unknown route or language, which would fail every file alike.
    """
    _check_choice(model, route, language)

    def attempt(path: Path) -> Transcription | DualasrError:
        try:
            return transcribe(model, path, route=route, language=language, options=options)
        except DualasrError as error:
            return error

    return ((path, attempt(path)) for path in map(Path, paths))


def _check_choice(model: DualWhisper, route: str | None, language: str | None) -> None:
    """Raise PackError for a route or language that is unknown, or a language that the route does not know."""
    if route is None:
        if language is not None:
            model.route_of(language)
        return
    known = list(model.backbone.languages) or ["en"] if route == PRIMARY else list(model.pack(route).info.languages)
    if language is not None and not (tag_among(language, known) if route == PRIMARY else language in known):
        raise PackError(f"Route {route!r} does not know {language!r}; it knows: {', '.join(known)}.")


def _samples(audio: str | Path | Sound | np.ndarray) -> np.ndarray:
    """The sound as float32, shape (samples,), finite. Raises AudioError."""
    if isinstance(audio, str | os.PathLike | Sound):
        return load_audio(audio)
    samples = np.asarray(audio)
    if samples.dtype.kind != "f":
        raise AudioError(f"The audio array holds {samples.dtype}, not floats; scale it to +-1 (int16: divide by 32768).")
    if samples.ndim != 1:
        raise AudioError(f"The audio array has shape {samples.shape}, not (samples,); average its channels.")
    if not np.isfinite(samples).all():
        raise AudioError("The audio array has NaN or infinite samples; replace or remove them.")
    return samples.astype(np.float32, copy=False)


def _has_sound(window: np.ndarray, silence_peak: float) -> bool:
    return len(window) >= SHORTEST and float(np.abs(window).max()) >= silence_peak


def _is_no_speech(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whisper's rule: the no-speech probability alone is not enough, the transcript must be unsure too."""
    unsure = result.no_speech_prob > options.no_speech_threshold and result.avg_logprob < options.logprob_threshold
    return unsure and result.route == PRIMARY


def _segment(span: tuple[int, int], result: WindowResult) -> Segment:
    return Segment(
        span[0] / SAMPLE_RATE, span[1] / SAMPLE_RATE, result.text.strip(), result.language, result.route,
        result.avg_logprob, result.no_speech_prob, result.language_probs, result.scores, result.reason,
    )  # fmt: skip


def _mean_language_probs(heard: list[tuple[tuple[int, int], WindowResult]]) -> dict[str, float]:
    """Mean of the windows' posteriors, weighted by samples, most likely first."""
    total, mean = sum(end - start for (start, end), _ in heard), Counter()
    for (start, end), result in heard:
        for code, prob in result.language_probs.items():
            mean[code] += prob * (end - start) / total
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
