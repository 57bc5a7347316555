"""Sound files in, 16 kHz mono out, and long recordings cut where they are quietest.

libsndfile (through soundfile) reads wav, flac, mp3, ogg and opus; PyAV, an optional extra, reads m4a, mp4, webm and the
like. Resampling is soxr's "HQ" (20-bit precision, linear phase, pass band to 91 % of Nyquist), librosa's default.
"""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from dualasr.errors import AudioError

SAMPLE_RATE = 16_000
SHORTEST = 400  # samples, 25 ms: one frame of Whisper's spectrogram; what is shorter has no transcript

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm")  # looked for where no file is named

_AV_SUFFIXES = {".3gp", ".aac", ".m4a", ".m4v", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"}
_RATES = range(1_000, 768_001)  # Hz; outside it the header is damaged, and resampling 1 Hz would fill the memory
_INEXACT = ("MP3", "OGG")  # libsndfile's seek: silence until mp3's bit reservoir is full; Vorbis lands elsewhere
_BLOCK = 1 << 20  # frames
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's answer for a streamed flac that does not know its length
_UNKNOWN_BYTES = 0x7FFFF000  # sox pipes write this data size, ffmpeg and RF64 0xFFFFFFFF


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
        return str(self.path) if self.is_whole else f"{self.path}[{self.start:g}-{'' if self.end is None else f'{self.end:g}'}]"


def load_audio(audio: str | Path | Sound) -> np.ndarray:
    """The sound of a file or of a stretch of it: float32, shape (samples,), 16 kHz, channels averaged, full scale at +-1.

    A stretch ends with the file at the latest. Of wav, flac and the like it is read by seeking; mp3, ogg, opus, m4a and
    friends are decoded from their start for it, which for many stretches of a long file is slow, but exact.
    Raises AudioError, one line that starts with the path, for a file that is missing, a folder, empty, not audio,
    truncated (wav and flac; mp3 and ogg hold no reliable length and are read as far as they go), without channels or
    samples, or with NaN or infinite samples; and for m4a and friends where PyAV is not installed.
    """
    sound = audio if isinstance(audio, Sound) else Sound(Path(audio))
    path = _checked(sound.path)
    if path.suffix.lower() in _AV_SUFFIXES:
        samples, rate = _decode_av(path, sound)
    else:
        with _open_soundfile(path) as file:
            samples, rate = _decode_soundfile(path, file, sound), file.samplerate
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: has NaN or infinite samples")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    if not len(samples):
        raise AudioError(f"{path}: has no samples" + ("" if sound.is_whole else f" in {sound}"))
    return samples


def audio_duration(audio: str | Path | Sound) -> float:
    """Length of a file or stretch in seconds, from the header; decoded only where the header does not know.

    Raises AudioError like `load_audio`, for all that can be seen without decoding: a cut wav is refused, a cut flac
    or a NaN is not noticed. The length of an mp3 without a Xing header is libsndfile's estimate.
    """
    sound = audio if isinstance(audio, Sound) else Sound(Path(audio))
    total = _file_duration(_checked(sound.path))
    seconds = (total if sound.end is None else min(sound.end, total)) - sound.start
    if seconds <= 0:
        raise AudioError(f"{sound.path}: has no samples" + ("" if sound.is_whole else f" in {sound}"))
    return seconds


def split_windows(samples: np.ndarray, window_s: float) -> list[tuple[int, int]]:
    """Sample ranges (start, end) that cover `samples`, shape (n,), 16 kHz, in order and without overlap.

    Each is at most `window_s` seconds. A cut falls in the last third of its window, in the middle of the 20 ms with
    the least energy (smoothed over 60 ms, so that a stop consonant is no pause; of equals, the latest). Short sound
    gives one range, no sound none. Raises ValueError if the window is shorter than a sample.
    """
    window, frame = int(window_s * SAMPLE_RATE), SAMPLE_RATE // 50
    if window < 1:
        raise ValueError(f"window_s is {window_s}; it must be at least one sample, 1/{SAMPLE_RATE} s")
    ranges, start = [], 0
    while len(samples) - start > window:
        end = start + window
        count = window // 3 // frame
        if count:
            zone = samples[end - count * frame : end].reshape(count, frame)
            energy = np.pad(np.square(zone, dtype=np.float64).mean(axis=1), 1, mode="edge")
            energy = energy[:-2] + energy[1:-1] + energy[2:]
            quietest = count - 1 - int(energy[::-1].argmin())
            end += (quietest - count) * frame + frame // 2
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(samples))] if start < len(samples) else ranges


