"""Transcribing files as the flags ask: each file once it is whole, and what is shown of it."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dualasr.cli.transcribe_options import formats_of, options_of
from dualasr.errors import DualasrError, RunError
from dualasr.transcription.subtitles import span
from dualasr.transcription.transcript import Segment, Transcription
from dualasr.transcription.writers import clock, write


def shown(segment: Segment) -> str:
    """What --verbose prints of a segment: times, language and text."""
    return f"[{' --> '.join(map(clock, span(segment)))}] {segment.language}: {segment.text}"


def detected(path: Path, found: Transcription) -> str:
    """A file's language, its probability and pipeline, and the likeliest of the others, between
    tabs.
    """
    if found.language is None:
        return f"{path}\t-\t-\tno {'speech' if found.language_probs else 'sound'}"
    others = [
        (code, prob) for code, prob in found.language_probs.items() if code != found.language
    ][:3]
    rest = ", ".join(f"{code} {prob:.3f}" for code, prob in others)
    return f"{path}\t{found.language}\t{found.language_probs[found.language]:.3f}\t{found.route}\t{rest}"


@dataclass(frozen=True)
class Job:
    """A file to transcribe, what it is called, and the path, without suffix, of what is written for
    it.
    """

    file: Path
    name: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a file: the error that it failed with, or the seconds of text by route."""

    job: Job
    error: str | None = None
    route_seconds: Mapping[str, float] = field(default_factory=dict)


class Transcriber:
    """The model that `load` gives, with what the flags ask of it. Raises PackError for a language
    or route unknown to it.
    """

    def __init__(self, args: argparse.Namespace, load: Callable):
        from dualasr.model.selector import PRIMARY
        from dualasr.transcription.request import TranscribeRequest

        options, self.subtitles = options_of(args)
        self.args, self.model = args, load()
        if args.task == "translate" and not self.model.backbone.languages:
            raise RunError(f"--task translate: {self.model.backbone.name} knows English alone.")
        decode = replace(options.decode, timestamps=self.model.backbone.tells_time)
        route = (
            PRIMARY if args.task == "translate" else None if args.route == "auto" else args.route
        )
        language = None if args.language is None else self.model.language_code(args.language)
        self.request = TranscribeRequest(route, language, replace(options, decode=decode))
        if args.languages:
            names = [name for name in args.languages.split(",") if name.strip()]
            self.model = self.model.among([self.model.language_code(name) for name in names])

    def __call__(
        self, jobs: Sequence[Job], on_audio: Callable[[float], None], show: Callable[[str], None]
    ) -> Iterator[Outcome]:
        """Transcribe files and write what is asked for, each once it is whole; `on_audio` is told
        the seconds of audio, `show` the lines that the flags want to see, as they come.
        """
        from dualasr.transcription.transcribe import transcribe_files

        job_of = {job.file: job for job in jobs}
        verbose, begun = self.args.verbose and not self.args.detect_only, set()

        def begin(file: Path) -> None:
            if verbose and file not in begun:
                begun.add(file)
                show(f"{job_of[file].name}")

        def on_segment(file: Path, segment: Segment) -> None:
            begin(file)
            show(shown(segment))

        for file, result in transcribe_files(
            self.model,
            job_of,
            self.request,
            on_audio=on_audio,
            on_segment=on_segment if verbose else None,
        ):
            job = job_of[file]
            try:
                if isinstance(result, DualasrError):
                    raise result
                begin(file)
                if self.args.detect_only:
                    show(detected(job.name, result))
                else:
                    write(result, job.output, formats_of(self.args), self.subtitles)
                yield Outcome(job, route_seconds=result.scores["route_seconds"])
            except DualasrError as error:
                yield Outcome(job, str(error).replace(str(job.file), str(job.name)))
