"""Decode sound files from front to back in blocks, at their own rate, with the channels averaged.

libsndfile (through soundfile) reads wav, flac, mp3, ogg and opus. PyAV, an optional extra, reads
m4a, mp4, webm and the like. Where PyAV is not installed, the program `ffmpeg` decodes those, and
libsndfile reads its output through a pipe. A block holds at most half a megabyte, whatever the
length of the file. `load.py` resamples the blocks.
"""

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import soundfile

from dualasr.errors import AudioError

# The first bytes of mkv and webm, and of wma. An mp4 has "ftyp" after its first four bytes.
_CONTAINERS = (b"\x1aE\xdf\xa3", b"0&\xb2u")
AV_SUFFIXES = (
    ".m4a",
    ".mp4",
    ".webm",
    ".mkv",
    ".mov",
    ".mka",
    ".aac",
    ".m4v",
    ".3gp",
    ".wma",
    ".m4b",
    ".avi",
    ".flv",
    ".wmv",
    ".mpg",
    ".mpeg",
    ".ac3",
    ".amr",
)
# Hz. Another rate means a damaged header, and to resample from 1 Hz would fill the memory.
_RATES = range(1_000, 768_001)
# Formats in which libsndfile does not seek exactly. After a seek, mp3 gives silence until its bit
# reservoir is full, and Vorbis continues at another frame.
_INEXACT = ("MP3", "OGG")
_BLOCK = 1 << 17  # samples of a block, all channels together
# libsndfile reports more frames than this for a flac or a pipe that does not know its length
UNKNOWN_FRAMES = 1 << 48
# A wav with this data size or more does not know its length: sox writes this one to a pipe, ffmpeg
# and RF64 write 0xFFFFFFFF.
_UNKNOWN_BYTES = 0x7FFFF000


@contextmanager
def open_sound_file(path: Path) -> Iterator["LibsndfileReader | AvReader"]:
    """Open a sound file with the library that reads its format.

    Args:
        path: A file.

    Yields:
        A reader with `rate` in Hz, `duration()` in seconds and `blocks(first, stop)`, which gives
        float32 arrays of shape (frames,).

    Raises:
        AudioError: The file cannot be used. The message is one line that starts with the path. It
            is raised at the start for what the header shows, at the block where decoding fails, and
            at the end for a file that became shorter while it was read.
    """
    _check_file(path)
    try:
        same = path.open("rb")
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    with same:
        size = os.fstat(same.fileno()).st_size
        with _opener(path, same.read(8))(path) as reader:
            yield reader
        if os.fstat(same.fileno()).st_size < size:
            raise AudioError(f"{path}: is truncated: it became shorter while it was read")


def _check_file(path: Path) -> None:
    if path.is_dir():
        shut = not os.access(path, os.R_OK | os.X_OK)
        raise AudioError(
            f"{path}: is a folder{' that cannot be looked into' if shut else ', not a sound file'}"
        )
    if not path.is_file():
        raise AudioError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}")
    if not path.stat().st_size:
        raise AudioError(f"{path}: is empty")


def _opener(
    path: Path, head: bytes
) -> Callable[[Path], AbstractContextManager["LibsndfileReader | AvReader"]]:
    """Choose how to open a file by its name and its first bytes."""
    if (
        path.suffix.lower() not in AV_SUFFIXES
        and head[4:] != b"ftyp"
        and not head.startswith(_CONTAINERS)
    ):
        return _open_libsndfile
    try:
        import av  # noqa: F401
    except ImportError as error:
        if shutil.which("ffmpeg"):
            return _open_ffmpeg
        hint = "pip install 'dualasr[av]'"
        raise AudioError(
            f"{path}: reading {path.suffix or 'it'} needs PyAV or ffmpeg; install it with: {hint}"
        ) from error
    return _open_av


def _check_rate(path: Path, rate: int) -> None:
    if rate not in _RATES:
        raise AudioError(
            f"{path}: has a sample rate of {rate} Hz; {_RATES[0]} to {_RATES[-1]} Hz can be read"
        )


class _FrontToBack(soundfile.SoundFile):
    """A SoundFile that does not seek after each read.

    soundfile's own seek fails at the end of a flac that does not know its length, and in a pipe.
    """

    def seekable(self) -> bool:
        return False


