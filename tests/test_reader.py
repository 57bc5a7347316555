"""Channels are averaged, unless they cancel each other."""

import logging

import numpy as np
import pytest
import soundfile
from sounds import REPORTS, encode, tone

from dualasr.audio import files as sound_files
from dualasr.audio.load import SAMPLE_RATE, Sound, load_audio
from dualasr.audio.reader import mixed

RATE = 16_000
VOICE = (
    np.random.default_rng(0).normal(0, 0.1, 4 * RATE) * np.abs(np.sin(np.arange(4 * RATE) / 3000))
).astype(np.float32)
OTHER = np.roll(VOICE[::-1], 1234).copy()
STILL = np.zeros(2 * RATE, np.float32)


def mix(tmp_path, *channels):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return load_audio(path)


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [
        ((VOICE, -VOICE), VOICE),
        ((0.7 * VOICE, -VOICE), -VOICE),
        ((VOICE, -VOICE, 0 * VOICE), VOICE),
        ((0.1 * VOICE, VOICE, -VOICE, 0 * VOICE), VOICE),
        ((VOICE, VOICE), VOICE),
        ((VOICE, OTHER), (VOICE + OTHER) / 2),
        ((VOICE, 0 * VOICE), VOICE / 2),
        ((VOICE, -0.5 * VOICE), VOICE / 4),
        ((VOICE, *[0 * VOICE] * 7), VOICE / 8),
        ((0.001 + 0 * VOICE, -0.001 + 0 * VOICE), 0 * VOICE),
    ],
)
def test_the_loudest_channel_is_taken_where_they_cancel(tmp_path, channels, wanted):
    np.testing.assert_allclose(mix(tmp_path, *channels), wanted, atol=1e-6)


def test_it_is_noted_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "dualasr"):
        mix(tmp_path, VOICE, -VOICE)
        mix(tmp_path, VOICE, -VOICE)
    [note] = [record.getMessage() for record in caplog.records]
    assert note.startswith(f"{tmp_path / 'a.wav'}: its channels cancel each other; channel 1 of 2")


def test_a_beginning_without_sound_or_without_fault_decides_nothing(tmp_path):
    for before in (STILL, VOICE[: 2 * RATE]):
        left, right = np.concatenate([before, VOICE]), np.concatenate([before, -VOICE])
        np.testing.assert_allclose(mix(tmp_path, left, right), left, atol=1e-6)


def test_the_mix_does_not_change_to_and_fro(tmp_path):
    hiss = np.random.default_rng(1).normal(0, 0.003, (2, 12 * RATE)).astype(np.float32)
    parts = np.concatenate([VOICE, STILL, VOICE, STILL])
    left, right = parts + hiss[0], -0.9 * parts + hiss[1]
    np.testing.assert_allclose(mix(tmp_path, left, right), left, atol=1e-6)
    # once it is the louder channel, it is so where both have other speech, too
    left, right = np.concatenate([VOICE, VOICE]), np.concatenate([-0.9 * VOICE, OTHER])
    np.testing.assert_allclose(mix(tmp_path, left, right), left, atol=1e-6)


@pytest.mark.parametrize("block", [1, 777, 16_000, 1 << 20])
def test_the_size_of_the_blocks_changes_nothing(tmp_path, monkeypatch, block):
    sound = np.stack([np.concatenate([VOICE, VOICE]), np.concatenate([OTHER, -VOICE])], axis=1)
    pieces = [sound[i : i + block] for i in range(0, len(sound), block)]
    found = np.concatenate(list(mixed(iter(pieces), RATE, tmp_path)))
    np.testing.assert_array_equal(found, np.concatenate(list(mixed(iter([sound]), RATE, tmp_path))))
    assert len(found) == len(sound)
    np.testing.assert_allclose(found[-RATE:], VOICE[-RATE:], atol=1e-6)
    if block > 1:
        monkeypatch.setattr(sound_files, "_BLOCK", 2 * block)
        soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
        np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), found)


def test_a_part_of_a_file_is_mixed_as_well(tmp_path):
    mix(tmp_path, VOICE, -VOICE)
    part = load_audio(Sound(tmp_path / "a.wav", 1.0, 2.0))
    np.testing.assert_allclose(part, VOICE[RATE : 2 * RATE], atol=1e-6)


def test_in_containers_as_well(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path, sound = tmp_path / "a.mkv", tone(2.0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        whole = (np.stack([sound, -sound], axis=1) * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="stereo")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples = load_audio(path)
    assert len(samples) == 2 * SAMPLE_RATE
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.4, abs=0.01)
    encode(tmp_path / "mono.mkv", "flac", [(0.0, sound)], form="matroska")
    np.testing.assert_allclose(load_audio(tmp_path / "mono.mkv"), samples, atol=1e-3)


@pytest.mark.skipif(not REPORTS.is_dir(), reason="shared/data/public_reports is not there")
def test_the_file_of_a_public_report_is_audible(caplog):
    with caplog.at_level(logging.WARNING, "dualasr"):
        samples = load_audio(REPORTS / "antiphase.flac")
    sound, _ = soundfile.read(REPORTS / "antiphase.flac")
    assert np.abs(sound.sum(axis=1)).max() < 1e-3
    np.testing.assert_allclose(np.abs(samples), np.abs(sound[:, 0]), atol=1e-4)
