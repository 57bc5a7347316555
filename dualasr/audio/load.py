"""Load sound files as 16 kHz mono, whole or as a stream, and cut long recordings at quiet places.

Resampling is soxr's "HQ", the default of librosa: 20-bit precision, linear phase, pass band up to
91 % of the Nyquist frequency.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualasr.audio.files import open_sound_file
from dualasr.audio.reader import resampled
from dualasr.errors import AudioError, NoSamplesError

SAMPLE_RATE = 16_000
# Samples, 25 ms: one frame of Whisper's spectrogram. A shorter sound has no transcript.
SHORTEST = 400

# Names of the files to look for where only a folder is named. What a file holds decides how it is
# read, so a file that is named itself may have any name.
SUFFIXES = tuple(
    f".{name}"
    for name in (
        "wav flac mp3 ogg opus"  # these come first: `talk.wav` is taken before `talk.mp4`
        " m4a mp4 webm mkv mov mka aac m4v 3gp wma m4b avi flv wmv mpg mpeg ac3 amr"
        " 3g2 3ga adts aif aifc aiff ape asf au awb caf dts eac3 f4v m2ts m4r mp2 mpga mts mxf oga"
        " ogv qt ra rf64 rm snd spx ts tta vob w64 wave weba wv"
    ).split()
)


@dataclass(frozen=True)
class Sound:
    """A file, or a part of one.

    Attributes:
        path: The file.
        start: Where the part begins, in seconds from the beginning of the file.
        end: Where it ends, in seconds; None is the end of the file.
    """

    path: Path
    start: float = 0.0
    end: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole file."""
        return self.start == 0.0 and self.end is None

    def __str__(self) -> str:
        """Return the path, with the times if it is not the whole file: `talk.wav[3.2-5.75]`."""
        return (
            str(self.path)
            if self.is_whole
            else f"{self.path}[{self.start:g}-{'' if self.end is None else f'{self.end:g}'}]"
        )


def load_audio(audio: str | Path | Sound) -> np.ndarray:
    """Load a file, or a part of one, into one array.

    Args:
        audio: A file, or a part of one.

    Returns:
        float32, shape (samples,), 16 kHz, channels averaged, full scale at +-1.

    Raises:
        AudioError: As `stream_audio` raises it.
    """
    return np.concatenate(list(stream_audio(audio)))


def load_window(audio: str | Path | Sound, samples: int) -> np.ndarray:
    """Load the beginning of a sound, and read no more of it than that.

    Args:
        audio: A file, or a part of one.
        samples: The largest number of samples to return, at 16 kHz.

    Returns:
        The first samples of what `load_audio` returns: float32, shape (n,), n at most `samples`.

    Raises:
        AudioError: The part that is read cannot be used.
    """
    blocks, count = [], 0
    for block in stream_audio(audio):
        blocks.append(block)
        count += len(block)
        if count >= samples:
            break
    return np.concatenate(blocks)[:samples]


def header_duration(path: Path) -> float:
    """Return the length of a file in seconds as far as it is known without decoding it.

    Args:
        path: A file.

    Returns:
        The length by a header that agrees with the data; 0 where there is none, as in mp4 and mkv,
        and for what cannot be read.
    """
    try:
        with open_sound_file(path) as file:
            return file.known_duration() or 0.0
    except AudioError:
        return 0.0


