"""What every reader of a sound file has in common: its sample rate, its notes and its mono.

Channels are averaged. Where they cancel each other, as after a plug with two wires swapped, the
average is next to nothing, and the loudest channel is taken instead.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr

from dualasr.errors import AudioError

log = logging.getLogger("dualasr")
# Hz. Another rate means a damaged header, and to resample from 1 Hz would fill the memory.
RATES = range(1_000, 768_001)
# Channels cancel each other where their sum has less than this part of the energy of the loudest
# channel. A channel that sounds alone gives 1, channels that differ give more.
_CANCELLED = 0.2
_UNIT_S = 0.5  # the energies are compared in units of this length, from where the reading begins
_QUIET = 1e-8  # mean energy, -80 dB: nothing is decided by a quieter unit


@lru_cache(maxsize=1024)
def note(path: Path, sentence: str) -> None:
    """Log what was found in a file and what was done about it, once for each file."""
    log.warning("%s: %s", path, sentence)


class SoundReader:
    """A sound file that is open.

    Attributes:
        path: The file.
        rate: Sample rate in Hz.
        silence: Stretches that are silent whatever the library gives: start and end in seconds.
    """

    def __init__(self, path: Path, rate: int, silence: Sequence[tuple[float, float]] = ()) -> None:
        if rate not in RATES:
            raise AudioError(
                f"{path}: has a sample rate of {rate} Hz; {RATES[0]} to {RATES[-1]} Hz can be read"
            )
        self.path, self.rate, self.silence = path, rate, tuple(silence)

    def known_duration(self) -> float | None:
        """Return the length in seconds as far as it is known without decoding, else None."""
        return None

    def duration(self) -> float:
        """Return the length in seconds; the file is decoded where it is not known otherwise."""
        known = self.known_duration()
        return sum(map(len, self.frames())) / self.rate if known is None else known

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop` (None: the end), as the file has them.

        Args:
            first: Number of frames to leave out.
            stop: Number of the frame that ends the part.

        Yields:
            float32, shape (frames, channels).
        """
        raise NotImplementedError

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop` (None: the end), (frames,) float32 each.

        Args:
            first: Number of frames to leave out.
            stop: Number of the frame that ends the part.
        """
        frames = self.frames(first, stop)
        if self.silence:
            frames = self._silenced(frames, first)
        return mixed(frames, self.rate, self.path)

    def _silenced(self, blocks: Iterator[np.ndarray], at: int) -> Iterator[np.ndarray]:
        for block in blocks:
            for start, end in self.silence:
                first, stop = (round(second * self.rate) - at for second in (start, end))
                if stop > 0 and first < len(block):
                    block = block.copy()
                    block[max(0, first) : stop] = 0
            yield block
            at += len(block)


def mixed(blocks: Iterator[np.ndarray], rate: int, path: Path) -> Iterator[np.ndarray]:
    """Mix channels: their mean, or the loudest channel from where they begin to cancel each other.

    The energies are compared in units of half a second that do not depend on the blocks, each
    without its mean (a constant voltage is no sound). The first unit whose channels cancel each
    other decides, for itself and for all that follows, so the mix does not change to and fro.

    Args:
        blocks: float32, each of shape (frames, channels).
        rate: Sample rate in Hz.
        path: The file, for the note.

    Yields:
        float32, each of shape (frames,), of the same lengths or shorter.
    """
    unit, count = max(1, round(_UNIT_S * rate)), 0
    waiting: list[np.ndarray] = []
    loudest: int | None = None
    for block in blocks:
        if waiting and block.shape[1] != waiting[0].shape[1]:
            yield from _mono(waiting, loudest)
            waiting, count, loudest = [], 0, None
        if block.shape[1] == 1:
            yield block[:, 0]
            continue
        while len(block):
            if loudest is not None:
                yield np.ascontiguousarray(block[:, loudest])
                break
            part, block = block[: unit - count], block[unit - count :]
            waiting.append(part)
            count += len(part)
            if count == unit:
                loudest = _loudest_of_cancelling(waiting, path)
                yield from _mono(waiting, loudest)
                waiting, count = [], 0
    if waiting:
        yield from _mono(waiting, _loudest_of_cancelling(waiting, path))


def _mono(parts: list[np.ndarray], loudest: int | None) -> Iterator[np.ndarray]:
    for part in parts:
        if loudest is not None:
            yield np.ascontiguousarray(part[:, loudest])
        elif part.shape[1] == 2:  # the same numbers as below, in a fifth of the time
            yield (part[:, 0] + part[:, 1]) / 2
        else:
            yield part.mean(axis=1)


def _loudest_of_cancelling(parts: list[np.ndarray], path: Path) -> int | None:
    """Return the loudest channel if the channels cancel each other, else None."""
    if not any(part.any() for part in parts):  # silence
        return None
    samples = np.concatenate(parts)
    with np.errstate(all="ignore"):  # NaN and infinite samples are refused by who reads the blocks
        samples -= np.ones(len(samples), np.float32) @ samples / len(samples)  # a fast mean
        covariance = samples.T @ samples / len(samples)
    energies, together = covariance.diagonal(), covariance.sum()
    loudest = int(energies.argmax())
    if not (energies[loudest] > _QUIET and together < _CANCELLED * energies[loudest]):
        return None
    note(
        path,
        f"its channels cancel each other; channel {loudest + 1} of {samples.shape[1]}, the"
        " loudest, is taken in place of their mean",
    )
    return loudest


def resampled(blocks: Iterator[np.ndarray], rate: int, to: int) -> Iterator[np.ndarray]:
    """Resample mono blocks; the result does not depend on how the sound is cut into blocks.

    Args:
        blocks: float32, each of shape (frames,).
        rate: Their sample rate in Hz.
        to: The sample rate to give, in Hz.

    Yields:
        float32, each of shape (frames,); some may be empty.
    """
    if rate == to:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, to, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
