"""Transcription of files.

Windows of several files are decoded as one batch, so that many short files are as fast as one long
file.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dualasr.audio.load import SAMPLE_RATE
from dualasr.audio.windows import Window
from dualasr.errors import AudioError, DualasrError, MissingExtraError
from dualasr.model.dual_whisper import DualWhisper, WindowResult
from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.language_id import EncodedAudio
from dualasr.model.selector import PRIMARY
from dualasr.transcription.alignment import check_alignment, words_of
from dualasr.transcription.gaps import find_gaps, is_speech, part_of
from dualasr.transcription.recording import Audio, Decoded, Piece, Recording
from dualasr.transcription.request import TranscribeOptions, TranscribeRequest
from dualasr.transcription.transcript import Segment, Transcription, Word

TELLS_LANGUAGE_S = 3.0  # seconds of sound that tell their language

OnAudio = Callable[[float], None]
OnSegment = Callable[[Audio, Segment], None]
Result = tuple[Audio, Transcription | DualasrError]


def transcribe(
    model: DualWhisper,
    audio: Audio,
    *,
    route: str | None = None,
    language: str | None = None,
    options: TranscribeOptions = TranscribeOptions(),
) -> Transcription:
    """Transcribe one sound of any length.

    Args:
        model: A base with packs, from `load_model`.
        audio: The path of a file, a part of a file, or float samples of shape (samples,) at 16 kHz.
        route: "primary" or the name of a pack; None lets the selector choose.
        language: Code or name of the language (`DualWhisper.language_code`); None lets the
            pipeline choose. Without a route, the pipeline that knows the language is used.
        options: How to transcribe.

    Returns:
        The text, with segments (times in seconds), routes, and the evidence for them.

    Raises:
        PackError: The route or the language is unknown. The sound is not read then.
        AudioError: The sound cannot be used.
        AlignmentError: A pack's words are requested, and torchaudio cannot be loaded.
    """
    request = _checked(model, TranscribeRequest(route, language, options))
    [(_, result)] = _transcribe_all(model, [audio], request)
    if isinstance(result, DualasrError):
        raise result
    return result


def transcribe_files(
    model: DualWhisper,
    paths: Iterable[str | Path],
    request: TranscribeRequest = TranscribeRequest(),
    *,
    on_audio: OnAudio = lambda seconds: None,
    on_segment: OnSegment | None = None,
) -> Iterator[Result]:
    """Transcribe files, several at a time.

    A file that cannot be read does not stop the others.

    Args:
        model: A base with packs.
        paths: The files.
        request: Pipeline, language and options, the same for all files.
        on_audio: Function that is called with the seconds of sound of each block that was read.
        on_segment: Function that is called with a file and each of its segments as soon as no
            later window can change the segment, file after file.

    Yields:
        Each file, as a Path, with its transcript or its error, in the order of `paths`, as soon
        as it is complete.

    Raises:
        PackError: The route or the language is unknown, so that every file would fail.
        MissingExtraError: An extra is needed that is not installed.
        AlignmentError: A pack's words are requested, and torchaudio cannot be loaded.
    """
    request = _checked(model, request)
    return _transcribe_all(model, map(Path, paths), request, on_audio, on_segment)


@dataclass(eq=False)
class Batcher:
    """Collects windows of files, decodes them in batches, and yields files in their order.

    Attributes:
        model: A base with packs.
        request: Pipeline, language and options, the same for all files.
        on_segment: Function that is called with each final segment; None for no call.
        files: Files that were begun and not yet yielded, in order.
        batch: Windows that wait to be decoded, each with its file.
    """

    model: DualWhisper
    request: TranscribeRequest
    on_segment: OnSegment | None = None
    files: deque[Recording] = field(default_factory=deque)
    batch: list[tuple[Recording, Window]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of windows in a full batch."""
        options = self.request.options
        return 1 if options.condition_on_previous_text else options.batch

    def add(self, file: Recording, window: Window) -> bool:
        """Add a window. Decode the batch if it is full, and return whether it was."""
        self.batch.append((file, window))
        if len(self.batch) < self.size:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Decode the windows that wait."""
        if self.batch:
            decode_batch(self.model, self.batch, self.request)
            self.batch.clear()

    def drop(self, file: Recording) -> None:
        """Drop the waiting windows of a file that could not be read to its end."""
        self.batch[:] = [pair for pair in self.batch if pair[0] is not file]

    def finished(self, still_read: Recording | None = None) -> Iterator[Result]:
        """Yield the files at the front that have no window left to decode."""
        while (
            self.files
            and self.files[0] is not still_read
            and all(self.files[0] is not file for file, _ in self.batch)
        ):
            file = self.files.popleft()
            self.report(file, last=True)
            yield file.audio, file.result()

    def report(self, file: Recording, *, last: bool = False) -> None:
        """Report the new final segments of a file."""
        if self.on_segment is not None:
            for segment in file.new_segments(last=last):
                self.on_segment(file.audio, segment)


def check_request(model: DualWhisper, request: TranscribeRequest) -> None:
    """Check a request before any sound is read.

    Args:
        model: A base with packs.
        request: Pipeline, language and options.

    Raises:
        PackError: The model has no such route or language, or the route knows none of the
            allowed languages.
        AlignmentError: A pack's words are requested, and torchaudio cannot be loaded. The
            primary's words do not need it.
    """
    request.check(model)
    if not request.options.words or request.options.detect_only:
        return
    route = request.route
    if route is None and request.language is not None:
        route = model.route_of(request.language)
    if route != PRIMARY and model.packs:
        check_alignment()


def _checked(model: DualWhisper, request: TranscribeRequest) -> TranscribeRequest:
    """Return a request with the code that the model has for its language; see `check_request`."""
    if request.language is not None:
        request = replace(request, language=model.language_code(request.language))
    check_request(model, request)
    return request


def _transcribe_all(
    model: DualWhisper,
    audios: Iterable[Audio],
    request: TranscribeRequest,
    on_audio: OnAudio = lambda seconds: None,
    on_segment: OnSegment | None = None,
) -> Iterator[Result]:
    """Yield each audio with its transcript or error, in order."""
    batcher = Batcher(model, request, on_segment)
    for audio in audios:
        file = Recording(audio, request.options, model.backbone.spans, on_audio=on_audio)
        batcher.files.append(file)
        for window in _readable(file, model.backbone.window_s):
            if batcher.add(file, window):
                yield from batcher.finished(still_read=file)
                batcher.report(batcher.files[0])
        if file.error is not None:
            batcher.drop(file)
        yield from batcher.finished()
    batcher.flush()
    yield from batcher.finished()


def _readable(file: Recording, window_s: float) -> Iterator[Window]:
    """Yield the windows of a file up to the first error, which becomes the file's error."""
    windows = file.windows(window_s)
    while True:
        try:
            window = next(windows, None)
        except MissingExtraError:
            raise
        except AudioError as error:
            file.error = error
            return
        except Exception as error:
            name = file.audio if isinstance(file.audio, str | Path) else "the sound"
            file.error = AudioError(
                f"{name}: cannot be read as audio ({type(error).__name__}: {error})"
            )
            return
        if window is None:
            return
        yield window


