"""Ogg: the links of a chained file, and whether libsndfile reads them right."""

import io
from dataclasses import dataclass
from typing import BinaryIO

from dualasr.audio.patched import PatchedFile


@dataclass(frozen=True)
class Link:
    """One of the sounds that a chained Ogg holds one after another.

    Attributes:
        start: Position of its first byte.
        end: Position behind its last byte.
        plain: Whether it is one Vorbis or Opus stream without a gap, which libsndfile reads right.
    """

    start: int
    end: int
    plain: bool


def ogg_links(file: BinaryIO, begin: int, size: int) -> list[Link]:
    """Find the links of an Ogg, by its pages.

    Args:
        file: The file.
        begin: Position of its first byte.
        size: Number of bytes of the file.
    """
    file = io.BufferedReader(PatchedFile(file, 0, size), 1 << 18)
    links: list[Link] = []
    at = start = begin
    stream, starting, plain = _OggStream(), True, True
    while at + 27 <= size:
        file.seek(at)
        head = file.read(27)
        if head[:4] != b"OggS":  # damaged: look for the next page
            plain, at = False, _find(file, b"OggS", at + 1)
            if at < 0:
                break
            continue
        lacing = file.read(head[26])
        if head[5] & 2 and not starting:
            links.append(Link(start, at, plain and stream.is_known))
            start, stream, plain = at, _OggStream(), True
        starting = bool(head[5] & 2)
        body = file.read(sum(lacing))
        plain = stream.add(head, lacing, body) and plain
        at += 27 + len(lacing) + len(body)
    return [*links, Link(start, size, plain and stream.is_known)]


def _find(file: BinaryIO, wanted: bytes, at: int) -> int:
    while True:
        file.seek(at)
        content = file.read(1 << 16)
        if (found := content.find(wanted)) >= 0:
            return at + found
        if len(content) < len(wanted):
            return -1
        at += len(content) - len(wanted) + 1


class _OggStream:
    """The pages of a link so far.

    Attributes:
        is_known: Whether it is Vorbis or Opus.
    """

    def __init__(self) -> None:
        self.is_known = False
        self._serial, self._number = b"", 0
        self._granule: int | None = None
        self._longest = 0  # samples that a packet of Vorbis can give; 0 is Opus
        self._duration = 0  # samples of the packets since the last page with a time

    def add(self, head: bytes, lacing: bytes, body: bytes) -> bool:
        """Take a page; return whether it follows the one before without a gap.

        Args:
            head: The first 27 bytes of the page.
            lacing: The lengths of its packets.
            body: Its packets.
        """
        granule = int.from_bytes(head[6:14], "little", signed=True)
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        if head[5] & 2:
            self.is_known = body[:8] == b"OpusHead" or (
                body[:7] == b"\x01vorbis" and len(body) > 28
            )
            if self.is_known and body[:1] == b"\x01":
                self._longest = (1 << (body[28] >> 4)) // 2
            alone, self._serial, self._number = not self._serial, serial, number
            return alone
        if serial != self._serial or number != self._number + 1 or len(body) < sum(lacing):
            follows = serial == self._serial and number == self._number + 1
            self._number = number
            return follows  # only the last page of a file can be short
        self._number = number
        self._duration += self._samples(lacing, body, bool(head[5] & 1))
        if granule < 0:
            return True
        before, duration = self._granule, self._duration
        if granule or before is not None:  # pages with headers have the time 0
            self._granule, self._duration = granule, 0
        jump = 0 if before is None else granule - before - duration
        return jump <= 4800  # a tenth of a second of Opus

    def _samples(self, lacing: bytes, body: bytes, continued: bool) -> int:
        """Return the samples of the packets that begin on a page; of Vorbis, the most it can be."""
        total, at, begins = 0, 0, not continued
        for length in lacing:
            if begins:
                total += self._longest or _opus_samples(body[at : at + 2])
            at, begins = at + length, length < 255
        return total


def _opus_samples(packet: bytes) -> int:
    """Return the samples of an Opus packet, at 48 kHz (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config % 4]
    elif config < 16:
        frame = (480, 960)[config % 2]
    else:
        frame = (120, 240, 480, 960)[config % 4]
    return frame * (packet[1] & 63 if code == 3 and len(packet) > 1 else (1, 2, 2, 1)[code])
