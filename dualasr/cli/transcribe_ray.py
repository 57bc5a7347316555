"""Transcription by many workers, on one machine or a cluster, with Ray Data (extra: ray).

A worker is a process with a model of its own. It takes a block of files, writes their transcripts
itself, and returns only messages and counts. All machines must see the files, the packs and the
output folder under the same paths.
"""

import argparse
import logging
import math
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout

from dualasr.cli.transcriber import Job, Outcome, Transcriber
from dualasr.errors import DualasrError, MissingExtraError, RunError

ENVIRONMENT = (  # variables that workers get from the command
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "TRANSFORMERS_VERBOSITY",
    "TOKENIZERS_PARALLELISM",
    "DUALASR_PACKS",
)
BLOCKS = 10_000  # most blocks of a run; each costs Ray about a millisecond before the start
LOST_BLOCKS = 100  # the run ends if the workers of more blocks than these have died


class RayTranscriber:
    """A `Transcriber` that uses `args.ray` workers; 0 for as many as fit.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, args: argparse.Namespace, load: Callable):
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ray", "ray") from error
        self.args, self.load = args, load

    def __call__(
        self, jobs: Sequence[Job], on_audio: Callable[[float], None], show: Callable[[str], None]
    ) -> Iterator[Outcome]:
        """Transcribe files, and write their transcripts.

        A worker that dies is started again, and gets its block once more. If it dies a second
        time, or raises an error that is no DualasrError, the unfinished files of the block fail at
        the end.

        Args:
            jobs: The files.
            on_audio: Function that is called with the seconds of sound of each file.
            show: Function that prints a line of --verbose or --detect_only.

        Yields:
            The result for each file, in the order in which blocks are done.

        Raises:
            RunError: The workers do not fit, the flags suit no file, Ray cannot be reached, or
                more than LOST_BLOCKS blocks are lost.
        """
        if not jobs:
            return
        import ray
        import ray.data

        waiting = {job.file: job for job in jobs}
        try:
            # Without an address, Ray tries for minutes to reach a cluster that ran here before.
            address = os.environ.get("RAY_ADDRESS", "local")
            # Ray reports a dead worker on stdout, which is for transcripts.
            with (
                redirect_stdout(sys.stderr),
                ray.init(address, include_dashboard=False, logging_level=logging.ERROR),
            ):
                for row in self._dataset(jobs).iter_rows():
                    outcome, seconds, lines = pickle.loads(row["report"])
                    if isinstance(outcome, str):
                        raise RunError(outcome)
                    on_audio(seconds)
                    for line in lines:
                        show(line)
                    del waiting[outcome.job.file]
                    yield outcome
        except (ray.exceptions.RayError, ConnectionError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = (
                next((line for line in reversed(lines) if "Error: " in line), lines[-1])
                .strip()
                .rstrip(".")
            )
            raise RunError(
                f"Ray stopped: {reason}. Finished transcripts are kept; run the command again with"
                " --skip_existing to do the rest."
            ) from error
        for job in waiting.values():
            yield Outcome(
                job,
                f"{job.name}: its worker died or failed (see Ray's messages above); run the"
                " command again with --skip_existing to retry.",
            )

    def _dataset(self, jobs: Sequence[Job]):
        """Make the dataset that sends blocks of files through the workers.

        Raises RunError if the workers do not fit.
        """
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = LOST_BLOCKS
        context.execution_no_progress_timeout_s = -1  # a block of long files takes hours
        threads, gpus, there = (
            self.args.threads or 1,
            int(self.args.device == "cuda"),
            ray.cluster_resources(),
        )
        fits = int(there.get("CPU", 0) // threads)
        if gpus:
            fits = min(fits, int(there.get("GPU", 0)))
        workers = self.args.ray or fits
        if not 1 <= workers <= fits:
            each = f"--threads {threads}" + " and a GPU each" * gpus
            raise RunError(
                f"--ray {workers}: Ray has room for {fits} workers with {each}; use fewer workers"
                " or threads, or set RAY_ADDRESS to a larger cluster."
            )
        size = block_size(len(jobs), workers, self.args.batch_size)
        rows = [{"jobs": pickle.dumps(jobs[at : at + size])} for at in range(0, len(jobs), size)]
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        # Ray warns that 2.64 will remove max_task_retries, but names no replacement.
        with warnings.catch_warnings(action="ignore"):
            return ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).flat_map(
                Worker,
                fn_constructor_args=(self.args, self.load, os.getcwd(), environment),
                num_cpus=threads,
                num_gpus=gpus,
                compute=ray.data.ActorPoolStrategy(
                    size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1
                ),
                max_task_retries=1,
            )


class Worker:
    """A worker's process, in the folder and environment of the command.

    The model is loaded for the first block.
    """

    def __init__(
        self, args: argparse.Namespace, load: Callable, folder: str, environment: Mapping[str, str]
    ):
        os.environ.update(environment)
        self.args, self.load, self.folder = args, load, folder
        self.transcribe: Transcriber | None = None

    def __call__(self, row: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
        """Transcribe a block.

        Yields the outcome of each file, with the seconds of sound and the lines to show since the
        last one; or the message of an error that ends the run.
        """
        seconds: list[float] = []
        lines: list[str] = []
        try:
            if self.transcribe is None:
                os.chdir(self.folder)
                self.transcribe = Transcriber(self.args, self.load)
            for outcome in self.transcribe(pickle.loads(row["jobs"]), seconds.append, lines.append):
                yield {"report": pickle.dumps((outcome, sum(seconds), lines))}
                seconds.clear()
                lines.clear()
        except DualasrError as error:
            yield {"report": pickle.dumps((str(error), 0.0, []))}


def block_size(files: int, workers: int, batch: int) -> int:
    """Choose the number of files in a block.

    A block should fill a batch with short files, but each worker should get at least four blocks,
    so that all end at about the same time.

    Args:
        files: Number of files of the run.
        workers: Number of workers.
        batch: Windows that are decoded together.

    Returns:
        The number of files in a block, at least 1.
    """
    return max(1, min(batch, math.ceil(files / (4 * workers))))
