"""Audio: what can be read is read whole, what cannot is refused in one line, and cuts fall into
pauses.
"""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import (
    SAMPLE_RATE,
    Sound,
    audio_duration,
    header_duration,
    load_audio,
    load_window,
    split_windows,
)
from dualasr.errors import AudioError

DATA = Path(__file__).parents[2] / "shared" / "data"


def tone(seconds=2.0, rate=SAMPLE_RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def wav_header(channels=1, rate=SAMPLE_RATE, size=3200):
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16
    )
    return (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + struct.pack("<4sI", b"data", size)
    )


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus"])
def test_reads_each_format(tmp_path, name):
    path = tmp_path / name
    soundfile.write(
        path,
        tone(),
        SAMPLE_RATE,
        **({"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}),
    )
    samples = load_audio(str(path))
    assert samples.dtype == np.float32 and samples.shape == (2 * SAMPLE_RATE,)
    assert np.abs(samples[2000:-2000] - tone()[2000:-2000]).max() < 0.05
    assert audio_duration(path) == pytest.approx(2.0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_resampling_keeps_the_wave(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate=rate), rate, subtype="FLOAT")
    samples = load_audio(tmp_path / "a.wav")
    assert abs(len(samples) - 2 * SAMPLE_RATE) <= 1
    assert np.abs(samples[500:30_000] - tone()[500:30_000]).max() < 1e-3


def test_resampling_does_not_alias(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(rate=48_000, hertz=11_000), 48_000, subtype="FLOAT")
    assert np.abs(load_audio(tmp_path / "a.wav")[500:-500]).max() < 1e-3


def test_channels_are_averaged(tmp_path):
    soundfile.write(
        tmp_path / "a.wav", np.stack([tone(), -0.5 * tone()], axis=1), SAMPLE_RATE, subtype="FLOAT"
    )
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav"), 0.25 * tone(), atol=1e-6)


def test_streamed_files_without_a_length_are_read(tmp_path):
    body = (tone() * 32767).astype("<i2").tobytes()
    (tmp_path / "pipe.wav").write_bytes(wav_header(size=0xFFFFFFFF - 36)[:-4] + b"\xff" * 4 + body)
    soundfile.write(tmp_path / "a.flac", tone(), SAMPLE_RATE)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    flac[21], flac[22:26] = flac[21] & 0xF0, b"\0" * 4  # STREAMINFO: total samples unknown
    (tmp_path / "pipe.flac").write_bytes(flac)
    for path in (tmp_path / "pipe.wav", tmp_path / "pipe.flac"):
        assert len(load_audio(path)) == 2 * SAMPLE_RATE
        assert audio_duration(path) == 2.0


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus", "pipe.flac"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_stretch_is_a_slice_of_the_whole(tmp_path, name, rate):
    path = tmp_path / name
    sweep = (0.5 * np.sin(np.cumsum(np.linspace(0.05, 0.5, rate * 5)))).astype(np.float32)
    if name == "a.opus" and rate == 44_100:
        pytest.skip("Opus has no 44.1 kHz")
    else:
        form = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
        soundfile.write(path, sweep, rate, **form)
    if name == "pipe.flac":
        flac = bytearray(path.read_bytes())
        flac[21], flac[22:26] = flac[21] & 0xF0, b"\0" * 4
        path.write_bytes(flac)
    whole = load_audio(path)
    for start, end in ((0.0, 1.0), (1.25, 3.0), (4.5, None), (4.0, 5.05), (0.0, None)):
        sound = Sound(path, start, end)
        part = load_audio(sound)
        first = round(start * SAMPLE_RATE)
        last = len(whole) if end is None else min(round(end * SAMPLE_RATE), len(whole))
        assert abs(len(part) - (last - first)) <= 2
        middle = slice(800, last - first - 800)  # of resampled sound the edges differ
        assert np.abs(part[middle] - whole[first:last][middle]).max() < 1e-4
        assert audio_duration(sound) == pytest.approx(len(part) / SAMPLE_RATE, abs=0.01)
        if sound.is_whole:
            assert str(sound) == str(path) and np.array_equal(part, whole)
    for beyond in (Sound(path, 7.0), Sound(path, 7.0, 8.0)):
        for reader in (load_audio, audio_duration):
            with pytest.raises(AudioError, match=r"has no samples in .*\[7-8?\]"):
                reader(beyond)


def test_a_stretch_of_a_cut_file(tmp_path):
    soundfile.write(
        tmp_path / "a.flac",
        0.1 * np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE),
        SAMPLE_RATE,
    )
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    assert len(load_audio(Sound(tmp_path / "a.flac", 0.5, 1.0))) == SAMPLE_RATE // 2
    for start, end in ((1.0, 3.5), (3.0, 3.5), (3.0, None)):
        with pytest.raises(AudioError, match="is truncated"):
            load_audio(Sound(tmp_path / "a.flac", start, end))


def broken_files(folder: Path):
    """Path, part of the reason, and whether the header alone shows it."""
    noise = np.random.default_rng(0)

    def put(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    def sound(name, samples, **options):
        soundfile.write(folder / name, samples, SAMPLE_RATE, **options)
        return folder / name

    def cut(name, part):
        whole = sound("whole_" + name, 0.1 * noise.standard_normal(SAMPLE_RATE)).read_bytes()
        return put(name, whole[: int(len(whole) * part)])

    yield folder / "missing.wav", "no such file", True
    yield folder, "is a folder", True
    yield put("empty.wav", b""), "is empty", True
    yield put("text.wav", b"hello world\n" * 99), "cannot be read as audio", True
    yield put("noise.bin", noise.bytes(5000)), "cannot be read as audio", True
    yield put("headerless.raw", bytes(5000)), "cannot be read as audio", True
    yield put("noise.mp3", noise.bytes(5000)), "cannot be read as audio", True
    for part in (0.5, 0.999):
        yield cut(f"cut{part}.wav", part), "is truncated", True
        yield cut(f"cut{part}.flac", part), "is truncated", False
    yield put("header.wav", wav_header()[:30]), "cannot be read as audio", True
    yield put("no_channels.wav", wav_header(channels=0) + bytes(3200)), "hannel", True
    yield put("slow.wav", wav_header(rate=1) + bytes(3200)), "sample rate of 1 Hz", True
    yield put("no_rate.wav", wav_header(rate=0) + bytes(3200)), "cannot be read", True
    for name, samples in {"no_samples.wav": np.zeros(0), "no_samples.ogg": np.zeros(0)}.items():
        yield sound(name, samples), "has no samples", True
    for name, value in {"nan.wav": np.nan, "infinite.wav": -np.inf, "overflow.wav": 1e300}.items():
        samples = np.zeros(1000)
        samples[500] = value
        yield sound(name, samples, subtype="DOUBLE"), "NaN or infinite", False


@pytest.mark.filterwarnings("ignore:overflow")
def test_broken_files_are_refused_in_one_line(tmp_path):
    for path, reason, header_shows_it in broken_files(tmp_path):
        for reader in (load_audio, audio_duration) if header_shows_it else (load_audio,):
            with pytest.raises(AudioError) as caught:
                reader(path)
            message = str(caught.value)
            assert message.startswith(f"{path}: ") and reason in message and "\n" not in message, (
                message
            )


def test_a_cut_wav_with_a_chunk_before_the_sound_is_refused(tmp_path):
    whole = wav_header(size=3200)
    odd_chunk = struct.pack("<4sI", b"LIST", 5) + b"hello\0"
    path = tmp_path / "a.wav"
    path.write_bytes(whole[:36] + odd_chunk + whole[36:] + bytes(3200))
    assert len(load_audio(path)) == 1600
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(AudioError, match="promises 3200 bytes of sound, 3198 follow"):
        load_audio(path)


@pytest.mark.parametrize("reader", [load_audio, audio_duration])
def test_without_pyav_and_ffmpeg_the_hint_names_the_extra(tmp_path, reader, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "a.M4A").write_bytes(b"\0\0\0\x20ftypM4A ")
    with pytest.raises(AudioError, match=r"a\.M4A: .*pip install 'dualasr\[av\]'"):
        reader(tmp_path / "a.M4A")


@pytest.mark.parametrize("seconds", [0.01, 1, 4.99, 5, 5.01, 30, 47.3])
@pytest.mark.parametrize("window_s", [0.01, 0.05, 0.7, 5, 30])
def test_windows_cover_everything_without_overlap(seconds, window_s):
    samples = (
        np.random.default_rng(1).standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32)
    )
    ranges = split_windows(samples, window_s)
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])] and ranges[-1][
        1
    ] == len(samples)
    assert all(0 < end - start <= window_s * SAMPLE_RATE for start, end in ranges)
    assert all(end - start >= window_s * SAMPLE_RATE * 0.66 for start, end in ranges[:-1])


