"""Transcription of files for the command line: transcripts are written file by file."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dualasr.cli.transcribe_options import formats_of, options_of
from dualasr.errors import DualasrError, RunError
from dualasr.transcription.subtitles import span
from dualasr.transcription.transcript import Segment, Transcription
from dualasr.transcription.writers import clock, write

if TYPE_CHECKING:
    from dualasr.transcription.recording import Audio


def segment_line(segment: Segment) -> str:
    """Write the line that --verbose prints for a segment: times, language and text."""
    return f"[{' --> '.join(map(clock, span(segment)))}] {segment.language}: {segment.text}"


def language_line(path: Path, found: Transcription) -> str:
    """Write the line that --detect_only prints for a file.

    It holds the file, its language, the language's probability, the pipeline, and the most likely
    other languages, separated by tabs.
    """
    if found.language is None:
        return f"{path}\t-\t-\tno {'speech' if found.language_probs else 'sound'}"
    others = [
        (code, prob) for code, prob in found.language_probs.items() if code != found.language
    ][:3]
    rest = ", ".join(f"{code} {prob:.3f}" for code, prob in others)
    probability = f"{found.language_probs[found.language]:.3f}"
    return "\t".join([str(path), found.language, probability, found.route, rest])


@dataclass(frozen=True)
class Job:
    """A file to transcribe.

    Attributes:
        file: Path of the file to read.
        name: The path to show to the user.
        output: Path of its transcripts, without suffix.
    """

    file: Path
    name: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """The result for a file.

    Attributes:
        job: The file.
        error: Message of the error that it failed with; None if it is done.
        route_seconds: Seconds of text by route.
    """

    job: Job
    error: str | None = None
    route_seconds: Mapping[str, float] = field(default_factory=dict)


class Transcriber:
    """A model with the request that the flags describe.

    Args:
        args: The flags.
        load: Function that loads the model.

    Raises:
        RunError: The base cannot translate, and --task is translate.
        PackError: The model does not know a language of the flags.
    """

    def __init__(self, args: argparse.Namespace, load: Callable):
        from dualasr.model.selector import PRIMARY
        from dualasr.transcription.request import TranscribeRequest

        options, self.subtitles = options_of(args)
        self.args, self.model = args, load()
        if args.task == "translate" and not self.model.backbone.languages:
            raise RunError(f"--task translate: {self.model.backbone.name} knows only English.")
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
        """Transcribe files, and write each transcript as soon as its file is done.

        Args:
            jobs: The files.
            on_audio: Function that is called with the seconds of sound of each block that was read.
            show: Function that prints a line of --verbose or --detect_only.

        Yields:
            The result for each file, in order.
        """
        from dualasr.transcription.transcribe import transcribe_files

        job_of: dict[Audio, Job] = {job.file: job for job in jobs}
        verbose = self.args.verbose and not self.args.detect_only
        begun: set[Audio] = set()

        def begin(file: "Audio") -> None:
            if verbose and file not in begun:
                begun.add(file)
                show(f"{job_of[file].name}")

        def on_segment(file: "Audio", segment: Segment) -> None:
            begin(file)
            show(segment_line(segment))

        for file, result in transcribe_files(
            self.model,
            [job.file for job in jobs],
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
                    show(language_line(job.name, result))
                else:
                    write(result, job.output, formats_of(self.args), self.subtitles)
                yield Outcome(job, route_seconds=result.scores["route_seconds"])
            except DualasrError as error:
                yield Outcome(job, str(error).replace(str(job.file), str(job.name)))
