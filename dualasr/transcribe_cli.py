"""`dualasr transcribe`: which files, through a model, to which files. What was finished when it ends in between is on disk."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from glob import glob
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from dualasr.audio import SUFFIXES
from dualasr.errors import DualasrError, PackError, RunError
from dualasr.languages import tag_among
from dualasr.subtitles import span
from dualasr.transcribe_flags import STDIN, check_choice, formats_of, options_of
from dualasr.transcript import Segment, Transcription
from dualasr.writers import clock, output_paths, write

LINE_EVERY = 30.0  # s


def find_inputs(names: Sequence[str], recursive: bool) -> list[Path]:
    """Files as they are named, what is in folders, what patterns match; each once. Raises RunError where there is nothing."""
    found: dict[Path, None] = {}
    for name in names:
        try:
            found |= dict.fromkeys(_found(name, recursive))
        except OSError as error:
            raise RunError(f"{name}: cannot be looked at ({error.strerror}).") from error
    return list(found)


def _found(name: str, recursive: bool) -> list[Path]:
    """What one of the names stands for."""
    path = Path(name) if name == STDIN or str(Path(name)) != STDIN else Path(name).absolute()
    if path.is_dir():
        shut: list[Path] = []  # folders that cannot be looked into; each fails as a file does
        walk = os.walk(path, onerror=lambda error: shut.append(Path(error.filename)))
        below = [Path(folder, name) for folder, _, names in (walk if recursive else islice(walk, 1)) for name in names]
        inside = sorted(p for p in below if p.suffix.lower() in SUFFIXES) + sorted(shut)
        if not inside:
            hint = "" if recursive else "; -r looks into the folders below it"
            raise RunError(f"{name}: no sound file in this folder ({', '.join(SUFFIXES)}){hint}.")
    elif name != STDIN and not path.exists() and any(c in name for c in "*?["):
        inside = [Path(p) for p in sorted(glob(name, recursive=recursive)) if Path(p).is_file()]
        if not inside:
            raise RunError(f"{name}: no file matches.")
    else:
        inside = [path]
    return inside


def language_code(name: str, model) -> str:
    """The code of a language by its code or name, in any case, packs' included. Raises PackError that offers the nearest."""
    named = dict(model.backbone.language_names)
    for pack in model.packs.values():
        named |= {title.lower(): code for code, title in pack.info.languages.items()}
    codes = {code.lower(): code for code in named.values()}
    wanted = name.strip().lower()
    if found := codes.get(wanted) or named.get(wanted):
        return found
    if (tag := tag_among(wanted, list(model.backbone.languages))) is not None:
        return tag
    near = get_close_matches(wanted, [*codes, *named], n=3) or sorted(codes)
    raise PackError(f"No loaded pipeline knows the language {name!r}; nearest: {', '.join(near)}.")


def place_of_output(folder: Path) -> None:
    """Make the folder, and see that it can be written. Raises RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"--output_dir {folder}: cannot be written ({error.strerror}); choose another folder.") from error


def visible(text: str) -> str:
    """On one line, with what cannot be seen or written spelt out."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def shown(segment: Segment) -> str:
    """What --verbose prints of a segment: times, language and text."""
    return f"[{' --> '.join(map(clock, span(segment)))}] {segment.language}: {segment.text}"


def detected(path: Path, found: Transcription) -> str:
    """A file's language, its probability and pipeline, and the likeliest of the others, between tabs."""
    if found.language is None:
        return f"{path}\t-\t-\tno {'speech' if found.language_probs else 'sound'}"
    others = [(code, prob) for code, prob in found.language_probs.items() if code != found.language][:3]
    rest = ", ".join(f"{code} {prob:.3f}" for code, prob in others)
    return f"{path}\t{found.language}\t{found.language_probs[found.language]:.3f}\t{found.route}\t{rest}"


