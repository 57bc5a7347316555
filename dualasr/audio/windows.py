"""Cut a stream of sound into windows that a model can take: all of the sound, or only its speech.

At most two windows of the sound are in memory, whatever its length.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from dualasr.audio.load import SAMPLE_RATE, quietest_cut, window_size
from dualasr.audio.vad import CHUNK, SileroVad, VadOptions, follow


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a sound.

    Attributes:
        start: Seconds from the beginning of the sound to the first sample.
        samples: float32, shape (n,), 16 kHz.
    """

    start: float
    samples: np.ndarray

    @property
    def end(self) -> float:
        """Seconds from the beginning of the sound to the end of the window."""
        return self.start + len(self.samples) / SAMPLE_RATE


def windows_of(
    blocks: Iterable[np.ndarray], window_s: float, options: VadOptions | None = None
) -> Iterator[Window]:
    """Cut a sound that comes in blocks into windows.

    The windows do not depend on the size of the blocks, and each comes as soon as its end is known.
    Without options they cover the whole sound, as those of `split_windows`. With options they cover
    the speech. Neighbouring segments of speech share a window where they fit into one together with
    the gap between them. A segment longer than a window is cut by `quietest_cut`. A sound without
    speech has no window.

    Args:
        blocks: float32 arrays, each of shape (n,), 16 kHz.
        window_s: Longest window, in seconds.
        options: What counts as speech; None takes the whole sound.

    Returns:
        An iterator over windows, in order, without overlap. It raises what `blocks` raises.

    Raises:
        ValueError: A window is shorter than a sample; raised at the call.
        MissingExtraError: There are options, but not the extra `vad`; raised at the call.
    """
    if options is None:
        return _cover(blocks, window_size(window_s))
    return _speech(
        blocks, window_size(min(window_s, options.max_speech_duration_s)), options, SileroVad()
    )


class _Recent:
    """The last chunks of a stream.

    Attributes:
        start: Position of their first sample in the stream.
        end: Position after their last sample.
    """

    def __init__(self) -> None:
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
        return Window(start / SAMPLE_RATE, samples.copy())  # a view would keep the rest in memory


def _cover(blocks: Iterable[np.ndarray], size: int) -> Iterator[Window]:
    """Yield windows of at most `size` samples that cover the whole sound."""
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
    """Yield the same sound in chunks of 512 samples; the last may be shorter."""
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
    """Yield windows of at most `size` samples that cover the speech.

    For each chunk, and once more at the end of the sound:

    1. Let the model update the current segment of speech.
    2. If the waiting window and this segment, padded, do not fit into one window, yield the waiting
       window.
    3. While the segment alone is longer than a window, cut windows off its front.
    4. When the segment is over, join it to the waiting window.
    5. In silence, yield the waiting window once no later segment can fit into it.
    6. Drop the samples that no later window needs.
    """
    pad = int(options.speech_pad_ms * SAMPLE_RATE / 1000)
    recent, state, stretch = _Recent(), vad.start(), None
    # the waiting window: padded segments that share it, and maybe further ones
    waiting: tuple[int, int] | None = None
    cut = 0  # where the rest of a segment longer than a window begins
    for chunk in chain(_chunks(blocks), [None]):
        if chunk is None:  # the end of the sound ends any speech
            stretch = replace(stretch, over=True) if stretch and not stretch.over else None
        else:
            probability, state = vad.speech_probs(chunk, state)
            stretch = follow(stretch, probability, recent.end, options)
            recent.add(chunk)
        start = max(cut, (stretch.start if stretch else recent.end) - pad)
        if stretch and stretch.is_speech(options):
            end = min(stretch.end + pad, recent.end)
            if waiting and end - waiting[0] > size:
                yield recent.window(*waiting)
                waiting = None
            while end - start > size:
                cut = start + quietest_cut(recent.window(start, start + size).samples)
                yield recent.window(start, cut)
                start = cut
            if stretch.over:
                waiting = (waiting[0] if waiting else start, end)
        elif waiting and recent.end - waiting[0] > size:  # the next segment is too far away
            yield recent.window(*waiting)
            waiting = None
        recent.forget(min(waiting[0] if waiting else recent.end, start, recent.end - pad))
    if waiting:
        yield recent.window(*waiting)
