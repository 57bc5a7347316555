"""Files in, transcripts out: which windows are decoded together, by which route.

Windows of several files are decoded as one batch, so that the time does not depend on how short the
files are.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dualasr.audio.windows import Window
from dualasr.errors import AudioError, DualasrError, MissingExtraError
from dualasr.model.dual_whisper import DualWhisper, WindowResult
from dualasr.model.selector import PRIMARY
from dualasr.transcription.alignment import check_alignment, words_of
from dualasr.transcription.recording import Answered, Audio, Piece, Recording
from dualasr.transcription.request import TranscribeOptions, TranscribeRequest
from dualasr.transcription.transcript import Segment, Transcription

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
        audio: A file's path, a part of a file, or float samples of shape (samples,) at 16 kHz.
        route: "primary" or a pack's name; None for the selector's choice.
        language: A language's code; without a route, the pipeline that knows it is taken.
        options: How it is transcribed.

    Returns:
        The text, with segments (times in seconds), routes, and the evidence for them.

    Raises:
        PackError: The route or the language is unknown. The sound is not read then.
        AudioError: The sound cannot be used.
        AlignmentError: A pack's words are wanted, and torchaudio cannot be loaded.
    """
    request = TranscribeRequest(route, language, options)
    check_request(model, request)
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
    """Transcribe files, and yield each in turn once it is whole; a broken file yields its error,
    and the others are still done.

    Args:
        model: A base with packs.
        paths: The files.
        request: What is asked of every file.
        on_audio: Is told the seconds of sound as they are read.
        on_segment: Is told every segment once no later window can change it, file after file.

    Raises:
        PackError: The route or the language is unknown: every file would fail alike.
        MissingExtraError: An extra is needed that is not installed.
        AlignmentError: A pack's words are wanted, and torchaudio cannot be loaded.
    """
    check_request(model, request)
    return _transcribe_all(model, map(Path, paths), request, on_audio, on_segment)


@dataclass
class Batcher:
    """Collects windows of files until a batch is full, and gives files out in their order once they
    are whole.
    """

    model: DualWhisper
    request: TranscribeRequest
    on_segment: OnSegment | None = None
    files: deque[Recording] = field(default_factory=deque)  # that were begun and not given out
    batch: list[tuple[Recording, Window]] = field(default_factory=list)  # that wait to be decoded

    @property
    def size(self) -> int:
        """Windows that make a batch."""
        options = self.request.options
        return 1 if options.condition_on_previous_text else options.batch

    def add(self, file: Recording, window: Window) -> bool:
        """Take a window; decode the batch if it is full, and return whether it was."""
        self.batch.append((file, window))
        if len(self.batch) < self.size:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Decode what waits."""
        if self.batch:
            answer(self.model, self.batch, self.request)
            self.batch.clear()

    def drop(self, file: Recording) -> None:
        """Forget the windows of a file that cannot be read to its end."""
        self.batch[:] = [pair for pair in self.batch if pair[0] is not file]

    def finished(self, still_read: Recording | None = None) -> Iterator[Result]:
        """Give out the files at the front that wait for no answer."""
        while (
            self.files
            and self.files[0] is not still_read
            and all(self.files[0] is not file for file, _ in self.batch)
        ):
            file = self.files.popleft()
            self.report(file, last=True)
            yield file.audio, file.result()

    def report(self, file: Recording, *, last: bool = False) -> None:
        """Tell the segments of a file that are certain by now."""
        if self.on_segment is not None:
            for segment in file.new_segments(last=last):
                self.on_segment(file.audio, segment)


def check_request(model: DualWhisper, request: TranscribeRequest) -> None:
    """Raise an error for a request that every sound would fail with.

    Raises:
        PackError: The model lacks the route or the language, or the route knows no allowed
            language.
        AlignmentError: Words are wanted that a pack cannot give without torchaudio; the primary's
            need none.
    """
    request.check(model)
    if not request.options.words or request.options.detect_only:
        return
    route = request.route
    if route is None and request.language is not None:
        route = model.route_of(request.language)
    if route != PRIMARY and model.packs:
        check_alignment()


def _transcribe_all(
    model: DualWhisper,
    audios: Iterable[Audio],
    request: TranscribeRequest,
    on_audio: OnAudio = lambda seconds: None,
    on_segment: OnSegment | None = None,
) -> Iterator[Result]:
    """Each audio with its transcript or error, in order."""
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
    """A file's windows, up to where reading it fails: whatever fails is this file's error, and no
    other's.
    """
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


def answer(
    model: DualWhisper, batch: Sequence[tuple[Recording, Window]], request: TranscribeRequest
) -> None:
    """Decode windows together and hand each recording its answers; those of one recording stand in
    their order.

    With `condition_on_previous_text` the batch is a single window. A prompt is for the first
    windows of recordings alone, unless it is carried on.
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
            _answer(model, [batch[i] for i in sorted(first)], request)
        batch = [pair for i, pair in enumerate(batch) if i not in first]
        request = replace(
            request, options=replace(options, decode=replace(options.decode, prompt=""))
        )
    if batch:
        _answer(model, batch, request)


def _answer(
    model: DualWhisper, batch: Sequence[tuple[Recording, Window]], request: TranscribeRequest
) -> None:
    """`answer` for windows that all get the same prompt."""

    def again(samples: np.ndarray, route: str) -> Answered:
        return _decode(model, [samples], replace(request, route=route, language=None))[0]

    answers = _decode(model, [window.samples for _, window in batch], request)
    for (recording, window), (result, words) in zip(batch, answers, strict=True):
        recording.add(
            Piece(window.start, window.end, result, words), window.samples, again, model.selector
        )


def _decode(
    model: DualWhisper, clips: Sequence[np.ndarray], request: TranscribeRequest
) -> list[Answered]:
    """Each window's result, and its words where they are used."""
    audio, options = model.encode_audio(clips), request.options
    if options.detect_only:
        return [(result, ()) for result in model.detect(audio)]
    routing = model.route(audio, route=request.route, language=request.language)
    decoded = model.decode_routes(audio, routing, routing.plan(), options.decode)
    results = model.conclude(audio, routing, decoded)
    rows = [
        i
        for i, result in enumerate(results)
        if _needs_words(model, audio.seconds[i], result, options)
    ]
    task = options.decode.generate.get("task", "transcribe")
    words = words_of(
        model, audio, results, task, rows=rows, encodings=decoded.encodings, required=options.words
    )
    return list(zip(results, words, strict=True))


def _needs_words(
    model: DualWhisper, seconds: float, result: WindowResult, options: TranscribeOptions
) -> bool:
    """Whether the times of a window's words are used: shown, or to cut sentences where no
    timestamps do it.
    """
    if options.words or not options.sentences:
        return options.words
    return result.route != PRIMARY or not model.backbone.spans(result.tokens, seconds)
