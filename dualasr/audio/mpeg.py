"""MPEG audio (mp3, mp2, mp1): its frames, and whether libsndfile would read all of them."""

import io
from typing import BinaryIO

from dualasr.audio.patched import PatchedFile

_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by MPEG version (2 also for 2.5) and layer


def mpeg_frame(head: bytes) -> tuple[int, int, int] | None:
    """Read the four bytes before a frame of MPEG audio.

    Returns:
        Bytes of the frame, its samples, and what the frames of a file have in common: version,
        layer, sample rate, one channel or two. None if this is no frame.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kbits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
        return None
    hertz = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * _KBITS[1 if version == 3 else 2, layer][kbits - 1]
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    padding = head[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = samples // 8 * bits // hertz + padding
    return length, samples, head[1] & 0x1E | rate << 8 | (head[3] >> 6 == 3) << 10


def mpeg_samples(file: BinaryIO, begin: int, size: int) -> int | None:
    """Count the samples of an mp3 frame by frame.

    Args:
        file: The file.
        begin: Position of its first byte, behind ID3 tags.
        size: Number of bytes of the file.

    Returns:
        The number of samples, those of the encoder's delay and padding among them. None for a file
        that libsndfile would not read whole: what stands between its first frame and its end is
        not frames alone, or a Xing header counts fewer frames.
    """
    file = io.BufferedReader(PatchedFile(file, 0, size), 1 << 18)
    at, total, per_frame = begin, 0, 1
    common: int | None = None
    counted: int | None = None
    tags = False
    while at + 4 <= size:
        file.seek(at)
        head = file.read(64)
        if common is not None and (tag := _end_tag(head)):
            at, tags = at + tag, True
            continue
        frame = mpeg_frame(head)
        if frame is None or tags or common not in (None, frame[2]):
            return None
        length, per_frame, same = frame
        if at + length > size:  # the last frame was cut
            break
        xing = max(head.find(b"Xing", 0, 44), head.find(b"Info", 0, 44))
        if xing >= 0 or b"VBRI" in head[:44]:
            if common is not None:  # the beginning of another mp3
                return None
            if xing >= 0:
                if not head[xing + 7] & 1:
                    return None
                counted = int.from_bytes(head[xing + 8 : xing + 12], "big")
        else:
            total += per_frame
        common, at = same, at + length
    if counted is not None and counted < total // per_frame:
        return None
    return total or None


def _end_tag(head: bytes) -> int:
    """Return the length of a tag at the end of an mp3, ID3v1 or APE; 0 if this is none."""
    if head.startswith(b"APETAGEX"):
        return 32 + int.from_bytes(head[12:16], "little")
    return 128 if head.startswith(b"TAG") else 0
