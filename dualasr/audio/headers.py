"""Look at the bytes of a sound file: what it is, and whether its header tells the truth.

The name of a file decides nothing. libsndfile believes the sizes in a header, so they are compared
with the data: of wav, RF64, aiff, au and flac here, of mp3 in `mpeg.py`, of Ogg in `ogg.py`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO

from dualasr.audio.mpeg import mpeg_frame
from dualasr.errors import AudioError

# The first bytes of playlists and session descriptions: HLS, ffconcat, DASH, SDP. FFmpeg would open
# the files that they name, so whoever sends one would hear what they may not read.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")
# A wav with this data size or more does not know its length: sox writes this one to a pipe, ffmpeg
# and RF64 write 0xFFFFFFFF.
_UNKNOWN_BYTES = 0x7FFFF000
_MOST = 0xFFFFFFFF  # bytes that the header of a wav can count
# chunks that stand behind the sound of a wav or an aiff, even where the last one was cut
_TAGS = {b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"inst", b"iXML", b"_PMX", b"afsp"}
_TAGS |= {b"fact", b"JUNK", b"junk", b"PAD ", b"DISP", b"acid", b"MARK", b"COMT", b"NAME", b"ANNO"}
_TAGS |= {b"PEAK", b"cart", b"axml", b"chna", b"SAUR", b"AUTH", b"(c) ", b"LGWV", b"TAG+"}
_FEWEST = 4096  # bytes behind the data that are no chunks: fewer are not taken for sound


@dataclass(frozen=True)
class Contents:
    """What a file is by its first bytes.

    Attributes:
        kind: "wav", "aiff", "au", "flac", "ogg", "mpeg" (mp3 and its elder sisters), "clocked" (a
            container whose time begins at zero: mp4, mov, mkv, webm, avi), "playlist", or "" for
            all others.
        begin: Position of its first byte, behind ID3 tags.
        size: Number of bytes of the file.
    """

    kind: str
    begin: int
    size: int


@dataclass(frozen=True)
class Repair:
    """How to read a file whose header counts wrongly.

    Attributes:
        patches: Position -> the bytes to read there in place of those of the file.
        note: What is wrong, and what is done about it; "" if the header is right.
        beyond: Where the sound begins, if it is longer than a header can say; else 0.
    """

    patches: Mapping[int, bytes] = field(default_factory=dict)
    note: str = ""
    beyond: int = 0


def contents_of(file: BinaryIO, size: int) -> Contents:
    """Tell what a file is.

    Args:
        file: An open file.
        size: Its number of bytes.
    """
    begin = 0
    for _ in range(8):  # tags before the sound
        file.seek(begin)
        head = file.read(36)
        if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
            break
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        begin += 10 + length + (10 if head[5] & 0x10 else 0)
    return Contents(_kind(head), begin, size)


def _kind(head: bytes) -> str:
    if head.lstrip().startswith(_PLAYLISTS):
        return "playlist"
    form = head[8:12]
    if head[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return "wav" if form == b"WAVE" else "clocked" if form in (b"AVI ", b"AVIX") else ""
    if head[:4] == b"FORM":
        return "aiff" if form in (b"AIFF", b"AIFC") else ""
    for magic, kind in ((b".snd", "au"), (b"fLaC", "flac"), (b"OggS", "ogg")):
        if head.startswith(magic):
            return kind
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "clocked"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"moof"):
        return "clocked"
    return "mpeg" if mpeg_frame(head[:4]) else ""


# ---- wav, RF64, aiff, au: the size of the sound


@dataclass(frozen=True)
class _Sound:
    """The sound of a wav, aiff or au: where it begins, and which size the header gives it."""

    start: int
    size: int
    size_at: int  # position of the field
    layout: str  # struct format of the field
    order: str  # of the chunks; "" has no chunks behind the sound


def repaired(file: BinaryIO, contents: Contents, path: Path) -> Repair:
    """Compare the size in the header of a wav, RF64, aiff or au with the size of the file.

    A size that is too small, 0 of a recorder that died among them, is not believed: what follows
    is sound, unless chunks with tags follow.

    Args:
        file: The file.
        contents: What it is.
        path: Its path, for the message.

    Raises:
        AudioError: The file is shorter than its header says. libsndfile reads such a file to its
            end without an error.
    """
    sound = _au(file, contents) if contents.kind == "au" else _chunk(file, contents)
    if sound is None:
        return Repair()
    left = contents.size - sound.start
    unknown = sound.size >= (_UNKNOWN_BYTES if sound.layout[1] == "I" else 1 << 62)
    beyond = sound.start if sound.layout[1] == "I" and left > _MOST else 0
    if unknown or sound.size == left:
        return Repair(beyond=beyond)
    if left < sound.size:
        raise AudioError(
            f"{path}: is truncated: its header promises {sound.size} bytes of sound, {left} follow"
        )
    rest = left - sound.size
    if (sound.size and rest < _FEWEST) or _are_chunks(file, sound, contents.size):
        return Repair()
    unknown_size = _MOST if sound.layout[1] == "I" else 1 << 62
    return Repair(
        {sound.size_at: struct.pack(sound.layout, unknown_size)},
        f"its header counts {sound.size} bytes of sound, {left} follow, as after a recorder that"
        " died; all of them are read",
        beyond,
    )


def _au(file: BinaryIO, contents: Contents) -> _Sound | None:
    file.seek(contents.begin)
    head = file.read(12)
    if len(head) < 12:
        return None
    start, size = struct.unpack(">II", head[4:])
    if not 24 <= start <= contents.size:
        return None
    return _Sound(contents.begin + start, size, contents.begin + 8, ">I", "")


def _chunk(file: BinaryIO, contents: Contents) -> _Sound | None:
    """Find the chunk with the sound."""
    file.seek(contents.begin)
    magic = file.read(12)[:4]
    order = ">" if magic in (b"RIFX", b"FORM") else "<"
    long_size: tuple[int, int] | None = None  # of RF64: size, position of the field
    for _ in range(1000):
        at = file.tell()
        head = file.read(8)
        if len(head) < 8:
            break
        name, size = struct.unpack(order + "4sI", head)
        if name == b"ds64" and magic == b"RF64" and len(body := file.read(16)) == 16:
            long_size = (struct.unpack("<QQ", body)[1], at + 16)
        if name == b"data" and long_size and size == 0xFFFFFFFF:
            return _Sound(at + 8, *long_size, "<Q", order)
        if name == (b"SSND" if magic == b"FORM" else b"data"):
            return _Sound(at + 8, size, at + 4, order + "I", order)
        file.seek(at + 8 + size + size % 2)
    return None


def _are_chunks(file: BinaryIO, sound: _Sound, end: int) -> bool:
    """Whether chunks follow the sound, and not more sound."""
    if not sound.order:
        return False
    for pad in {0, sound.size % 2}:
        at, count = sound.start + sound.size + pad, 0
        while at + 8 <= end:
            file.seek(at)
            name, size = struct.unpack(sound.order + "4sI", file.read(8))
            if name in _TAGS:
                return True
            if not all(32 <= byte < 127 for byte in name) or at + 8 + size > end:
                break
            at, count = at + 8 + size + size % 2, count + 1
        else:
            if count:
                return True
    return False


# ---- flac: the number of samples


def flac_frames(file: BinaryIO, contents: Contents) -> tuple[int, int | None]:
    """Return how many frames the header of a flac counts, and how many the file has.

    The file's own number is in its last frame.

    Args:
        file: The file.
        contents: What it is.

    Returns:
        The number in the header (0: it does not know), and the true number: None if the last frame
        cannot be found, as in a file that was cut.
    """
    file.seek(contents.begin)
    head = file.read(42)
    if len(head) < 42:
        return 0, None
    claimed = (head[21] & 15) << 32 | int.from_bytes(head[22:26], "big")
    begin = max(contents.begin + 42, contents.size - (1 << 16))
    file.seek(begin)
    tail = file.read()
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    at, tries = len(tail), 4  # the frame before a damaged one does not end where the file ends
    while tries and (at := tail.rfind(b"\xff", 0, at)) >= 0:
        end = _flac_frame(tail[at : at + 16], int.from_bytes(head[10:12], "big"))
        if end and (end == claimed or _crc(tail[at:], 16, 0x8005) == 0):
            return claimed, end
        tries -= end is not None
    return claimed, None


def _flac_frame(head: bytes, block_size: int) -> int | None:
    """Return the number of the sample behind a frame of a flac, None if this is no frame.

    Args:
        head: What may be the beginning of a frame.
        block_size: Frames of a block, where all have the same number.
    """
    if len(head) < 6 or head[1] not in (0xF8, 0xF9) or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return None
    length = 1 if head[4] < 0x80 else 8 - (head[4] ^ 0xFF).bit_length()  # as UTF-8 counts
    if head[3] & 1 or head[4] == 0xFF or 0x80 <= head[4] < 0xC0:
        return None
    number = head[4] if length == 1 else head[4] & (0x7F >> length)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at, code = 4 + length, head[2] >> 4
    if code in (6, 7):
        count = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        count = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or _crc(head[: at + 1], 8, 0x07):
        return None
    return (number if head[1] & 1 else number * block_size) + count


def _crc(content: bytes, bits: int, polynomial: int) -> int:
    """Return the checksum; 0 for content that ends with its own."""
    table, mask, value = _crc_table(bits, polynomial), (1 << bits) - 1, 0
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> (bits - 8) ^ byte]
    return value


@cache
def _crc_table(bits: int, polynomial: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial | 1 << bits if value >> (bits - 1) else 0)
        table.append(value)
    return table
