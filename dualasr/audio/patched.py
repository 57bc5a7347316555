"""Read a part of a file as if some of its bytes were others."""

import io
from collections.abc import Mapping
from typing import BinaryIO


class PatchedFile(io.RawIOBase):
    """A part of a file, read as if some of its bytes were others.

    Args:
        file: An open file.
        start: Position of the first byte of the part.
        end: Position behind its last byte.
        patches: Position in the file -> the bytes to read there.
    """

    def __init__(
        self, file: BinaryIO, start: int, end: int, patches: Mapping[int, bytes] | None = None
    ) -> None:
        self._file, self._start, self._end, self._at = file, start, end, 0
        self._patches = dict(patches or {})

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, counted from the beginning of the part."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, counted from the beginning of the part."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end - self._start}
        self._at = max(0, base[whence] + offset)
        return self._at

    def readinto(self, buffer) -> int:
        """Read up to `len(buffer)` bytes."""
        view = memoryview(buffer).cast("B")
        begin = self._start + self._at
        self._file.seek(begin)
        content = bytearray(self._file.read(max(0, min(len(view), self._end - begin))))
        for at, patch in self._patches.items():
            for i, byte in enumerate(patch, at - begin):
                if 0 <= i < len(content):
                    content[i] = byte
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
