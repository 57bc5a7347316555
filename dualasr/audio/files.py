"""Open sound files whatever their names say, and decode them from front to back in blocks.

What a file holds decides who reads it. libsndfile (through soundfile) reads wav, flac, aiff and the
like, mp3 and Ogg. PyAV, an optional extra, reads what libsndfile cannot read, or would not read
whole: m4a, mp4, webm, an mp3 whose header counts too little. Where PyAV is not installed or
cannot read a file, the program `ffmpeg` decodes it, and libsndfile reads its output through a pipe.
A block holds at most half a megabyte, whatever the length of the file. `load.py` resamples the
blocks.
"""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from dualasr.audio.containers import FORMATS, JITTER, MOST_SILENCE, NotReadable, damaged, open_av
from dualasr.audio.headers import Contents, Repair, contents_of, flac_frames, repaired
from dualasr.audio.mp4 import empty_edits
from dualasr.audio.mpeg import mpeg_samples
from dualasr.audio.ogg import Link, ogg_links
from dualasr.audio.patched import PatchedFile
from dualasr.audio.reader import SoundReader, note, resampled
from dualasr.errors import AudioError

# Formats in which libsndfile does not seek exactly. After a seek, mp3 gives silence until its bit
# reservoir is full, and Vorbis continues at another frame.
_INEXACT = ("MP3", "OGG")
# samples that can be read without a header
_PLAIN = ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_NOT_RECOGNISED = "Format not recognised"  # what libsndfile says
_BLOCK = 1 << 17  # samples of a block, all channels together
# libsndfile reports more frames than this for a flac or a pipe that does not know its length
_UNKNOWN_FRAMES = 1 << 48
# samples, at most: the delay and the padding of an mp3, which its decoder leaves out
_MPEG_DELAY = 3456
# A filter of ffmpeg that does with timestamps what `AvReader` does: those that jump back, or by
# hours, begin a new count. 0 is the shift, 1 the jump, 2 the silence so far, in seconds.
_CLOCK = (
    f"asetpts='st(1,if(isnan(PREV_INT),max(T,0),T-PREV_INT-NB_SAMPLES/SR));"
    f"st(0,ld(0)+if(gt(ld(1)+ld(2),{MOST_SILENCE})+lt(ld(1),-{JITTER}),ld(1),0));"
    f"st(2,ld(2)+if(between(ld(1),{JITTER},{MOST_SILENCE}-ld(2)),ld(1),0));(T-ld(0))/TB'"
)


