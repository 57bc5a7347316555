"""Files in, transcripts out: which windows are decoded together, by which route.

Windows of several files are decoded as one batch, so that time does not depend on how short files are.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dualasr.audio.windows import Window
from dualasr.errors import AudioError, DualasrError, MissingExtraError, PackError
from dualasr.languages import tag_among
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.transcription.alignment import words_of
from dualasr.transcription.recording import Answered, Audio, Piece, Recording, TranscribeOptions
from dualasr.transcription.transcript import Segment, Transcription


def transcribe(model: DualWhisper, audio: Audio, *, route: str | None = None, language: str | None = None,
               options: TranscribeOptions = TranscribeOptions()) -> Transcription:  # fmt: skip
    """Transcribe a file, or float samples of shape (samples,) at 16 kHz, of any length.

    `route` forces a pipeline, `language` a language (and, without a route, the pipeline that knows it). Raises PackError
    for either that is unknown, before the sound is looked at, and AudioError for sound that cannot be used.
    """
    check_choice(model, route, language)
    [(_, result)] = _transcribe_all(model, [audio], route, language, options)
    if isinstance(result, DualasrError):
        raise result
    return result


def transcribe_files(
    model: DualWhisper, paths: Iterable[str | Path], *, route: str | None = None, language: str | None = None,
    options: TranscribeOptions = TranscribeOptions(), heard: Callable[[float], None] = lambda seconds: None,
    said: Callable[[Path, Segment], None] | None = None,
) -> Iterator[tuple[Path, Transcription | DualasrError]]:  # fmt: skip
    """Transcribe files, each given in turn once it is whole; a broken one gives its error and the others are still done.

    `heard` is told the seconds of audio as they are read, `said` every segment once no later window can change it, file
    after file. Raises PackError at once for an unknown route or language, which would fail every file alike, and
    MissingExtraError where an extra is wanted and not there.
    """
    check_choice(model, route, language)
    return _transcribe_all(model, map(Path, paths), route, language, options, heard, said)


def _transcribe_all(model: DualWhisper, audios: Iterable[Audio], route: str | None, language: str | None,
                    options: TranscribeOptions, heard: Callable[[float], None] = lambda seconds: None,
                    said: Callable[[Audio, Segment], None] | None = None,
                    ) -> Iterator[tuple[Audio, Transcription | DualasrError]]:  # fmt: skip
    """Each audio with its transcript or error, in order."""
    size = 1 if options.condition_on_previous_text else options.batch
    files: deque[Recording] = deque()
    batch: list[tuple[Recording, Window]] = []

    def decode() -> None:
        answer(model, batch, route, language, options)
        batch.clear()

    def tell(file: Recording, *, last: bool = False) -> None:
        for segment in file.news(last=last) if said else ():
            said(file.audio, segment)

    def finished(still_read: Recording | None = None) -> Iterator[tuple[Audio, Transcription | DualasrError]]:
        """The files at the front that wait for no answer."""
        while files and files[0] is not still_read and all(files[0] is not other for other, _ in batch):
            tell(file := files.popleft(), last=True)
            yield file.audio, file.result()

    for audio in audios:
        file = Recording(audio, options, model.backbone.spans, heard=heard)
        files.append(file)
        for window in _readable(file, model.backbone.window_s):
            batch.append((file, window))
            if len(batch) == size:
                decode()
                yield from finished(file)
                tell(files[0])
        if file.error is not None:
            batch[:] = [pair for pair in batch if pair[0] is not file]
        yield from finished()
    if batch:
        decode()
    yield from finished()


def _readable(file: Recording, window_s: float) -> Iterator[Window]:
    """A file's windows, up to where reading it fails: whatever it is that fails is this file's error, and no other's."""
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
            file.error = AudioError(f"{name}: cannot be read as audio ({type(error).__name__}: {error})")
            return
        if window is None:
            return
        yield window


def answer(model: DualWhisper, batch: Sequence[tuple[Recording, Window]], route: str | None, language: str | None,
           options: TranscribeOptions) -> None:  # fmt: skip
    """Decode windows together and hand each recording its answers; of one recording they stand in their order.

    With `condition_on_previous_text` the batch is a single window. A prompt is that of the first windows of recordings alone,
    unless it is carried on.
    """
    if options.condition_on_previous_text:
        [(recording, _)] = batch
        options = replace(options, decode=recording.decode())
    elif options.decode.prompt and not options.carry_prompt:
        first = {id(file): i for i, (file, _) in reversed([*enumerate(batch)]) if not file.pieces}.values()
        if first:
            _answer(model, [batch[i] for i in sorted(first)], route, language, options)
        batch = [pair for i, pair in enumerate(batch) if i not in first]
        options = replace(options, decode=replace(options.decode, prompt=""))
    if batch:
        _answer(model, batch, route, language, options)


def _answer(model: DualWhisper, batch: Sequence[tuple[Recording, Window]], route: str | None, language: str | None,
            options: TranscribeOptions) -> None:  # fmt: skip
    """`answer` of windows that are all given the same prompt."""
    def again(samples: np.ndarray, to: str) -> Answered:
        return _hear(model, [samples], to, None, options)[0]

    answers = _hear(model, [window.samples for _, window in batch], route, language, options)
    for (recording, window), (result, words) in zip(batch, answers, strict=True):
        recording.take(Piece(window.start, window.end, result, words), window.samples, again, model.selector)


def _hear(model: DualWhisper, clips: Sequence[np.ndarray], route: str | None, language: str | None,
          options: TranscribeOptions) -> list[Answered]:  # fmt: skip
    """What is in windows, and its words where they are asked for."""
    heard = model.encode_audio(clips)
    if options.detect_only:
        return [(result, ()) for result in model.detect(heard)]
    results = model.transcribe_encoded(heard, route=route, language=language, options=options.decode)
    if not (options.words or options.sentences):
        return [(result, ()) for result in results]
    return list(zip(results, words_of(model, heard, results, options.decode.generate.get("task", "transcribe")), strict=True))


def check_choice(model: DualWhisper, route: str | None, language: str | None) -> None:
    """Raise PackError for a route or language that is unknown, or where the route knows no language that may be heard."""
    if route is None:
        if language is not None:
            model.route_of(language)
        return
    known = model.backbone.codes if route == PRIMARY else list(model.pack(route).info.languages)
    if model.languages is not None and not model.languages & set(known):
        raise PackError(f"Route {route!r} knows none of {', '.join(sorted(model.languages))}; it knows: {', '.join(known)}.")
    if language is not None and not (tag_among(language, known) if route == PRIMARY else language in known):
        raise PackError(f"Route {route!r} does not know {language!r}; it knows: {', '.join(known)}.")