def decode_batch(
    model: DualWhisper,
    batch: Sequence[tuple[Recording, Window]],
    request: TranscribeRequest,
    on_step: OnStep = uninterrupted,
) -> None:
    """Decode windows together, and add each result to its recording.

    A prompt goes to the first window of each recording only, unless `carry_prompt` is set. A batch
    that holds first windows and others is therefore decoded in two parts.

    Args:
        model: A base with packs.
        batch: Windows with their recordings; those of one recording in their order. One window
            with `condition_on_previous_text`.
        request: Pipeline, language and options, the same for all windows.
        on_step: Function that is called between steps. If it raises, some recordings may have got
            their results; the windows of the others can be decoded again.
    """
    options = request.options
    if options.condition_on_previous_text:
        [(recording, _)] = batch
        request = replace(request, options=replace(options, decode=recording.next_options()))
    elif options.decode.prompt and not options.carry_prompt:
        first = {
            id(file): i for i, (file, _) in reversed([*enumerate(batch)]) if not file.pieces
        }.values()
        if first:
            _decode_alike(model, [batch[i] for i in sorted(first)], request, on_step)
        batch = [pair for i, pair in enumerate(batch) if i not in first]
        request = replace(
            request, options=replace(options, decode=replace(options.decode, prompt=""))
        )
    if batch:
        _decode_alike(model, batch, request, on_step)


def _decode_alike(
    model: DualWhisper,
    batch: Sequence[tuple[Recording, Window]],
    request: TranscribeRequest,
    on_step: OnStep,
) -> None:
    """`decode_batch` for windows that all get the same prompt."""

    def decode_again(samples: np.ndarray, route: str) -> Decoded:
        return _decode(model, [samples], replace(request, route=route, language=None), on_step)[0]

    decoded = _decode(model, [window.samples for _, window in batch], request, on_step)
    heard = [
        _with_gaps(model, window, found, request, on_step)
        for (_, window), found in zip(batch, decoded, strict=True)
    ]
    for (recording, _), parts in zip(batch, heard, strict=True):
        for part, (result, words) in parts:
            piece = Piece(part.start, part.end, result, words)
            recording.add(piece, part.samples, decode_again, model.selector)