def stream_audio(audio: str | Path | Sound) -> Iterator[np.ndarray]:
    """Load a file, or a part of one, in blocks, for files that are larger than the memory.

    Second 0 is the zero of the container: a track that begins later begins with silence. A part
    ends at the end of the file at the latest. In wav, flac and the like, the reader seeks to its
    start. Mp3, ogg, opus, m4a and the like are decoded from the start of the file: this is slow
    for many parts of a long file, but exact.

    Args:
        audio: A file, or a part of one.

    Yields:
        float32 blocks, each of shape (samples,) with at least one sample, 16 kHz, channels
        averaged, full scale at +-1.

    Raises:
        AudioError: The file cannot be used. The message is one line that starts with the path.
            With the first block: the file is missing, a folder, a device, empty, not audio, a wav
            or aiff that was cut, without channels or sound track, or it needs PyAV or `ffmpeg` and
            neither is installed. At a later block: the file is truncated, became shorter while it
            was read, or has NaN or infinite samples. Truncation is noticed in wav, aiff, flac and
            mp4; mp3, ogg and webm have no reliable length, and are read as far as they go.
        NoSamplesError: The file, or the part, ended without a sample.
    """
    sound, empty = _sound(audio), True
    with open_sound_file(sound.path) as file:
        first = round(sound.start * file.rate)
        stop = None if sound.end is None else round(sound.end * file.rate)
        mono = _finite(sound.path, file.blocks(first, stop))
        for block in resampled(mono, file.rate, SAMPLE_RATE):
            if len(block):
                empty = False
                yield block
    if empty:
        raise _no_samples(sound)


def audio_duration(audio: str | Path | Sound) -> float:
    """Return the length of a file, or of a part of one, in seconds.

    The header gives the length where it agrees with the data. Other files are decoded: containers
    such as mp4 and mkv, a chained Ogg, a damaged flac. So it is the length that `load_audio` reads.

    Args:
        audio: A file, or a part of one.

    Raises:
        AudioError: As `load_audio` raises it; NaN and damage inside a flac are not noticed.
        NoSamplesError: The part lies behind the end of the file.
    """
    sound = _sound(audio)
    with open_sound_file(sound.path) as file:
        total = file.duration()
    seconds = (total if sound.end is None else min(sound.end, total)) - sound.start
    if seconds <= 0:
        raise _no_samples(sound)
    return seconds


def split_windows(samples: np.ndarray, window_s: float) -> list[tuple[int, int]]:
    """Cut a sound into windows: each ends at the quietest place that `quietest_cut` finds.

    Args:
        samples: float, shape (n,), 16 kHz.
        window_s: Longest window, in seconds.

    Returns:
        (first sample, sample after the last) of each window, in order; together they cover the
        sound without overlap. A sound that fits into one window is one range; a sound without
        samples has none.

    Raises:
        ValueError: The window is shorter than a sample.
    """
    window = window_size(window_s)
    ranges, start = [], 0
    while len(samples) - start > window:
        end = start + quietest_cut(samples[start : start + window])
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(samples))] if start < len(samples) else ranges


def window_size(window_s: float) -> int:
    """Return the number of samples of a window of `window_s` seconds, at 16 kHz.

    Raises:
        ValueError: It is shorter than a sample.
    """
    if (window := int(window_s * SAMPLE_RATE)) < 1:
        raise ValueError(
            f"window_s is {window_s}; it must be at least one sample, 1/{SAMPLE_RATE} s"
        )
    return window


def quietest_cut(window: np.ndarray) -> int:
    """Find where to end a window of a longer sound: in the quietest 20 ms of its last third.

    1. Cut the last third into frames of 20 ms, and take the mean energy of each.
    2. Sum the energies of three neighbours (60 ms), so that a stop consonant is not taken for a
       pause.
    3. End the window in the middle of the frame with the least; of equal ones, the latest, which
       gives the longest window.

    Args:
        window: float, shape (n,), 16 kHz; n samples are the longest window.

    Returns:
        The number of samples before the cut, from 1 to n.
    """
    frame = SAMPLE_RATE // 50
    count = len(window) // 3 // frame
    if not count:
        return len(window)
    zone = window[len(window) - count * frame :].reshape(count, frame)
    energy = np.pad(np.square(zone, dtype=np.float64).mean(axis=1), 1, mode="edge")
    energy = energy[:-2] + energy[1:-1] + energy[2:]
    quietest = count - 1 - int(energy[::-1].argmin())
    return len(window) + (quietest - count) * frame + frame // 2


def _sound(audio: str | Path | Sound) -> Sound:
    return audio if isinstance(audio, Sound) else Sound(Path(audio))


def _no_samples(sound: Sound) -> NoSamplesError:
    return NoSamplesError(
        f"{sound.path}: has no samples" + ("" if sound.is_whole else f" in {sound}")
    )


def _finite(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(f"{path}: has NaN or infinite samples")
        yield block
