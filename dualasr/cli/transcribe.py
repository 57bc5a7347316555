"""`dualasr transcribe`: which files, through a model, to which files. What was finished when it
ends in between is on disk.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from dualasr.errors import RunError
from dualasr.transcription.writers import output_paths

LINE_EVERY = 30.0  # s


def find_inputs(names: Sequence[str], recursive: bool) -> list[Path]:
    """Files as they are named, what is in folders, what patterns match; each once. Raises RunError
    where there is nothing.
    """
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
        below = [
            Path(folder, name)
            for folder, _, names in (walk if recursive else islice(walk, 1))
            for name in names
        ]
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


def place_of_output(folder: Path) -> None:
    """Make the folder, and see that it can be written. Raises RunError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"--output_dir {folder}: cannot be written ({error.strerror}); choose another folder."
        ) from error


def visible(text: str) -> str:
    """On one line, with what cannot be seen or written spelt out."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def transcribe_all(args: argparse.Namespace, load: Callable, start: Callable = Transcriber) -> int:
    """What the flags ask for; the exit code. `load` gives the model with their base and packs, and
    is called last.

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
        files = {
            stack.enter_context(standard_input()) if str(path) == STDIN else path: path
            for path in inputs
        }
        places = output_paths(files, args.output_dir, formats)
        jobs = [Job(file, name, places[file]) for file, name in files.items()]
        todo = [job for job in jobs if not (args.skip_existing and is_done(job.output, formats))]
        counts, routes, heard, began = (
            Counter(skipped=len(jobs) - len(todo)),
            Counter(),
            0.0,
            time.monotonic(),
        )
        bar = stack.enter_context(tqdm(total=len(todo), unit="file", disable=None))

        told = began  # when a line said how far it is, where a bar would only fill a log

        def tell(seconds: float) -> None:
            nonlocal heard, told
            heard += seconds
            now = time.monotonic()
            rate = f"{heard:.0f} s of audio, {heard / max(now - began, 1e-3):.1f} x real time"
            bar.set_postfix_str(rate)
            if bar.disable and now - told >= LINE_EVERY:
                print(
                    f"{counts['done'] + counts['failed']} of {len(todo)} files; {rate}",
                    file=sys.stderr,
                )
                told = now

        def show(line: str) -> None:
            try:
                encoding = out.encoding or "utf-8"
                tqdm.write(
                    visible(line).encode(encoding, "backslashreplace").decode(encoding), file=out
                )
                out.flush()
            # nobody reads on, or the disk is full: what is written to files does not depend on it
            except OSError as error:
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
            raise RunError(
                f"Standard input cannot be kept in {folder}: {error.strerror or error}."
            ) from error
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
    """The line at the end: files, how much sound, how much faster than they last, the routes of
    what was said.
    """
    files = f"{counts['done']} file{'' if counts['done'] == 1 else 's'}"
    parts = [
        files,
        f"{length(heard)} of sound in {length(took)} ({heard / max(took, 1e-3):.1f} x real time)",
    ]
    total = sum(routes.values())
    if total:
        parts += [
            "routes: "
            + ", ".join(f"{route} {seconds / total:.0%}" for route, seconds in routes.most_common())
        ]
    parts += [f"{counts[name]} {name}" for name in ("skipped", "failed") if counts[name]]
    return "; ".join(parts)


def add_flags(command: argparse.ArgumentParser) -> None:
    command.usage = "dualasr transcribe [options] AUDIO [AUDIO ...]"
    transcribe_options.add_flags(command)
    loading.model_flags(command.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
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
