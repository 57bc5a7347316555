"""The command `dualasr transcribe`: find the files, transcribe them, and write the transcripts.

Each transcript is written as soon as its file is done, so that an interrupted run keeps them.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from glob import glob
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from dualasr.audio.load import SUFFIXES
from dualasr.cli import loading, transcribe_options
from dualasr.cli.transcribe_options import STDIN, check_choice, formats_of, options_of
from dualasr.cli.transcribe_ray import RayTranscriber
from dualasr.cli.transcriber import Job, Transcriber
from dualasr.errors import RunError, visible
from dualasr.transcription.writers import output_paths

LINE_EVERY = 30.0  # seconds between two lines of progress, where no bar is drawn


def find_inputs(names: Sequence[str], recursive: bool) -> list[Path]:
    """Find the files that the operands name.

    Args:
        names: Files, folders and patterns; "-" for standard input.
        recursive: Whether to look into the folders inside a folder.

    Returns:
        The files, each once.

    Raises:
        RunError: A folder holds no sound file, or a pattern matches none.
    """
    found: dict[Path, None] = {}
    for name in names:
        try:
            found |= dict.fromkeys(_found(name, recursive))
        except OSError as error:
            raise RunError(f"{name}: cannot be looked at ({error.strerror}).") from error
    return list(found)


def _found(name: str, recursive: bool) -> list[Path]:
    """Find the files of one operand."""
    path = Path(name) if name == STDIN or str(Path(name)) != STDIN else Path(name).absolute()
    if path.is_dir():
        shut: list[Path] = []  # unreadable folders; each is reported later, like a broken file
        walk = os.walk(path, onerror=lambda error: shut.append(Path(error.filename)))
        below = [
            Path(folder, name)
            for folder, _, names in (walk if recursive else islice(walk, 1))
            for name in names
        ]
        inside = sorted(p for p in below if p.suffix.lower() in SUFFIXES) + sorted(shut)
        if not inside:
            hint = "" if recursive else "; -r also looks into the folders inside it"
            raise RunError(f"{name}: no sound file in this folder ({', '.join(SUFFIXES)}){hint}.")
    elif name != STDIN and not path.exists() and any(c in name for c in "*?["):
        inside = [Path(p) for p in sorted(glob(name, recursive=recursive)) if Path(p).is_file()]
        if not inside:
            raise RunError(f"{name}: no file matches.")
    else:
        inside = [path]
    return inside


def place_of_output(folder: Path) -> None:
    """Make the output folder, and check that files can be written to it.

    Raises:
        RunError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"--output_dir {folder}: cannot be written to ({error.strerror}); choose another"
            " folder."
        ) from error


def transcribe_all(args: argparse.Namespace, load: Callable, start: Callable = Transcriber) -> int:
    """Transcribe all files that the flags name.

    Args:
        args: The flags.
        load: Function that loads the model; called after all flags were checked.
        start: Class or function that makes a `Transcriber`, or an object like it, from `args` and
            `load`.

    Returns:
        The exit code: 1 if a file failed.

    Raises:
        RunError: The flags make no sense, or the files cannot be found or written.
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
        files = {
            stack.enter_context(standard_input()) if str(path) == STDIN else path: path
            for path in inputs
        }
        places = output_paths(files, args.output_dir, formats)
        jobs = [Job(file, name, places[file]) for file, name in files.items()]
        todo = [job for job in jobs if not (args.skip_existing and is_done(job.output, formats))]
        counts = Counter(skipped=len(jobs) - len(todo))
        routes: dict[str, float] = {}  # seconds of text by route
        audio_s, began = 0.0, time.monotonic()
        bar = stack.enter_context(tqdm(total=len(todo), unit="file", disable=None))
        reported = began  # time of the last line of progress; a log gets lines in place of the bar

        def on_audio(seconds: float) -> None:
            nonlocal audio_s, reported
            audio_s += seconds
            now = time.monotonic()
            rate = f"{audio_s:.0f} s of audio, {audio_s / max(now - began, 1e-3):.1f} x real time"
            bar.set_postfix_str(rate)
            if bar.disable and now - reported >= LINE_EVERY:
                print(
                    f"{counts['done'] + counts['failed']} of {len(todo)} files; {rate}",
                    file=sys.stderr,
                )
                reported = now

        def show(line: str) -> None:
            try:
                encoding = out.encoding or "utf-8"
                tqdm.write(
                    visible(line).encode(encoding, "backslashreplace").decode(encoding), file=out
                )
                out.flush()
            # The reader has gone, or the disk is full. The transcripts in files do not need stdout.
            except OSError as error:
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
                if args.detect_only:
                    raise RunError(
                        f"Cannot write to standard output: {error.strerror}; --detect_only writes"
                        " nowhere else."
                    ) from error

        for outcome in transcribe(todo, on_audio, show):
            counts["done" if outcome.error is None else "failed"] += 1
            for route, seconds in outcome.route_seconds.items():
                routes[route] = routes.get(route, 0) + seconds
            if outcome.error is not None:
                tqdm.write(f"dualasr: {visible(outcome.error)}", file=sys.stderr)
            bar.update()
    print(summary(counts, audio_s, time.monotonic() - began, routes), file=sys.stderr)
    return 1 if counts["failed"] else 0


@contextmanager
def standard_input() -> Iterator[Path]:
    """Copy standard input to a temporary file with the name stdin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stdin")
        if sys.stdin is None:
            raise RunError("Standard input is closed; name a file, or pipe the sound in.")
        try:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise RunError(
                f"Cannot copy standard input to {folder}: {error.strerror or error}."
            ) from error
        yield path


def is_done(path: Path, formats: Sequence[str]) -> bool:
    """Return whether the transcripts at `path` (without suffix) exist in all formats."""
    return all(Path(f"{path}.{name}").is_file() for name in formats)


def length(seconds: float) -> str:
    """Write a time in seconds, minutes or hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def summary(
    counts: Counter[str], audio_s: float, took_s: float, routes: Mapping[str, float]
) -> str:
    """Write the line at the end of a run.

    Args:
        counts: Number of files that are done, skipped and failed.
        audio_s: Seconds of sound.
        took_s: Seconds of the run.
        routes: Seconds of text by route.

    Returns:
        For example "2 files; 60 s of sound in 6 s (10.0 x real time); routes: primary 100%".
    """
    speed = audio_s / max(took_s, 1e-3)
    parts = [
        f"{counts['done']} file{'' if counts['done'] == 1 else 's'}",
        f"{length(audio_s)} of sound in {length(took_s)} ({speed:.1f} x real time)",
    ]
    total = sum(routes.values())
    if total:
        ranked = sorted(routes.items(), key=lambda item: item[1], reverse=True)
        parts += ["routes: " + ", ".join(f"{route} {s / total:.0%}" for route, s in ranked)]
    parts += [f"{counts[name]} {name}" for name in ("skipped", "failed") if counts[name]]
    return "; ".join(parts)


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr transcribe`."""
    command.usage = "dualasr transcribe [options] AUDIO [AUDIO ...]"
    transcribe_options.add_flags(command)
    loading.model_flags(command.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    """Transcribe, with Ray if --ray is given; return the exit code."""
    if args.local_files_only:
        os.environ["HF_HUB_OFFLINE"] = "1"

    def load():
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        return loading.load(args, dtype=getattr(torch, args.dtype))

    if args.ray is None:
        return transcribe_all(args, load)
    from dualasr.model.whisper import find_device

    def start(args, load):
        args.device = find_device(args.device)
        return RayTranscriber(args, load)

    return transcribe_all(args, load, start)
