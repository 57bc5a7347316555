"""Streams: the blocks are the whole file, errors come where the file is broken, and length costs no
memory.
"""

import os
import shutil
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from dualasr.audio import files as sound_files
from dualasr.audio.load import (
    SAMPLE_RATE,
    Sound,
    audio_duration,
    header_duration,
    load_audio,
    load_window,
    stream_audio,
)
from dualasr.errors import AudioError

SUBTYPES = {  # of each container libsndfile can write, up to three
    name: [
        kind
        for kind in (
            "PCM_24",
            "FLOAT",
            "PCM_U8",
            "ALAW",
            "PCM_16",
            "DPCM_16",
            "VORBIS",
            "OPUS",
            "MPEG_LAYER_III",
        )
        if kind in soundfile.available_subtypes(name)
    ][:3]
    # no header; a second file beside it
    for name in soundfile.available_formats()
    if name not in ("RAW", "SD2")
}


def chirp(seconds, rate, channels=1):
    time = np.arange(round(seconds * rate)) / rate
    sound = np.stack(
        [0.4 * np.sin(2 * np.pi * (100 + 90 * n + 200 * time) * time) for n in range(channels)],
        axis=1,
    )
    return sound.astype(np.float32)


def whole(path):
    """The slow version: all frames in memory, then their mean, then one call of the resampler."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE, quality="HQ")


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("name", sorted(SUBTYPES))
def test_the_blocks_are_the_whole_file_in_every_format(tmp_path, name, rate, monkeypatch):
    monkeypatch.setattr(sound_files, "_BLOCK", 3_001)
    written = 0
    for subtype in SUBTYPES[name]:
        for channels, seconds in ((1, 0.75), (2, 0.333), (8, 0.2001)):
            path = tmp_path / f"{subtype}-{channels}.{name.lower()}"
            try:
                soundfile.write(
                    path, chirp(seconds, rate, channels), rate, format=name, subtype=subtype
                )
            except soundfile.SoundFileError:
                continue  # a rate or number of channels that the format does not have
            blocks = list(stream_audio(path))
            assert len(blocks) > 1 and all(
                b.dtype == np.float32 and b.ndim == 1 and len(b) for b in blocks
            )
            near = 1e-6 if name == "MP3" else 0  # its decoder rounds by where a read begins
            np.testing.assert_allclose(
                np.concatenate(blocks), whole(path), rtol=0, atol=near, err_msg=path.name
            )
            np.testing.assert_array_equal(
                load_audio(path), np.concatenate(blocks), err_msg=path.name
            )
            written += 1
    if not written:
        pytest.skip(f"{name} has no {rate} Hz")


@pytest.mark.parametrize("block", [1, 17, 4096, 1 << 17])
def test_the_size_of_the_blocks_changes_nothing(tmp_path, block, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(0.1234, 11_025, 2), 11_025, subtype="PCM_24")
    monkeypatch.setattr(sound_files, "_BLOCK", block)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(path))), whole(path))
    part = Sound(path, 0.02, 0.1)
    blocks = list(stream_audio(part))
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(part))


def test_a_stream_opens_nothing_before_its_first_block(tmp_path):
    stream = stream_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="none.wav: no such file"):
        next(stream)


@pytest.mark.parametrize("name", ["a.flac", "nan.wav"])
def test_what_comes_before_the_damage_is_given(tmp_path, name):
    path, noise = (
        tmp_path / name,
        0.1 * np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE).astype(np.float32),
    )
    if name == "nan.wav":
        noise[50 * SAMPLE_RATE] = np.nan
    soundfile.write(path, noise, SAMPLE_RATE, **({"subtype": "FLOAT"} if name == "nan.wav" else {}))
    if name != "nan.wav":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = []
    with pytest.raises(AudioError, match="NaN" if name == "nan.wav" else "is truncated"):
        given.extend(stream_audio(path))
    good = np.concatenate(given)
    assert len(good) > 15 * SAMPLE_RATE
    np.testing.assert_allclose(good, noise[: len(good)], atol=1e-4)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path, name):
    path = tmp_path / name
    soundfile.write(
        path, 0.1 * np.random.default_rng(0).standard_normal(90 * SAMPLE_RATE), SAMPLE_RATE
    )
    stream = stream_audio(path)
    next(stream)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(AudioError, match="is truncated"):
        list(stream)


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(30, SAMPLE_RATE), SAMPLE_RATE)
    stream = stream_audio(path)
    samples = len(next(stream))
    soundfile.write(tmp_path / "b.wav", chirp(1, SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "b.wav").replace(path)
    assert samples + sum(map(len, stream)) == 30 * SAMPLE_RATE


@pytest.mark.parametrize("rate", [1_000, 16_000])
def test_three_hours_take_no_more_memory_than_ten_minutes(tmp_path, rate):
    path, peaks = tmp_path / "long.wav", []
    for seconds in (600, 3 * 3600):
        soundfile.write(path, np.zeros(1), rate, subtype="PCM_U8")
        header = bytearray(path.read_bytes()[:44])
        size = seconds * rate
        header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
        path.write_bytes(header)
        with path.open("r+b") as file:
            file.truncate(44 + size)  # sparse: no bytes on the disk
        tracemalloc.start()
        try:
            samples = sum(map(len, stream_audio(path)))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert samples == seconds * SAMPLE_RATE
    assert peaks[1] < peaks[0] + 2**20 and peaks[1] < 32 * 2**20, peaks


def special_files(folder):
    """Paths that are no regular files; to open some of them would take forever."""
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.wav"))
    server.close()
    (folder / "link.wav").symlink_to("/dev/zero")
    (folder / "linked pipe.wav").symlink_to(folder / "pipe.wav")
    names = ("pipe.wav", "folder.wav", "socket.wav", "link.wav", "linked pipe.wav")
    return [*(folder / name for name in names), Path("/dev/zero"), Path("/dev/null")]


@pytest.mark.parametrize(
    "reader",
    [
        load_audio,
        audio_duration,
        lambda path: list(stream_audio(path)),
        lambda p: load_window(p, 9),
    ],
)
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, monkeypatch, reader):
    paths = special_files(tmp_path)

    def opened(path, *args, **kwargs):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(os, "open", opened)
    for path in paths:
        wanted = "is a folder" if path.name == "folder.wav" else "is not a regular file"
        with pytest.raises(AudioError, match=wanted) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert header_duration(path) == 0.0


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a.mp3", "a.mp4", "a.ogg", "a.flac", "a"])
def test_ten_gigabytes_of_zeros_are_refused(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(10 << 30)
    tracemalloc.start()
    try:
        for reader in (load_audio, audio_duration):
            with pytest.raises(AudioError, match="cannot be read as audio"):
                reader(path)
        assert header_duration(path) == 0.0
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def encode_with_av(path, codec, sound, rate):
    import av

    with av.open(
        str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".m4a" else {}
    ) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound.T), format="fltp", layout="stereo"
        )
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def encode_with_ffmpeg(path, codec, sound, rate):
    soundfile.write(path.with_suffix(".wav"), sound, rate, subtype="FLOAT")
    faststart = ["-movflags", "+faststart"] if path.suffix == ".m4a" else []
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-y",
        "-i",
        path.with_suffix(".wav"),
        "-c:a",
        codec,
        *faststart,
        path,
    ]
    subprocess.run(command, check=True)


@pytest.fixture(params=["PyAV", "ffmpeg"])
def encode(request, monkeypatch):
    """Writes m4a and friends; what reads them is PyAV, or without it the program ffmpeg."""
    if request.param == "PyAV":
        pytest.importorskip("av", reason="PyAV is not installed")
        return encode_with_av
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg on the PATH")
    monkeypatch.setitem(sys.modules, "av", None)
    return encode_with_ffmpeg


@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("mkv", "pcm_s16le"), ("webm", "libopus")]
)
def test_reads_and_refuses_containers(tmp_path, encode, suffix, codec):
    path, rate = tmp_path / f"talk: a.{suffix}", 48_000  # a name that is no protocol
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(10 * rate) / rate)
    encode(path, codec, np.stack([tone, 0 * tone], axis=1).astype(np.float32), rate)
    blocks = list(stream_audio(path))
    samples = load_audio(path)
    np.testing.assert_array_equal(np.concatenate(blocks), samples)
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(10 * SAMPLE_RATE, abs=1100)
    assert np.abs(samples[4000:150_000]).max() == pytest.approx(0.25, abs=0.02)
    assert audio_duration(path) == pytest.approx(10.0, abs=0.07)
    part = load_audio(Sound(path, 0.5, 1.5))
    assert len(part) == SAMPLE_RATE and np.abs(part - samples[8000:24_000])[800:-800].max() < 1e-4
    with pytest.raises(AudioError, match=r"has no samples in .*\[77-78\]"):
        load_audio(Sound(path, 77.0, 78.0))
    next(stream_audio(path)), next(stream_audio(Sound(path, 0.1, 0.2)))  # left early, nothing hangs
    path.write_bytes(bytes(5000))
    for reader in (load_audio, audio_duration):
        with pytest.raises(AudioError, match="cannot be read as audio"):
            reader(path)


def test_a_cut_m4a_gives_what_comes_before_the_cut(tmp_path, encode):
    path, rate = tmp_path / "a.m4a", 48_000
    encode(
        path,
        "aac",
        0.3 * np.random.default_rng(0).standard_normal((20 * rate, 2)).astype(np.float32),
        rate,
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = []
    with pytest.raises(AudioError, match="is truncated"):
        given.extend(stream_audio(path))
    assert 8 * SAMPLE_RATE < sum(map(len, given)) < 11 * SAMPLE_RATE


def test_an_m4a_cut_between_two_packets_is_refused(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path / "a.m4a"
    encode_with_av(path, "aac", chirp(20, 48_000, 2), 48_000)
    with av.open(str(path)) as container:
        ends = [
            packet.pos + packet.size
            for packet in container.demux(container.streams.audio[0])
            if packet.size
        ]
    path.write_bytes(path.read_bytes()[: ends[len(ends) // 2]])
    with pytest.raises(AudioError, match="promises 20.0 s"):
        load_audio(path)


def test_a_video_without_sound_is_refused(tmp_path, encode):
    path = tmp_path / "a.mp4"
    if encode is encode_with_av:
        import av

        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    else:
        picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=1", "-c:v", "mpeg4"]
        subprocess.run(["ffmpeg", "-loglevel", "error", *picture, path], check=True)
    for reader in (load_audio, audio_duration):
        with pytest.raises(AudioError, match="has no sound track"):
            reader(path)
