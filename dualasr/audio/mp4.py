"""mp4 and mov: the silence that the edit list of the first sound track asks for.

ffmpeg and PyAV follow edit lists, but in the place of an empty edit that is not the first they play
sound again. The stretches named here are silenced behind them.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

_HEAD = struct.Struct(">I4s")
_MOST = 10_000  # boxes or edits that are looked at


def empty_edits(file: BinaryIO, size: int) -> list[tuple[float, float]]:
    """Return where the first sound track is silent by its edit list.

    Args:
        file: An mp4 or mov; any other file has none.
        size: Its number of bytes.

    Returns:
        Starts and ends in seconds of the movie.
    """
    movie = next((part for name, *part in _boxes(file, 0, size) if name == b"moov"), None)
    if movie is None:
        return []
    parts = list(_boxes(file, *movie))
    scale = next((_time_scale(file, *part) for name, *part in parts if name == b"mvhd"), 0)
    for name, *track in parts:
        if name == b"trak" and scale and _is_sound(file, *track):
            return [(start / scale, end / scale) for start, end in _empty(_edits(file, *track))]
    return []


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes from `at` to `end`: name, first byte of the contents, byte behind them."""
    for _ in range(_MOST):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or at + 8 > end:
            return
        size, name = _HEAD.unpack(head[:8])
        begin = at + 8
        if size == 1 and len(head) == 16:
            size, begin = int.from_bytes(head[8:], "big"), at + 16
        stop = min(end, at + size) if size else end
        if stop < begin:
            return
        yield name, begin, stop
        at = stop


def _inside(file: BinaryIO, part: tuple[int, int], *names: bytes) -> tuple[int, int] | None:
    """Find a box inside boxes."""
    for wanted in names:
        found = ((a, b) for name, a, b in _boxes(file, *part) if name == wanted)
        if (inner := next(found, None)) is None:
            return None
        part = inner
    return part


def _time_scale(file: BinaryIO, begin: int, end: int) -> int:
    file.seek(begin)
    head = file.read(24)
    return int.from_bytes(head[20:24] if head[:1] == b"\1" else head[12:16], "big")


def _is_sound(file: BinaryIO, begin: int, end: int) -> bool:
    handler = _inside(file, (begin, end), b"mdia", b"hdlr")
    if handler is None:
        return False
    file.seek(handler[0])
    return file.read(12)[8:] == b"soun"


def _edits(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the edits of a track: duration in the movie's units, and time in the media or -1."""
    box = _inside(file, (begin, end), b"edts", b"elst")
    if box is None:
        return
    file.seek(box[0])
    head = file.read(8)
    row = struct.Struct(">QqI" if head[:1] == b"\1" else ">IiI")
    for _ in range(min(_MOST, int.from_bytes(head[4:8], "big"))):
        if len(content := file.read(row.size)) < row.size or file.tell() > box[1]:
            return
        yield row.unpack(content)[:2]


def _empty(edits: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for duration, media in edits:
        if media == -1:
            yield at, at + duration
        at += duration
