"""Augmentation is a function of (sound, generator), and does what it says."""

import numpy as np

from dualasr.audio.augment import (
    Augmentation,
    augment,
    change_speed,
    coloured_noise,
    limit_band,
    music,
    spec_augment,
)

SOUND = (0.4 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)).astype(np.float32)


def test_same_generator_same_sound():
    for seed in range(20):
        first, second = (augment(SOUND, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first, second)
        assert first.dtype == np.float32 and np.isfinite(first).all() and np.abs(first).max() <= 1.1
    assert len({len(augment(SOUND, np.random.default_rng(seed))) for seed in range(20)}) > 5


def test_nothing_asked_changes_only_the_level():
    off = Augmentation(0, (1, 1), 0, 0, 0, (0.1, 0.2), 0, (10, 20), 0, 0, (0.0, 0.0))
    out = augment(SOUND, np.random.default_rng(0), off)
    assert np.allclose(out, SOUND * (0.5 / 0.4), atol=1e-3)


def test_speed_moves_length_and_pitch():
    fast = change_speed(SOUND, 1.25)
    assert abs(len(fast) - len(SOUND) / 1.25) < 3
    peak = np.abs(np.fft.rfft(fast)).argmax() * 16_000 / len(fast)
    assert abs(peak - 550) < 3


def test_noises_have_unit_power():
    for make in (coloured_noise, music):
        assert np.isclose(make(32_000, np.random.default_rng(1)).std(), 1.0, atol=0.05)


def test_a_band_is_cut():
    noise = np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(limit_band(noise, np.random.default_rng(0))))
    at = np.fft.rfftfreq(64_000, 1 / 16_000)
    assert spectrum[at < 20].mean() < 0.1 * spectrum[(at > 600) & (at < 2500)].mean()
    assert spectrum[at > 7900].mean() < 0.1 * spectrum[(at > 600) & (at < 2500)].mean()


def test_spec_augment_masks_a_copy():
    mel = np.random.default_rng(0).standard_normal((80, 300)).astype(np.float32)
    before = mel.copy()
    out = spec_augment(mel, np.random.default_rng(3))
    assert np.array_equal(mel, before) and out.shape == mel.shape
    assert 0 < (out != mel).mean() < 0.6


def test_a_clip_shorter_than_a_frame_is_left_alone():
    assert len(augment(SOUND[:100], np.random.default_rng(0))) == 100