class LibsndfileReader:
    """Reader of a file, or of the pipe from `ffmpeg`, that libsndfile decodes.

    Attributes:
        path: The file.
        rate: Sample rate in Hz.
    """

    def __init__(
        self, path: Path, file: soundfile.SoundFile, ffmpeg: subprocess.Popen | None = None
    ) -> None:
        _check_rate(path, file.samplerate)
        self.path, self.rate, self._file, self._ffmpeg = path, file.samplerate, file, ffmpeg
        self._frames = file.frames if file.frames < UNKNOWN_FRAMES else None

    def duration(self) -> float:
        """Return the length in seconds; the file is decoded where its header does not know it."""
        frames = sum(map(len, self.blocks())) if self._frames is None else self._frames
        return frames / self.rate

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop` (None: the end), (frames,) float32 each.

        In mp3, ogg and pipes, all frames before `first` are decoded and dropped.
        """
        file, at, size = self._file, 0, max(1, _BLOCK // self._file.channels)
        if first and self._frames is not None and file.format not in _INEXACT:
            with suppress(soundfile.SoundFileError):  # if it fails, decode from the start
                file.seek(first)
                at = first
        while stop is None or at < stop:
            try:
                block = file.read(
                    size if stop is None else min(size, stop - at), dtype="float32", always_2d=True
                )
            except soundfile.SoundFileError as error:
                raise _damaged(self.path) from error
            if not len(block):
                self._check_end(at)
                break
            skip, at = max(0, first - at), at + len(block)
            if skip < len(block):
                yield block[skip:].mean(axis=1)

    def _check_end(self, frames: int) -> None:
        if self._ffmpeg and self._ffmpeg.wait():
            raise _damaged(self.path)
        if self._file.format != "MP3" and self._frames is not None and frames < self._frames:
            promise = f"its header promises {self._frames} frames, {frames} can be decoded"
            raise AudioError(f"{self.path}: is truncated: {promise}")


def _damaged(path: Path) -> AudioError:
    return AudioError(f"{path}: is truncated or damaged: decoding fails before its end")


@contextmanager
def _open_libsndfile(path: Path) -> Iterator[LibsndfileReader]:
    try:
        file = _FrontToBack(os.fsencode(path))  # bytes, because a name need not be valid UTF-8
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a .raw without header
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        # libsndfile guesses so of an mp3 without a frame, though the file exists
        if "possibly a pipe" in reason:
            reason = "Format not recognised"
        raise AudioError(f"{path}: cannot be read as audio ({reason})") from error
    with file:
        reader = LibsndfileReader(path, file)
        if file.format in ("WAV", "WAVEX"):
            _check_wav_length(path)
        yield reader


def _check_wav_length(path: Path) -> None:
    """Refuse a wav that is shorter than its header says.

    libsndfile reads such a file to its end without an error, so the size of the data chunk is
    compared with the size of the file here.
    """
    with path.open("rb") as file:
        magic = file.read(12)[:4]
        layout = ">4sI" if magic == b"RIFX" else "<4sI"
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack(layout, head)
            if name == b"data":
                left = path.stat().st_size - file.tell()
                if left < size < _UNKNOWN_BYTES:
                    raise AudioError(
                        f"{path}: is truncated: its header promises {size} bytes of sound, {left}"
                        " follow"
                    )
                return
            file.seek(size + size % 2, 1)


@contextmanager
def _open_ffmpeg(path: Path) -> Iterator[LibsndfileReader]:
    """Open the first sound track as a Sun AU stream from `ffmpeg`.

    The AU header can hold any sample rate, and it can say that the length is unknown.
    """
    command = [
        "ffmpeg",
        "-nostdin",
        "-loglevel",
        "error",
        "-xerror",
        "-i",
        f"file:{path.absolute()}",
        "-map",
        "0:a:0",
    ]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, "-f", "au", "-c:a", "pcm_f32be", "pipe:1"],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None  # it is a pipe
        try:
            try:
                file = _FrontToBack(process.stdout.fileno(), closefd=False)
            except soundfile.SoundFileError as error:
                process.wait()
                errors.seek(0)
                message = errors.read().decode(errors="replace")
                if "matches no streams" in message:
                    raise AudioError(f"{path}: has no sound track") from error
                raise AudioError(
                    f"{path}: cannot be read as audio ({message.strip().rpartition(': ')[2]})"
                ) from error
            with file:
                yield LibsndfileReader(path, file, process)
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


class AvReader:
    """Reader of the first sound track of a file that PyAV opened.

    Attributes:
        path: The file.
        rate: Sample rate in Hz.
    """

    def __init__(self, path: Path, container) -> None:
        self.path, self._container, self._stream = path, container, container.streams.audio[0]
        self.rate = self._stream.rate or 0
        _check_rate(path, self.rate)

    def duration(self) -> float:
        """Return the length in seconds; the file is decoded where its header does not know it."""
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration:
            return self._container.duration / 1_000_000  # AV_TIME_BASE
        return sum(map(len, self.blocks())) / self.rate

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop` (None: the end), (frames,) float32 each.

        All frames before `first` are decoded and dropped.
        """
        at = 0
        for block in self._decoded():
            start, at = at, at + len(block)
            if first < at:
                yield block[max(0, first - start) : None if stop is None else stop - start]
            if stop is not None and at >= stop:
                break

    def _decoded(self) -> Iterator[np.ndarray]:
        from av import AudioResampler
        from av.error import FFmpegError

        # PyAV converts every frame to float32; the channels are averaged here, as in other files
        planar, last = AudioResampler(format="fltp", rate=self.rate), None
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames, None)
            except FFmpegError as error:
                if last is None:
                    raise
                raise _damaged(self.path) from error
            if frame and frame.sample_rate != self.rate:
                change = f"from {self.rate} to {frame.sample_rate} Hz"
                raise AudioError(
                    f"{self.path}: changes its sample rate midway, {change}; convert it to wav"
                    " first"
                )
            for part in (
                planar.resample(frame) if frame or last else ()
            ):  # None flushes the resampler
                yield part.to_ndarray().mean(axis=0)
            if frame is None:
                break
            last = frame
        self._check_end(last)

    def _check_end(self, last) -> None:
        """Refuse an mp4 that ends before the length in its index.

        An mp4 that was cut between two packets is decoded without an error.
        """
        stream = self._stream
        if (
            last
            and last.pts is not None
            and stream.duration
            and "mp4" in self._container.format.name
        ):
            read, promised = (
                float(last.pts * stream.time_base),
                float(stream.duration * stream.time_base),
            )
            if read < promised - 1.0:
                promise = f"its header promises {promised:.1f} s, {read:.1f} s can be decoded"
                raise AudioError(f"{self.path}: is truncated: {promise}")


@contextmanager
def _open_av(path: Path) -> Iterator[AvReader]:
    import av

    try:
        # The absolute path, because PyAV reads "a:b.mp4" as the protocol "a". Title and artist may
        # be in any encoding.
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: has no sound track")
            yield AvReader(path, container)
    except av.error.FFmpegError as error:
        raise AudioError(f"{path}: cannot be read as audio ({error.strerror})") from error