def _file_duration(path: Path) -> float:
    if path.suffix.lower() in _AV_SUFFIXES:
        return _duration_av(path)
    with _open_soundfile(path) as file:
        frames = file.frames if file.frames < _UNKNOWN_FRAMES else len(_decode_soundfile(path, file))
        return frames / file.samplerate


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise AudioError(f"{path}: is a folder, not a sound file")
    if not path.is_file():
        raise AudioError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    if not path.stat().st_size:
        raise AudioError(f"{path}: is empty")
    return path


class _FrontToBack(soundfile.SoundFile):
    """soundfile seeks after each read, which fails at the end of a flac that does not know its length."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _open_soundfile(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        file = _FrontToBack(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        if "possibly a pipe" in reason:  # libsndfile's guess for an mp3 without a frame; the file is there
            reason = "Format not recognised"
        raise AudioError(f"{path}: cannot be read as audio ({reason})") from error
    with file:
        _check_rate(path, file.samplerate)
        if file.format in ("WAV", "WAVEX"):
            _check_wav_length(path)
        yield file


def _check_rate(path: Path, rate: int) -> None:
    if rate not in _RATES:
        raise AudioError(f"{path}: has a sample rate of {rate} Hz; {_RATES[0]} to {_RATES[-1]} Hz can be read")


def _check_wav_length(path: Path) -> None:
    """libsndfile quietly shortens a wav whose data chunk is longer than the file, so the chunks are walked here."""
    with path.open("rb") as file:
        magic = file.read(12)[:4]
        layout = ">4sI" if magic == b"RIFX" else "<4sI"
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack(layout, head)
            if name == b"data":
                held = path.stat().st_size - file.tell()
                if held < size < _UNKNOWN_BYTES:
                    raise AudioError(f"{path}: is truncated: its header promises {size} bytes of sound, {held} follow")
                return
            file.seek(size + size % 2, 1)


def _frames_of(sound: Sound, rate: int) -> tuple[int, int | None]:
    """First frame of a stretch, and the frame after its last."""
    return round(sound.start * rate), None if sound.end is None else round(sound.end * rate)


def _decode_soundfile(path: Path, file: soundfile.SoundFile, sound: Sound | None = None) -> np.ndarray:
    first, stop = _frames_of(sound, file.samplerate) if sound else (0, None)
    known, skip = file.frames < _UNKNOWN_FRAMES, first
    if first and known and file.format not in _INEXACT:
        with suppress(soundfile.SoundFileError):  # else decode from the start and slice
            file.seek(first)
            skip = 0
    blocks: list[np.ndarray] = []
    decoded, wanted = first - skip, math.inf if stop is None else stop
    while decoded < wanted:
        try:
            block = file.read(int(min(_BLOCK, wanted - decoded)), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{path}: is truncated or damaged: decoding fails before its end") from error
        if not len(block):
            break
        decoded += len(block)
        blocks.append(block.mean(axis=1))
    if file.format != "MP3" and known and decoded < min(wanted, file.frames):
        raise AudioError(f"{path}: is truncated: its header promises {file.frames} frames, {decoded} can be decoded")
    return np.concatenate(blocks)[skip:] if blocks else np.zeros(0, np.float32)


@contextmanager
def _open_av(path: Path) -> Iterator:
    try:
        import av
    except ImportError as error:
        hint = "pip install 'dualasr[av]'"
        raise AudioError(f"{path}: reading {path.suffix} needs PyAV; install it with: {hint}") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no sound track")
            yield container
    except av.error.FFmpegError as error:
        raise AudioError(f"{path}: cannot be read as audio ({error.strerror})") from error


def _decode_av(path: Path, sound: Sound) -> tuple[np.ndarray, int]:
    with _open_av(path) as container:
        from av import AudioResampler

        stream = container.streams.audio[0]
        rate = stream.rate or 0
        _check_rate(path, rate)
        # PyAV brings every frame to one format and rate; the channels are averaged here, as for any other file.
        planar = AudioResampler(format="fltp", rate=rate)
        first, stop = _frames_of(sound, rate)
        blocks, decoded = [], 0
        for frame in container.decode(stream):
            for part in planar.resample(frame):
                blocks.append(part.to_ndarray().mean(axis=0))
                decoded += len(blocks[-1])
            if stop is not None and decoded >= stop:
                break
        else:
            blocks += [part.to_ndarray().mean(axis=0) for part in planar.resample(None)] if blocks else []
    return np.concatenate(blocks)[first:stop] if blocks else np.zeros(0, np.float32), rate


def _duration_av(path: Path) -> float:
    with _open_av(path) as container:
        stream = container.streams.audio[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / 1_000_000  # AV_TIME_BASE
    return len(load_audio(path)) / SAMPLE_RATE
