"""Start `dualasr` in a process of its own, which a test can kill.

The processes are forked from a server that has imported what training needs: the import alone takes
longer than a small training does. They share nothing with the test or with each other.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["dualasr.training.add_language"])


@dataclass(frozen=True)
class Started:
    """A started process, with the files that its standard output and error go to."""

    process: multiprocessing.Process
    out: Path
    err: Path

    def wait(self) -> int:
        """Wait for the end and return the exit code; it is negative after a signal."""
        self.process.join()
        return self.process.exitcode

    def running(self) -> bool:
        return self.process.exitcode is None

    def kill(self) -> int:
        """Send SIGKILL and wait for the end."""
        os.kill(self.process.pid, signal.SIGKILL)
        return self.wait()


def start_dualasr(
    arguments: Sequence[str],
    folder: Path,
    *,
    threads: int | None = None,
    file_limit: int | None = None,
) -> Started:
    """Start `dualasr ARGUMENTS`; its output goes to files in `folder`.

    Args:
        arguments: the command's words after `dualasr`.
        folder: an existing folder.
        threads: how many threads torch has; by default as many as in a new process.
        file_limit: the size in bytes that no written file can exceed, which stands in for a full
            disk.

    Returns:
        The process, which runs meanwhile.
    """
    number = len(list(folder.glob("*.out")))
    out, err = (folder / f"{number}.{name}" for name in ("out", "err"))
    out.touch()
    process = FORKED.Process(target=_main, args=(list(arguments), out, err, threads, file_limit))
    process.start()
    return Started(process, out, err)


def run_dualasr(arguments: Sequence[str], folder: Path, **limits: int | None) -> Started:
    """Run `dualasr ARGUMENTS` to its end; as `start_dualasr` otherwise."""
    started = start_dualasr(arguments, folder, **limits)
    started.wait()
    return started


def _main(
    arguments: list[str], out: Path, err: Path, threads: int | None, file_limit: int | None
) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    from dualasr.cli.main import main

    sys.exit(main(arguments))