def _with_gaps(
    model: DualWhisper,
    window: Window,
    decoded: Decoded,
    request: TranscribeRequest,
    on_step: OnStep,
) -> list[tuple[Window, Decoded]]:
    """Hear the gaps of a window again, each by itself.

    Args:
        model: A base with packs.
        window: The window.
        decoded: Its transcript and words.
        request: Pipeline, language and options of the window.
        on_step: Function that is called between steps.

    Returns:
        The window with its transcript; or its parts in order, with those of the gaps that have
        text between them.
    """
    result, words = decoded
    options = request.options
    if not _can_have_gaps(result, words, options):
        return [(window, decoded)]
    parts: list[tuple[Window, Decoded]] = []
    begun, first = 0.0, 0
    for gap in find_gaps(window.samples, words):
        heard = _hear_gap(model, _part(window, gap.start, gap.end), result, request, on_step)
        if heard:
            if gap.word > first:
                part = part_of(model, result, words, range(first, gap.word), begun)
                parts.append((_part(window, begun, gap.start), part))
            parts += heard
            begun, first = gap.end, gap.word
    if not parts:
        return [(window, decoded)]
    if first < len(words):
        part = part_of(model, result, words, range(first, len(words)), begun)
        parts.append((_part(window, begun, window.end - window.start), part))
    return parts


def _hear_gap(
    model: DualWhisper,
    gap: Window,
    around: WindowResult,
    request: TranscribeRequest,
    on_step: OnStep,
) -> list[tuple[Window, Decoded]]:
    """Decode a gap, and return its parts; none if there is no text that can be trusted.

    Too short a gap does not tell its language: it takes route and language of its window.
    """
    options = request.options
    decode = replace(options.decode, prompt="", context="", fallback=None)
    alone = replace(request, options=replace(options, decode=decode))
    if gap.end - gap.start < TELLS_LANGUAGE_S:
        alone = replace(alone, route=around.route, language=around.language)
    audio = model.encode_audio([gap.samples], on_step)
    if audio.no_speech_prob[0] > model.selector.no_speech:
        return []
    [decoded] = _decode_encoded(model, audio, alone, on_step)
    result = decoded[0]
    hypothesis, _ = result.hypotheses[result.route]
    doubtful = result.route == PRIMARY and options.thresholds.fails(
        hypothesis, result.no_speech_prob
    )
    if doubtful or not is_speech(result.text, gap.end - gap.start):
        return []
    return _with_gaps(model, gap, decoded, alone, on_step)


def _part(window: Window, start: float, end: float) -> Window:
    """Return the part of a window between two times, in seconds of the window."""
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    return Window(window.start + first / SAMPLE_RATE, window.samples[first:last])


def _decode(
    model: DualWhisper,
    clips: Sequence[np.ndarray],
    request: TranscribeRequest,
    on_step: OnStep,
) -> list[Decoded]:
    """Decode windows, each with its words if they are used."""
    return _decode_encoded(model, model.encode_audio(clips, on_step), request, on_step)


def _decode_encoded(
    model: DualWhisper, audio: EncodedAudio, request: TranscribeRequest, on_step: OnStep
) -> list[Decoded]:
    """`_decode` for windows that are encoded."""
    options = request.options
    if options.detect_only:
        return [(result, ()) for result in model.detect(audio, on_step)]
    routing = model.route(audio, route=request.route, language=request.language, on_step=on_step)
    decoded = model.decode_routes(audio, routing, routing.plan(), options.decode, on_step=on_step)
    results = model.conclude(audio, routing, decoded)
    rows = [
        i
        for i, result in enumerate(results)
        if _needs_words(model, audio.seconds[i], result, options)
    ]
    task = options.decode.generate.get("task", "transcribe")
    words = words_of(
        model,
        audio,
        results,
        task,
        rows=rows,
        encodings=decoded.encodings,
        required=options.words,
        on_step=on_step,
    )
    return list(zip(results, words, strict=True))


def _may_have_gaps(result: WindowResult, options: TranscribeOptions) -> bool:
    """Whether a window's words tell where words are missing.

    Those of a translation do not. Nor does a base that was not trained to tell the time know well
    enough what is no speech.
    """
    task = options.decode.generate.get("task", "transcribe")
    return options.decode.timestamps and task == "transcribe" and bool(result.text.strip())


def _can_have_gaps(result: WindowResult, words: Sequence[Word], options: TranscribeOptions) -> bool:
    """Whether gaps of a window are looked for."""
    silent = options.thresholds.is_silence(result.avg_logprob, result.no_speech_prob)
    return bool(words) and not silent and _may_have_gaps(result, options)


def _needs_words(
    model: DualWhisper, seconds: float, result: WindowResult, options: TranscribeOptions
) -> bool:
    """Whether the words of a window are used: requested, or to find gaps, or to cut sentences."""
    if options.words or _may_have_gaps(result, options):
        return True
    if not options.sentences:
        return False
    return result.route != PRIMARY or not model.backbone.spans(result.tokens, seconds)
