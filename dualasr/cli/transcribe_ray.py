"""Transcription by many workers, of one machine or a cluster: blocks of files through Ray Data
(extra: ray).

A worker is a process with a model of its own, and writes the transcripts itself; what comes back is
what there is to tell. All machines see the files, the packs and the output folder under the same
paths.
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

ENVIRONMENT = (
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "TRANSFORMERS_VERBOSITY",
    "TOKENIZERS_PARALLELISM",
    "DUALASR_PACKS",
)
BLOCKS = 10_000  # each costs Ray about a millisecond before it starts
LOST_BLOCKS = 100  # so many may fail with their worker until the run is given up


class RayTranscriber:
    """`Transcriber`, but for `args.ray` workers, 0 for as many as fit. Raises MissingExtraError."""

    def __init__(self, args: argparse.Namespace, load: Callable):
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ray", "ray") from error
        self.args, self.load = args, load

    def __call__(
        self, jobs: Sequence[Job], on_audio: Callable[[float], None], show: Callable[[str], None]
    ) -> Iterator[Outcome]:
        """Transcribe and write; files in the order in which their blocks are done, and shown then.

        A worker that dies is started again, and its block given out once more. If it dies once
        more, or fails in a way that is no DualasrError, the files of the block that have no answer
        fail, at the end. Raises RunError where the workers do not fit, where no file can be
        transcribed as the flags ask, where Ray cannot be reached, and after LOST_BLOCKS lost
        blocks.
        """
        if not jobs:
            return
        import ray
        import ray.data

        waiting = {job.file: job for job in jobs}
        try:
            # else Ray also tries what ran here last, for minutes
            address = os.environ.get("RAY_ADDRESS", "local")
            # Ray says on stdout that a worker died, where transcripts are shown
            with (
                redirect_stdout(sys.stderr),
                ray.init(address, include_dashboard=False, logging_level=logging.ERROR),
            ):
                for row in self._dataset(jobs).iter_rows():
                    outcome, seconds, lines = pickle.loads(row["told"])
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
                f"Ray gave up: {reason}. What was finished is kept; --skip_existing goes on."
            ) from error
        for job in waiting.values():
            yield Outcome(
                job,
                f"{job.name}: its worker died or failed, as Ray says above; --skip_existing tries"
                " it again.",
            )

    def _dataset(self, jobs: Sequence[Job]):
        """The files in blocks, through the workers. Raises RunError where these do not fit."""
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
                f"--ray {workers}: Ray has room for {fits} with {each}; ask for fewer workers or"
                " threads, or set RAY_ADDRESS to a larger cluster."
            )
        size = block_size(len(jobs), workers, self.args.batch_size)
        rows = [{"jobs": pickle.dumps(jobs[at : at + size])} for at in range(0, len(jobs), size)]
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        # max_task_retries goes in Ray 2.64, and has no successor yet
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
    """What a worker's process does, in the folder and environment of the command. The model is
    loaded for the first block.
    """

    def __init__(
        self, args: argparse.Namespace, load: Callable, folder: str, environment: Mapping[str, str]
    ):
        os.environ.update(environment)
        self.args, self.load, self.folder = args, load, folder
        self.transcribe: Transcriber | None = None

    def __call__(self, row: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
        """A block's outcomes, each with the seconds that were heard and the lines that were shown
        since the last; or the sentence that ends the run.
        """
        seconds: list[float] = []
        lines: list[str] = []
        try:
            if self.transcribe is None:
                os.chdir(self.folder)
                self.transcribe = Transcriber(self.args, self.load)
            for outcome in self.transcribe(pickle.loads(row["jobs"]), seconds.append, lines.append):
                yield {"told": pickle.dumps((outcome, sum(seconds), lines))}
                seconds.clear()
                lines.clear()
        except DualasrError as error:
            yield {"told": pickle.dumps((str(error), 0.0, []))}


def block_size(files: int, workers: int, batch: int) -> int:
    """Files that a worker takes at once: short ones fill a batch, but each worker has four blocks
    or more if it can.
    """
    return max(1, min(batch, math.ceil(files / (4 * workers))))
