"""Sound files in, 16 kHz mono out, whole or as a stream, and long recordings cut where they are
quietest.

Resampling is soxr's "HQ" (20-bit precision, linear phase, pass band to 91 % of Nyquist), librosa's
default.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from dualasr.audio.files import AV_SUFFIXES, UNKNOWN_FRAMES, open_sound_file
from dualasr.errors import AudioError, NoSamplesError

SAMPLE_RATE = 16_000
# samples, 25 ms: one frame of Whisper's spectrogram; what is shorter has no transcript
SHORTEST = 400

# looked for where no file is named
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", *AV_SUFFIXES)


@dataclass(frozen=True)
class Sound:
    """A stretch of a file, `start` to `end` in seconds; `end` None is the end of the file."""

    path: Path
    start: float = 0.0
    end: float | None = None

    @property
    def is_whole(self) -> bool:
        return self.start == 0.0 and self.end is None

    def __str__(self) -> str:
        """The path, with the stretch if it is not the whole file: `talk.wav[3.2-5.75]`."""
        return (
            str(self.path)
            if self.is_whole
            else f"{self.path}[{self.start:g}-{'' if self.end is None else f'{self.end:g}'}]"
        )


def load_audio(audio: str | Path | Sound) -> np.ndarray:
    """The sound of a file or of a stretch of it: float32, shape (samples,), 16 kHz, channels
    averaged, full scale at +-1.

    The blocks of `stream_audio` in one array; raises AudioError as it does.
    """
    return np.concatenate(list(stream_audio(audio)))


def load_window(audio: str | Path | Sound, samples: int) -> np.ndarray:
    """Load the beginning of a sound, and read no more of it than that.

    Args:
        audio: A file or a part of one.
        samples: Most samples at 16 kHz.

    Returns:
        The first samples of what `load_audio` gives, (at most `samples`,).

    Raises:
        AudioError: What is read cannot be used.
    """
    blocks, count = [], 0
    for block in stream_audio(audio):
        blocks.append(block)
        count += len(block)
        if count >= samples:
            break
    return np.concatenate(blocks)[:samples]


def header_duration(path: Path) -> float:
    """Return the seconds of sound that a file's header promises; 0 where the header does not know."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, TypeError):  # m4a and the like, or no sound at all
        return 0.0
    return info.duration if info.format != "MP3" and info.frames < UNKNOWN_FRAMES else 0.0


def stream_audio(audio: str | Path | Sound) -> Iterator[np.ndarray]:
    """The sound of a file or of a stretch of it in blocks, for files longer than memory.

    Blocks are float32, of shape (samples,) with at least one sample, 16 kHz, channels averaged,
    full scale at +-1. A stretch ends with the file at the latest. Of wav, flac and the like it is
    read by seeking; mp3, ogg, opus, m4a and friends are decoded from their start for it, which for
    many stretches of a long file is slow, but exact. Raises AudioError, one line that starts with
    the path: when the first block is asked for, if the file is missing, a folder, empty, not audio,
    a cut wav, without channels or sound track, or m4a and friends where neither PyAV nor an
    `ffmpeg` program is installed; when the stream gets there, if it is truncated (seen in flac and
    mp4; mp3, ogg and webm hold no reliable length and are read as far as they go), becomes shorter
    while it is read, or has NaN or infinite samples; at the end NoSamplesError, if there were none.
    """
    sound, empty = _sound(audio), True
    with open_sound_file(sound.path) as file:
        first = round(sound.start * file.rate)
        stop = None if sound.end is None else round(sound.end * file.rate)
        for block in _resampled(_finite(sound.path, file.blocks(first, stop)), file.rate):
            if len(block):
                empty = False
                yield block
    if empty:
        raise _no_samples(sound)


def audio_duration(audio: str | Path | Sound) -> float:
    """Length of a file or stretch in seconds, from the header; decoded only where the header does
    not know.

    Raises AudioError like `load_audio`, for all that can be seen without decoding: a cut wav is
    refused, a cut flac or a NaN is not noticed. The length of an mp3 without a Xing header is
    libsndfile's estimate.
    """
    sound = _sound(audio)
    with open_sound_file(sound.path) as file:
        total = file.duration()
    seconds = (total if sound.end is None else min(sound.end, total)) - sound.start
    if seconds <= 0:
        raise _no_samples(sound)
    return seconds


def split_windows(samples: np.ndarray, window_s: float) -> list[tuple[int, int]]:
    """Sample ranges (start, end) that cover `samples`, shape (n,), 16 kHz, in order and without
    overlap.

    Each is at most `window_s` seconds; a longer one is cut by `quietest_cut`. Short sound gives one
    range, no sound none. Raises ValueError if the window is shorter than a sample.
    """
    window = window_size(window_s)
    ranges, start = [], 0
    while len(samples) - start > window:
        end = start + quietest_cut(samples[start : start + window])
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(samples))] if start < len(samples) else ranges


def window_size(window_s: float) -> int:
    """Samples of a window of `window_s` seconds. Raises ValueError if it is shorter than a sample."""
    if (window := int(window_s * SAMPLE_RATE)) < 1:
        raise ValueError(
            f"window_s is {window_s}; it must be at least one sample, 1/{SAMPLE_RATE} s"
        )
    return window


def quietest_cut(window: np.ndarray) -> int:
    """Where a full window, shape (n,), 16 kHz, of a longer sound ends: at least 1, at most n.

    The cut falls in the last third, in the middle of the 20 ms with the least energy (smoothed over
    60 ms, so that a stop consonant is no pause; of equals, the latest).
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


def _resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same to the bit as the whole resampled at once, however it is cut into blocks."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
