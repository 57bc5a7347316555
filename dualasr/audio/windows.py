"""A stream of sound in windows that a model can take: all of it, or the speech in it. Memory holds
a window or two.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from dualasr.audio.load import SAMPLE_RATE, quietest_cut, window_size
from dualasr.audio.vad import CHUNK, SileroVad, VadOptions, follow


@dataclass(frozen=True)
class Window:
    """A piece of a sound: float32 samples of shape (n,), 16 kHz, the first of them `start` seconds
    after its beginning.
    """

    start: float
    samples: np.ndarray

    @property
    def end(self) -> float:
        """In seconds from the beginning of the sound."""
        return self.start + len(self.samples) / SAMPLE_RATE


def windows_of(
    blocks: Iterable[np.ndarray], window_s: float, options: VadOptions | None = None
) -> Iterator[Window]:
    """Windows of at most `window_s` seconds of a sound that comes in blocks, shape (n,), 16 kHz; in
    order, without overlap.

    The windows are the same whatever the size of the blocks, and each comes as soon as it is known.
    Without options they cover the sound and are those of `split_windows`. With options they cover
    the speech: neighbouring stretches share a window where they and the gap between them fit, gap
    included, and a stretch that is longer than a window is cut by `quietest_cut`. Sound without
    speech gives no window. Raises ValueError for a window shorter than a sample, and
    MissingExtraError for options without the extra `vad`, both at once; and what `blocks` raises.
    """
    if options is None:
        return _cover(blocks, window_size(window_s))
    return _speech(
        blocks, window_size(min(window_s, options.max_speech_duration_s)), options, SileroVad()
    )


class _Recent:
    """The end of a stream: chunks as they came, and the positions of their first and last sample in
    the whole.
    """

    def __init__(self):
        self.start = self.end = 0
        self._chunks: deque[np.ndarray] = deque()

    def add(self, chunk: np.ndarray) -> None:
        self._chunks.append(chunk)
        self.end += len(chunk)

    def forget(self, before: int) -> None:
        while self._chunks and self.start + len(self._chunks[0]) <= before:
            self.start += len(self._chunks.popleft())

    def window(self, start: int, end: int) -> Window:
        samples = np.concatenate(self._chunks)[start - self.start : end - self.start]
        return Window(start / SAMPLE_RATE, samples.copy())  # no view, which would keep the rest


def _cover(blocks: Iterable[np.ndarray], size: int) -> Iterator[Window]:
    recent, start = _Recent(), 0
    for block in blocks:
        recent.add(block)
        while recent.end - start > size:
            end = start + quietest_cut(recent.window(start, start + size).samples)
            yield recent.window(start, end)
            start = end
            recent.forget(start)
    if recent.end > start:
        yield recent.window(start, recent.end)


def _chunks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same sound in chunks of 512 samples; the last may be shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        full = len(rest) // CHUNK * CHUNK
        yield from np.split(rest[:full], full // CHUNK) if full else ()
        rest = rest[full:]
    if len(rest):
        yield rest


def _speech(
    blocks: Iterable[np.ndarray], size: int, options: VadOptions, vad: SileroVad
) -> Iterator[Window]:
    pad = int(options.speech_pad_ms * SAMPLE_RATE / 1000)
    recent, state, stretch = _Recent(), vad.start(), None
    # padded stretches that share a window, which waits for more
    held: tuple[int, int] | None = None
    cut = 0  # where a stretch longer than a window goes on
    for chunk in chain(_chunks(blocks), [None]):
        if chunk is None:
            stretch = replace(stretch, over=True) if stretch and not stretch.over else None
        else:
            probability, state = vad.hear(chunk, state)
            stretch = follow(stretch, probability, recent.end, options)
            recent.add(chunk)
        start = max(cut, (stretch.start if stretch else recent.end) - pad)
        if stretch and stretch.is_speech(options):
            end = min(stretch.end + pad, recent.end)
            if held and end - held[0] > size:
                yield recent.window(*held)
                held = None
            while end - start > size:
                cut = start + quietest_cut(recent.window(start, start + size).samples)
                yield recent.window(start, cut)
                start = cut
            if stretch.over:
                held = (held[0] if held else start, end)
        elif held and recent.end - held[0] > size:  # whoever speaks next is too far away
            yield recent.window(*held)
            held = None
        recent.forget(min(held[0] if held else recent.end, start, recent.end - pad))
    if held:
        yield recent.window(*held)