@dataclass(frozen=True)
class Job:
    """A file to transcribe, what it is called, and the path, without suffix, of what is written for it."""

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
    """The model that `load` gives, with what the flags ask of it. Raises PackError for a language or route unknown to it."""

    def __init__(self, args: argparse.Namespace, load: Callable):
        from dualasr.selector import PRIMARY

        options, self.subtitles = options_of(args)
        self.args, self.model = args, load()
        if args.task == "translate" and not self.model.backbone.languages:
            raise RunError(f"--task translate: {self.model.backbone.name} knows English alone.")
        decode = replace(options.decode, timestamps=self.model.backbone.tells_time)
        route = PRIMARY if args.task == "translate" else None if args.route == "auto" else args.route
        language = None if args.language is None else language_code(args.language, self.model)
        self.asked = {"options": replace(options, decode=decode), "route": route, "language": language}
        if args.languages:
            names = [name for name in args.languages.split(",") if name.strip()]
            self.model = self.model.among([language_code(name, self.model) for name in names])

    def __call__(self, jobs: Sequence[Job], heard: Callable[[float], None], show: Callable[[str], None]) -> Iterator[Outcome]:
        """Transcribe files and write what is asked for, each once it is whole; `heard` is told the seconds of audio, `show` the
        lines that the flags want to see, as they come."""
        from dualasr.transcription import transcribe_files

        job_of = {job.file: job for job in jobs}
        verbose, begun = self.args.verbose and not self.args.detect_only, set()

        def begin(file: Path) -> None:
            if verbose and file not in begun:
                begun.add(file)
                show(f"{job_of[file].name}")

        def said(file: Path, segment: Segment) -> None:
            begin(file)
            show(shown(segment))

        for file, result in transcribe_files(self.model, job_of, heard=heard, said=said if verbose else None, **self.asked):
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


def transcribe_all(args: argparse.Namespace, load: Callable, start: Callable = Transcriber) -> int:
    """What the flags ask for; the exit code. `load` gives the model with their base and packs, and is called last.

    `start` makes of the flags and `load` what transcribes files, as `Transcriber` does.
    """
    check_choice(args)
    options_of(args)
    inputs = find_inputs(args.audio, args.recursive)
    if not args.detect_only:
        place_of_output(args.output_dir)
    formats = formats_of(args)
    with ExitStack() as stack:
        out = sys.stdout or stack.enter_context(open(os.devnull, "w"))
        transcribe = start(args, load)
        files = {stack.enter_context(standard_input()) if str(path) == STDIN else path: path for path in inputs}
        places = output_paths(files, args.output_dir, formats)
        jobs = [Job(file, name, places[file]) for file, name in files.items()]
        todo = [job for job in jobs if not (args.skip_existing and is_done(job.output, formats))]
        counts, routes, heard, began = Counter(skipped=len(jobs) - len(todo)), Counter(), 0.0, time.monotonic()
        bar = stack.enter_context(tqdm(total=len(todo), unit="file", disable=None))

        told = began  # when a line said how far it is, where a bar would only fill a log

        def tell(seconds: float) -> None:
            nonlocal heard, told
            heard += seconds
            now = time.monotonic()
            rate = f"{heard:.0f} s of audio, {heard / max(now - began, 1e-3):.1f} x real time"
            bar.set_postfix_str(rate)
            if bar.disable and now - told >= LINE_EVERY:
                print(f"{counts['done'] + counts['failed']} of {len(todo)} files; {rate}", file=sys.stderr)
                told = now

        def show(line: str) -> None:
            try:
                encoding = out.encoding or "utf-8"
                tqdm.write(visible(line).encode(encoding, "backslashreplace").decode(encoding), file=out)
                out.flush()
            except OSError as error:  # nobody reads on, or the disk is full: what is written to files does not depend on it
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
                if args.detect_only:
                    raise RunError(f"Nobody reads what is detected: {error.strerror}.") from error

        for outcome in transcribe(todo, tell, show):
            counts["done" if outcome.error is None else "failed"] += 1
            routes.update(outcome.route_seconds)
            if outcome.error is not None:
                tqdm.write(f"dualasr: {visible(outcome.error)}", file=sys.stderr)
            bar.update()
    print(summary(counts, heard, time.monotonic() - began, routes), file=sys.stderr)
    return 1 if counts["failed"] else 0


@contextmanager
def standard_input() -> Iterator[Path]:
    """What comes by standard input as a file, stdin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdin")
        if sys.stdin is None:
            raise RunError("Standard input is closed; give a file's name, or pipe the sound in.")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise RunError(f"Standard input cannot be kept in {folder}: {error.strerror or error}.") from error
        yield path


def is_done(path: Path, formats: Sequence[str]) -> bool:
    return all(Path(f"{path}.{name}").is_file() for name in formats)


def length(seconds: float) -> str:
    """In seconds, minutes or hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def summary(counts: Counter, heard: float, took: float, routes: Counter) -> str:
    """The line at the end: files, how much sound, how much faster than they last, the routes of what was said."""
    files = f"{counts['done']} file{'' if counts['done'] == 1 else 's'}"
    parts = [files, f"{length(heard)} of sound in {length(took)} ({heard / max(took, 1e-3):.1f} x real time)"]
    total = sum(routes.values())
    if total:
        parts += ["routes: " + ", ".join(f"{route} {seconds / total:.0%}" for route, seconds in routes.most_common())]
    parts += [f"{counts[name]} {name}" for name in ("skipped", "failed") if counts[name]]
    return "; ".join(parts)
