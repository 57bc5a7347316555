"""Read the first sound track of a container with PyAV, each sound at its time.

Second 0 of a sound is the zero of the container. A track that begins later, or whose timestamps
jump, is filled with silence. mp4, mov, mkv, webm and avi have a clock that begins at zero. Others,
such as a recording cut out of a broadcast (MPEG-TS), begin at any number: there the zero is where
the first of their tracks begins.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dualasr.audio.patched import PatchedFile
from dualasr.audio.reader import SoundReader, note
from dualasr.errors import AudioError

# The formats that PyAV and ffmpeg may read. Playlists and scripts (hls, concat, sdp ...) are not
# among them: such a text would make them open other files, or addresses.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gxf,iff,"
    "ilbc,ircam,live_flv,loas,matroska,mlp,mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,"
    "oma,qcp,rm,sds,shn,sox,swf,tak,truehd,tta,voc,vqf,w64,wav,wsd,wtv,wv,xwma"
)
# Seconds. Timestamps and samples drift apart by less than this in sound without a gap, because
# containers round, and encoders and decoders have a delay. It is what `aresample` of ffmpeg takes.
JITTER = 0.1
# Seconds of silence in a file at most: timestamps that ask for more are damaged or arbitrary.
MOST_SILENCE = 3 * 3600
_SILENCE = 1 << 16  # frames of a block of silence


def damaged(path: Path) -> AudioError:
    """Return the error for a file that cannot be decoded to its end."""
    return AudioError(f"{path}: is truncated or damaged: decoding fails before its end")


class NotReadable(AudioError):
    """A library cannot open a file; another may."""


class AvReader(SoundReader):
    """Reader of the first sound track of a file that PyAV opened.

    Args:
        path: The file.
        container: PyAV's container.
        clocked: Whether its time begins at zero.
        silence: Stretches that are silent: start and end in seconds.
    """

    def __init__(
        self, path: Path, container, clocked: bool, silence: Sequence[tuple[float, float]] = ()
    ) -> None:
        self._container, self._stream = container, _first_track(path, container)
        super().__init__(path, self._stream.rate or 0, silence)
        self._clocked = clocked
        start = container.start_time or 0  # microseconds: the first of all tracks
        self._zero = 0.0 if clocked or start < 0 else start / 1_000_000

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield the frames from `first` to before `stop`; all before are decoded and dropped."""
        at = 0
        for block in self._timed():
            start, at = at, at + len(block)
            if first < at:
                yield block[max(0, first - start) : None if stop is None else stop - start]
            if stop is not None and at >= stop:
                break

    def _timed(self) -> Iterator[np.ndarray]:
        """Yield all sound, with silence where the timestamps jump forward.

        Sound before zero, which is an encoder's delay, is dropped. Timestamps that jump back, or by
        hours, begin a new count.
        """
        at, shift, left = 0, 0.0, MOST_SILENCE * self.rate
        channels = 1
        for time, block in self._decoded():
            gap = 0 if time is None else round((time - self._zero + shift) * self.rate) - at
            if not at and -self.rate < gap < 0:
                block, gap = block[-gap:], 0
            elif abs(gap) <= JITTER * self.rate:
                gap = 0
            elif not 0 < gap <= left:
                shift, gap = shift - gap / self.rate, 0
            channels = block.shape[1]
            left -= gap
            at += gap + len(block)
            for size in [_SILENCE] * (gap // _SILENCE) + [gap % _SILENCE]:
                if size:
                    yield np.zeros((size, channels), np.float32)
            if len(block):
                yield block

    def _decoded(self) -> Iterator[tuple[float | None, np.ndarray]]:
        """Yield the decoded frames: the second each begins at, if known, and (frames, channels).

        A packet that cannot be decoded is left out in a stream that can be cut anywhere, such as
        mp3. In a container with an index it is damage.
        """
        from av.error import FFmpegError

        decoded, bad, reason = 0, 0, ""
        last: float | None = None  # where the last frame begins, in seconds
        packets = self._container.demux(self._stream)
        convert = _Converter(self.rate)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                if self._clocked and decoded:
                    raise damaged(self.path) from error
                packet, bad, reason = None, bad + 1, str(error.strerror)
            except IndexError:  # PyAV, after our track's last packet, if tracks began midway
                packet = None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except FFmpegError as error:
                if self._clocked and decoded:
                    raise damaged(self.path) from error
                frames, bad, reason = [], bad + 1, str(error.strerror)
            for frame in frames:
                decoded, last = decoded + 1, frame.time
                yield from convert(frame)
        yield from convert(None)
        if not decoded and bad:
            raise AudioError(f"{self.path}: cannot be read as audio ({reason})")
        if bad:
            note(self.path, "it holds parts that cannot be decoded; they are left out")
        self._check_end(last)

    def _check_end(self, last: float | None) -> None:
        """Refuse an mp4 that ends before the length in its index.

        An mp4 that was cut between two packets is decoded without an error.
        """
        stream = self._stream
        if last is None or not stream.duration or "mp4" not in self._container.format.name:
            return
        promised = float(stream.duration * stream.time_base)
        if last < promised - 1.0:
            promise = f"its header promises {promised:.1f} s, {last:.1f} s can be decoded"
            raise AudioError(f"{self.path}: is truncated: {promise}")


def _first_track(path: Path, container):
    """Return the first sound track that PyAV can decode."""
    tracks = container.streams.audio
    if not tracks:
        raise AudioError(f"{path}: has no sound track")
    for track in tracks:
        if track.codec_context is not None:
            return track
    raise NotReadable(f"{path}: cannot be read as audio (PyAV has no decoder for its sound track)")


class _Converter:
    """Turns PyAV's frames into float32 at one sample rate, whatever changes midway."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._kind: Any = None
        self._resampler: Any = None

    def __call__(self, frame) -> Iterator[tuple[float | None, np.ndarray]]:
        """Yield (second, samples of shape (frames, channels)); None at the end flushes."""
        from av import AudioResampler

        kind = frame and (frame.sample_rate, frame.format.name, frame.layout.name)
        if kind != self._kind:
            if self._resampler is not None:
                yield from ((None, part) for part in self._parts(None))
            self._kind = kind
            self._resampler = frame and AudioResampler(format="fltp", rate=self._rate)
        if frame is None:
            return
        time = frame.time
        frame.pts = None  # the resampler is not to mind gaps
        for part in self._parts(frame):
            yield time, part
            time = None

    def _parts(self, frame) -> Iterator[np.ndarray]:
        for part in self._resampler.resample(frame):
            yield part.to_ndarray().T


@contextmanager
def open_av(
    path: Path,
    file: PatchedFile | str,
    clocked: bool,
    silence: Sequence[tuple[float, float]] = (),
) -> Iterator[AvReader]:
    """Open a file with PyAV.

    Args:
        path: The file, for messages.
        file: What to read: the path of an open file, or an object like a file.
        clocked: Whether the time of the container begins at zero.
        silence: Stretches that are silent: start and end in seconds.

    Raises:
        NotReadable: PyAV cannot read it.
        AudioError: It has no sound track.
    """
    import av

    try:
        # title and artist may be in any encoding
        container = av.open(file, metadata_errors="replace", options={"format_whitelist": FORMATS})
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, av.error.ArgumentError):  # it is not on the list
            reason = "it is no format for sound"
        raise NotReadable(f"{path}: cannot be read as audio ({reason})") from error
    with container:
        yield AvReader(path, container, clocked, silence)