@contextmanager
def open_sound_file(path: Path) -> Iterator[SoundReader]:
    """Open a sound file with the library that reads what it holds.

    Args:
        path: A regular file. Anything else (a folder, a device, a pipe) is refused unopened.

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
        # should a pipe have taken its place since, the program does not wait for who writes to it
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path}: is not a regular file")
        try:
            contents = contents_of(file, status.st_size)
            if contents.kind == "playlist":
                raise AudioError(
                    f"{path}: is a playlist, not sound; give the sound files that it names"
                )
            with _first_that_opens(path, _openers(path, file, contents)) as reader:
                yield reader
        except OSError as error:  # of a disk
            raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
        if os.fstat(descriptor).st_size < status.st_size:
            raise AudioError(f"{path}: is truncated: it became shorter while it was read")


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "no such file" if missing else f"cannot be read ({error.strerror})"
        raise AudioError(f"{path}: {reason}") from error
    except ValueError as error:  # a name with a zero byte
        raise AudioError(f"{path}: no such file") from error
    if stat.S_ISDIR(status.st_mode):
        shut = not os.access(path, os.R_OK | os.X_OK)
        raise AudioError(
            f"{path}: is a folder{' that cannot be looked into' if shut else ', not a sound file'}"
        )
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: is not a regular file")
    if not status.st_size:
        raise AudioError(f"{path}: is empty")


Opener = Callable[[], AbstractContextManager[SoundReader]]


def _openers(path: Path, file: BinaryIO, contents: Contents) -> Iterator[Opener]:
    """Yield the ways to open a file, the best first."""
    links = ogg_links(file, contents.begin, contents.size) if contents.kind == "ogg" else []
    if len(links) > 1:
        yield lambda: _open_links(path, file, links)
    elif not links or links[0].plain:
        yield lambda: _open_libsndfile(path, file, contents)
    same = _same(path, file)
    clocked = contents.kind == "clocked"
    silence = empty_edits(file, contents.size) if clocked else []
    if _has_av():
        yield lambda: open_av(path, same, clocked, silence)
    if shutil.which("ffmpeg"):
        yield lambda: _open_ffmpeg(path, file, clocked, silence)


def _same(path: Path, file: BinaryIO) -> str:
    """Return a path of an open file, without the suffix, which is not to count."""
    same = f"/dev/fd/{file.fileno()}"
    return same if os.path.exists(same) else str(path.absolute())


def _has_av() -> bool:
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def _first_that_opens(path: Path, openers: Iterator[Opener]) -> Iterator[SoundReader]:
    """Open a file in the first way that can read it."""
    reason = ""
    with ExitStack() as stack:
        for opener in openers:
            try:
                reader = stack.enter_context(opener())
                break
            except NotReadable as error:
                if not reason or _NOT_RECOGNISED in reason:
                    reason = str(error)
        else:
            reason = reason or f"{path}: cannot be read as audio"
            if not _has_av() and not shutil.which("ffmpeg"):
                reason += (
                    "; PyAV and ffmpeg, one of which may read it, are not installed: pip install"
                    " 'dualasr[av]'"
                )
            raise NotReadable(reason)
        yield reader


class _FrontToBack(soundfile.SoundFile):
    """A SoundFile that does not seek after each read.

    soundfile's own seek fails at the end of a flac that does not know its length, and in a pipe.
    """

    def seekable(self) -> bool:
        return False


class LibsndfileReader(SoundReader):
    """Reader of a file, or of the pipe from `ffmpeg`, that libsndfile decodes.

    Args:
        path: The file.
        file: libsndfile's file.
        ffmpeg: The program whose output it is.
        frames: The number of frames, where it is known better than by libsndfile; -1 is unknown.
        silence: Stretches that are silent: start and end in seconds.
    """

    def __init__(
        self,
        path: Path,
        file: soundfile.SoundFile,
        ffmpeg: subprocess.Popen | None = None,
        frames: int | None = None,
        silence: Sequence[tuple[float, float]] = (),
    ) -> None:
        super().__init__(path, file.samplerate, silence)
        self._file, self._ffmpeg = file, ffmpeg
        self._promised = file.frames if file.frames < _UNKNOWN_FRAMES else None
        self._known = self._promised if frames is None else frames if frames >= 0 else None

    def known_duration(self) -> float | None:
        """Return the length in seconds as far as it is known without decoding, else None."""
        return None if self._known is None else self._known / self.rate

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop` (None: the end), as the file has them.

        In mp3, ogg and pipes, all frames before `first` are decoded and dropped.
        """
        file, at, size = self._file, 0, max(1, _BLOCK // self._file.channels)
        if first and self._promised is not None and file.format not in _INEXACT:
            with suppress(soundfile.SoundFileError):  # if it fails, decode from the start
                file.seek(first)
                at = first
        while stop is None or at < stop:
            try:
                block = file.read(
                    size if stop is None else min(size, stop - at), dtype="float32", always_2d=True
                )
            except soundfile.SoundFileError as error:
                raise damaged(self.path) from error
            if not len(block):
                self._check_end(at)
                break
            skip, at = max(0, first - at), at + len(block)
            if skip < len(block):
                yield block[skip:]

    def _check_end(self, frames: int) -> None:
        if self._ffmpeg and self._ffmpeg.wait():
            raise damaged(self.path)
        if self._file.format != "MP3" and self._promised is not None and frames < self._promised:
            promise = f"its header promises {self._promised} frames, {frames} can be decoded"
            raise AudioError(f"{self.path}: is truncated: {promise}")


@contextmanager
def _open_libsndfile(
    path: Path, file: BinaryIO, contents: Contents, link: Link | None = None
) -> Iterator[LibsndfileReader]:
    """Open a file, or a link of a chained Ogg, of which libsndfile reads everything."""
    repair, frames, samples = Repair(), None, None
    if contents.kind in ("wav", "aiff", "au"):
        repair = repaired(file, contents, path)
    elif contents.kind == "flac":
        promised, true = flac_frames(file, contents)
        frames = -1 if true is None or true < promised else true
        if promised and true is not None and true > promised:
            repair = _unknown_length(contents.begin, file, promised, true)
    elif contents.kind == "mpeg":
        samples = mpeg_samples(file, contents.begin, contents.size)
        if samples is None:
            raise NotReadable(f"{path}: cannot be read as audio (libsndfile reads a part of it)")
    file.seek(0)
    source: int | PatchedFile = file.fileno()
    if repair.patches or link:
        begin, end = (link.start, link.end) if link else (0, contents.size)
        source = PatchedFile(file, begin, end, repair.patches)
    try:
        sound = _FrontToBack(source, closefd=False)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        # libsndfile guesses so of an mp3 without a frame, though the file exists
        if "possibly a pipe" in reason:
            reason = _NOT_RECOGNISED
        raise NotReadable(f"{path}: cannot be read as audio ({reason})") from error
    with sound:
        if repair.beyond and sound.subtype in _PLAIN:
            sound = _as_raw(sound, PatchedFile(file, repair.beyond, contents.size))
        if sound.format == "MP3":
            if samples is None or sound.frames < samples - _MPEG_DELAY:
                raise NotReadable(
                    f"{path}: cannot be read as audio (libsndfile reads a part of it)"
                )
            frames = min(sound.frames, samples)
        reader = LibsndfileReader(path, sound, frames=frames)
        if repair.note:
            note(path, repair.note)
        yield reader


def _as_raw(sound: soundfile.SoundFile, source: PatchedFile) -> _FrontToBack:
    """Open the sound of a file without its header."""
    return _FrontToBack(
        source,
        samplerate=sound.samplerate,
        channels=sound.channels,
        subtype=sound.subtype,
        endian="LITTLE" if sound.format in ("WAV", "WAVEX") else "BIG",
        format="RAW",
        closefd=False,
    )


def _unknown_length(begin: int, file: BinaryIO, promised: int, true: int) -> Repair:
    """Return how to read a flac whose header counts too few samples: as if it did not count."""
    file.seek(begin + 21)
    [byte] = file.read(1)
    return Repair(
        {begin + 21: bytes([byte & 0xF0, 0, 0, 0, 0])},
        f"its header counts {promised} samples, it has {true}; all of them are read",
    )


class _LinksReader(SoundReader):
    """Reader of the links of a chained Ogg, one after another, at the rate of the first.

    Args:
        path: The file.
        openers: One for each link.
    """

    def __init__(self, path: Path, openers: list[Opener]) -> None:
        self._openers = openers
        for opener in openers:
            with suppress(NotReadable), opener() as reader:
                super().__init__(path, reader.rate)
                return
        raise NotReadable(f"{path}: cannot be read as audio (no link of this Ogg can be read)")

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop`, (frames, 1); all before are decoded."""
        at = 0
        for opener in self._openers:
            with ExitStack() as stack:
                try:
                    reader = stack.enter_context(opener())
                except NotReadable:
                    note(self.path, "a part of this chained Ogg cannot be read; it is left out")
                    continue
                for block in resampled(reader.blocks(), reader.rate, self.rate):
                    start, at = at, at + len(block)
                    if first < at and len(block):
                        part = block[max(0, first - start) : None if stop is None else stop - start]
                        yield part[:, None]
                    if stop is not None and at >= stop:
                        return


@contextmanager
def _open_links(path: Path, file: BinaryIO, links: list[Link]) -> Iterator[_LinksReader]:
    def opener(link: Link) -> Opener:
        return lambda: _first_that_opens(path, _link_openers(path, file, link))

    yield _LinksReader(path, [opener(link) for link in links])


def _link_openers(path: Path, file: BinaryIO, link: Link) -> Iterator[Opener]:
    if link.plain:
        yield lambda: _open_libsndfile(path, file, Contents("ogg", link.start, link.end), link)
    if _has_av():
        yield lambda: open_av(path, PatchedFile(file, link.start, link.end), False)


@contextmanager
def _open_ffmpeg(
    path: Path, file: BinaryIO, clocked: bool, silence: list[tuple[float, float]]
) -> Iterator[LibsndfileReader]:
    """Open the first sound track as a Sun AU stream from `ffmpeg`, with its time kept.

    The AU header can hold any sample rate, and it can say that the length is unknown.
    """
    # -copyts keeps the time of a container; without it the first of its tracks begins at zero, for
    # which the second output has to take the picture. aresample fills with silence where timestamps
    # jump. -xerror stops at damage; a stream that can be cut anywhere, such as mp3, goes on.
    how = ["-copyts", "-xerror"] if clocked else []
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", *how]
    command += ["-format_whitelist", FORMATS, "-protocol_whitelist", "file"]
    command += ["-i", f"file:{_same(path, file)}"]
    command += ["-map", "0:a:0", "-af", f"{_CLOCK},aresample=async=1:first_pts=0"]
    command += ["-f", "au", "-c:a", "pcm_f32be", "pipe:1"]
    if not clocked:
        command += ["-map", "0:a:0", "-map", "0:v?", "-c", "copy", "-f", "null", "-"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[file.fileno()],
        )
        assert process.stdout is not None  # it is a pipe
        try:
            try:
                sound = _FrontToBack(process.stdout.fileno(), closefd=False)
            except soundfile.SoundFileError as error:
                process.wait()
                errors.seek(0)
                message = errors.read().decode(errors="replace")
                if "matches no streams" in message:
                    raise AudioError(f"{path}: has no sound track") from error
                raise NotReadable(
                    f"{path}: cannot be read as audio ({message.strip().rpartition(': ')[2]})"
                ) from error
            with sound:
                yield LibsndfileReader(path, sound, process, silence=silence)
        finally:
            process.stdout.close()
            process.kill()
            process.wait()
