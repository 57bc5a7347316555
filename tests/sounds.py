"""Sound files as people have them, made for a test."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile

REPORTS = Path(__file__).parents[2] / "shared" / "data" / "public_reports" / "audio"


def tone(seconds, rate=48_000, hertz=440.0):
    """A sine wave of amplitude 0.4: float32, shape (samples,)."""
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def in_format(sound, rate, name, subtype=None):
    """The bytes of a file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=name, subtype=subtype)
    return file.getvalue()


def heard(samples, rate=16_000, loud=0.05, pause=0.25):
    """Where there is sound: (start, end) in seconds; shorter pauses are part of it."""
    at = np.flatnonzero(np.abs(samples) > loud)
    if not len(at):
        return []
    cuts = np.flatnonzero(np.diff(at) > pause * rate)
    starts, ends = [at[0], *at[cuts + 1]], [*at[cuts], at[-1]]
    return [(a / rate, b / rate) for a, b in zip(starts, ends, strict=True)]


def encode(path, codec, parts, rate=48_000, form=None, picture_s=0.0, shift=0.0, pages=False):
    """Write a container with PyAV.

    Args:
        path: The file.
        codec: Name of the encoder.
        parts: (second at which it starts, mono sound); the time between is not in the file.
        rate: Sample rate in Hz.
        form: Name of the format; None is that of the suffix.
        picture_s: Seconds of a video track that begins at `shift`; 0 has none.
        shift: Seconds that are added to all times.
        pages: Whether each packet of an Ogg has its own page, and so its own time.
    """
    import av

    options = {"page_duration": "1"} if pages and form == "ogg" else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        video = container.add_stream("mpeg4", rate=10) if picture_s else None
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if video:
            video.width = video.height = 32
            for n in range(round(picture_s * 10)):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = n + round(shift * 10), Fraction(1, 10)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        size = stream.codec_context.frame_size or 1024
        for start, sound in parts:
            whole = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            whole.sample_rate = rate
            cutter = av.AudioResampler(
                format=stream.codec_context.format, layout="mono", rate=rate, frame_size=size
            )
            at = round((start + shift) * rate)
            for frame in cutter.resample(whole) + cutter.resample(None):
                frame.pts, frame.time_base, at = at, Fraction(1, rate), at + frame.samples
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def boxes(content):
    """The boxes of an mp4: (name, contents)."""
    at = 0
    while at + 8 <= len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        yield name, content[at + 8 : at + size]
        at += size


def box(name, contents):
    """A box of an mp4."""
    return struct.pack(">I4s", 8 + len(contents), name) + contents


def with_edits(content, edits):
    """The bytes of an mp4 of one track with another edit list.

    Args:
        content: The file.
        edits: (seconds, second of the media at which it starts; None is silence).
    """
    whole = b""
    for name, contents in boxes(content):
        if name == b"moov":
            movie = dict(boxes(contents))
            track = dict(boxes(movie[b"trak"]))
            scale = struct.unpack(">I", movie[b"mvhd"][12:16])[0]
            media = struct.unpack(">I", dict(boxes(track[b"mdia"]))[b"mdhd"][12:16])[0]
            rows = b"".join(
                struct.pack(
                    ">IiI",
                    round(seconds * scale),
                    -1 if start is None else round(start * media),
                    1 << 16,
                )
                for seconds, start in edits
            )
            listed = box(b"edts", box(b"elst", struct.pack(">II", 0, len(edits)) + rows))
            movie[b"trak"] = box(b"tkhd", track[b"tkhd"]) + listed + box(b"mdia", track[b"mdia"])
            contents = b"".join(box(*item) for item in movie.items())
        whole += box(name, contents)
    return whole
