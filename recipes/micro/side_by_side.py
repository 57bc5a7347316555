"""Time ways of doing the same thing in turns in one process, and measure the memory of each.

On a busy machine seconds mean little; ratios mean more. The ways of a row take turns clip by clip.
A ratio is of two sums over clips: of each clip's median over the rounds, and of its mean. Memory is
the peak of the resident set of a fresh process, loading included.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers.utils import logging
from whisper_shape import SHAPES

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.cli.main import QUIET
from dualasr.data.corpus import load_corpus
from dualasr.data.utterance import Utterance
from dualasr.model.whisper import Backbone

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PAUSE = np.zeros(SAMPLE_RATE // 3, np.float32)


@dataclass(frozen=True)
class Row:
    """A line of the table: ratios by median and by mean."""

    number: int
    what: str
    median: float
    mean: float
    target: float | None = None
    note: str = ""

    def __str__(self) -> str:
        target = "" if self.target is None else f"<= {self.target}"
        return (
            f"{self.number}  {self.what:72} {self.median:6.2f} {self.mean:6.2f} {target:>7} "
            f" {self.note}"
        )


@dataclass(frozen=True)
class Times:
    """Seconds of each way, (rounds, clips), with its outputs.

    `calls` is how often it called the primary's decoder in the warm-up.
    """

    seconds: dict[str, np.ndarray]
    outputs: dict[str, list]
    calls: Counter

    def row(
        self,
        number: int,
        what: str,
        ours: str,
        theirs: str,
        target: float | None = None,
        note: str = "",
    ) -> Row:
        medians, means = (
            [of(self.seconds[way], axis=0).sum() for way in (ours, theirs)]
            for of in (np.median, np.mean)
        )
        mine, other = (1000 * total / len(self.outputs[ours]) for total in medians)
        note = f"{mine:.0f} against {other:.0f} ms" + (f"; {note}" if note else "")
        return Row(number, what, medians[0] / medians[1], means[0] / means[1], target, note)


def take_turns(
    ways: dict[str, Callable], clips: Sequence, backbone: Backbone, rounds: int, clock: str
) -> Times:
    """Time every way on every clip; each round begins with another way.

    One more round, before all, is the warm-up.
    """
    now, names, calls = CLOCKS[clock], list(ways), Counter()
    seconds, outputs = (
        {name: np.zeros((rounds, len(clips))) for name in names},
        {name: [] for name in names},
    )
    for number in range(-1, rounds):
        for i, clip in enumerate(clips):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if number < 0:
                    counted = backbone.decoder.register_forward_hook(
                        lambda *_, name=name: calls.update([name])
                    )
                    outputs[name].append(ways[name](clip))
                    counted.remove()
                else:
                    began = now()
                    ways[name](clip)
                    seconds[name][number, i] = now() - began
    return Times(seconds, outputs, calls)


def peak_mib() -> float:
    """Return the peak memory of this process; getrusage of a child may return its parent's."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


def in_fresh_process(task: Callable, *arguments):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def joined(clips: Iterable[np.ndarray], most: int) -> np.ndarray:
    """Join as many clips, with pauses between them, as fit into so many samples.

    The first is cut if it is longer.
    """
    sound = np.zeros(0, np.float32)
    for clip in clips:
        longer = np.concatenate([sound, PAUSE, clip]) if len(sound) else clip[:most]
        if len(longer) > most:
            break
        sound = longer
    return sound


def full_windows(
    utterances: Sequence[Utterance], languages: Iterable[str], seconds: float, count: int
) -> list:
    """Make windows full of speech, (samples, language), the languages in turn."""
    pools = [pool for code in languages if (pool := [u for u in utterances if u.language == code])]
    windows = []
    for k in range(count):
        pool, first = pools[k % len(pools)], k // len(pools) * 12
        clips = (load_audio(pool[(first + i) % len(pool)].sound) for i in range(len(pool)))
        windows.append((joined(clips, int(seconds * SAMPLE_RATE)), pool[0].language))
    return windows


def run(
    about: str,
    rows: dict[int, Callable],
    more: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Run a script's command line: its rows by number.

    Each is a generator of lines for (arguments, utterances).
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="micro")
    parser.add_argument("--pack", type=Path, action="append", default=[])
    parser.add_argument("--corpus", type=Path, required=True, help="its test split is used")
    parser.add_argument(
        "--only",
        type=lambda text: [int(number) for number in text.split(",")],
        default=list(rows),
        help="rows, as in 1,3 (all)",
    )
    parser.add_argument("--clips", type=int, default=20, help="windows of a row (%(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times that each is decoded by each way (%(default)s)"
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default="small", help="of random weights (%(default)s)"
    )
    parser.add_argument(
        "--shape-clips", type=int, default=2, help="windows of its rows (%(default)s)"
    )
    parser.add_argument(
        "--shape-tokens", type=int, default=32, help="tokens of a window of its rows (%(default)s)"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: of a busy machine, with one thread (%(default)s)",
    )
    more(parser)
    args = parser.parse_args()
    os.environ.update(QUIET)  # for the child processes
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    utterances = load_corpus(args.corpus, "test").utterances
    print(
        f"{torch.get_num_threads()} threads, {args.rounds} rounds, {args.clock} clock; ratios by"
        " median and by mean"
    )
    for number in args.only:
        for row in rows[number](args, utterances):
            print(row, flush=True)