def test_windows_are_cut_in_the_pause():
    samples = tone(9.0)
    samples[int(4.2 * SAMPLE_RATE) : int(4.4 * SAMPLE_RATE)] *= 0.01  # the pause
    samples[int(4.7 * SAMPLE_RATE) : int(4.72 * SAMPLE_RATE)] *= 0.01  # 20 ms, a stop consonant
    samples[int(1.0 * SAMPLE_RATE) : int(1.5 * SAMPLE_RATE)] = 0  # quieter, but too early
    (_, cut), _ = split_windows(samples, 5.0)
    assert 4.2 * SAMPLE_RATE < cut < 4.4 * SAMPLE_RATE


def test_windows_of_little_or_even_sound():
    assert split_windows(np.zeros(0, np.float32), 5.0) == []
    assert split_windows(tone(5.0), 5.0) == [(0, 80_000)]
    # all silent: as few windows as can be
    assert split_windows(np.zeros(160_000, np.float32), 5.0)[0][1] >= 79_000
    with pytest.raises(ValueError, match="window_s"):
        split_windows(tone(), 0.0)


@pytest.mark.skipif(
    not (DATA / "fleurs_mini").is_dir(), reason="shared/data/fleurs_mini is not there"
)
def test_real_clips():
    paths = sorted((DATA / "fleurs_mini" / "test").glob("*_00[0-2].flac"))
    assert len(paths) >= 3
    for path in paths:
        samples = load_audio(path)
        assert len(samples) / SAMPLE_RATE == pytest.approx(audio_duration(path))
        assert 0.001 < np.abs(samples).max() <= 1.0
        loudness = np.sqrt(np.mean(samples**2))
        for _, cut in split_windows(samples, 4.0)[:-1]:
            assert np.sqrt(np.mean(samples[cut - 160 : cut + 160] ** 2)) < loudness, (
                f"{path}: cut inside a sound"
            )


def test_the_beginning_is_that_of_the_whole(tmp_path):
    sound = np.random.default_rng(3).standard_normal(300_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", sound, 22_050, subtype="FLOAT")
    whole = load_audio(tmp_path / "a.wav")
    for samples in (1, 16_000, len(whole), 10 * len(whole)):
        assert np.array_equal(load_window(tmp_path / "a.wav", samples), whole[:samples])
    part = Sound(tmp_path / "a.wav", 2.0, 5.0)
    assert np.array_equal(load_window(part, 40_000), load_audio(part)[:40_000])


def test_a_header_that_does_not_know_promises_nothing(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(8000), 16_000)
    (tmp_path / "no.wav").write_bytes(b"no sound")
    assert (
        header_duration(tmp_path / "a.flac") == 0.5 and header_duration(tmp_path / "no.wav") == 0.0
    )
