"""Augmentation of a waveform and of a log-mel, as pure functions of (sound, generator).

A model that has heard nothing but a clean synthesiser takes every room and microphone for another
world, and a pack trained on one studio takes every studio for its own language. `augment` therefore
moves a clip through speeds, rooms, microphones, noises and levels; `spec_augment` masks bands and
stretches (Park et al. 2019, arXiv 1904.08779).
"""

from dataclasses import dataclass

import numpy as np
import soxr
from scipy import signal

from dualasr.audio.load import SAMPLE_RATE, SHORTEST


@dataclass(frozen=True)
class Augmentation:
    """Probability of each step of `augment`, and the ranges it draws from."""

    speed: float = 0.5
    speed_range: tuple[float, float] = (0.85, 1.18)
    colour: float = 0.6  # random smooth equaliser, the microphone
    colour_db: float = 9.0
    reverberation: float = 0.4
    rt60_range: tuple[float, float] = (0.1, 0.6)  # seconds
    noise: float = 0.6
    snr_range: tuple[float, float] = (3.0, 35.0)  # dB
    band_limit: float = 0.25
    clip: float = 0.05
    gain_db: tuple[float, float] = (-25.0, 6.0)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (factor > 1) or slower, pitch included: shape (samples,) -> (samples / factor,)."""
    return soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ").astype(
        np.float32
    )


def coloured_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-power noise with a power spectrum of 1/f^a, a drawn from 0 (white) to 2 (brown): shape
    (count,).
    """
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0 + count / 400) ** (rng.uniform(0, 2) / 2)
    noise = np.fft.irfft(spectrum, count)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-power music-like sound, chords of decaying harmonic notes on a beat: shape (count,)."""
    out = np.zeros(count, np.float32)
    beat = int(rng.uniform(0.15, 0.7) * SAMPLE_RATE)
    scale = (
        55.0
        * 2 ** (rng.integers(0, 12) / 12)
        * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 19, 24]) / 12)
    )
    for start in range(0, count, beat):
        time = np.arange(min(count - start, beat * 3)) / SAMPLE_RATE
        for note in rng.choice(scale, rng.integers(1, 4)) * 2.0 ** rng.integers(0, 3):
            decay = np.exp(-time * rng.uniform(1, 8))
            partials = sum(
                np.sin(2 * np.pi * note * k * time) / k ** rng.uniform(0.7, 2) for k in range(1, 5)
            )
            out[start : start + len(time)] += (rng.uniform(0.3, 1) * decay * partials).astype(
                np.float32
            )
    return out / (out.std() + 1e-9)


def reverberate(samples: np.ndarray, rt60: float, rng: np.random.Generator) -> np.ndarray:
    """Convolve with exponentially decaying noise, a synthetic room of `rt60` seconds; same shape."""
    time = np.arange(int(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.standard_normal(len(time)).astype(np.float32) * np.exp(-6.9 * time / rt60).astype(
        np.float32
    )
    room *= rng.uniform(0.1, 0.9) / np.sqrt((room**2).sum() + 1e-9)
    room[0] = 1.0
    return signal.fftconvolve(samples, room)[: len(samples)].astype(np.float32)


def colour(samples: np.ndarray, depth_db: float, rng: np.random.Generator) -> np.ndarray:
    """A random smooth equaliser of at most +-depth_db, eight points over the band; same shape."""
    spectrum = np.fft.rfft(samples)
    points = rng.uniform(-depth_db, depth_db, 8)
    curve = np.interp(np.linspace(0, 7, len(spectrum)), np.arange(8), points)
    return np.fft.irfft(spectrum * 10 ** (curve / 20), len(samples)).astype(np.float32)


def limit_band(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A telephone or a small speaker: high-pass 50 to 400 Hz, low-pass 3 to 7.5 kHz; same shape."""
    band = [rng.uniform(50, 400), rng.uniform(3000, 7500)]
    return signal.sosfilt(
        signal.butter(3, band, "bandpass", fs=SAMPLE_RATE, output="sos"), samples
    ).astype(np.float32)


def augment(
    samples: np.ndarray, rng: np.random.Generator, options: Augmentation = Augmentation()
) -> np.ndarray:
    """Speed, microphone, room, noise, band, clipping, level, each by its probability: (samples,) ->
    (samples',).
    """
    if len(samples) < SHORTEST:
        return samples
    if rng.random() < options.speed:
        samples = change_speed(samples, rng.uniform(*options.speed_range))
    if rng.random() < options.colour:
        samples = colour(samples, options.colour_db, rng)
    if rng.random() < options.reverberation:
        samples = reverberate(samples, rng.uniform(*options.rt60_range), rng)
    if rng.random() < options.noise:
        noise = (
            music(len(samples), rng) if rng.random() < 0.2 else coloured_noise(len(samples), rng)
        )
        samples = samples + noise * (samples.std() * 10 ** (-rng.uniform(*options.snr_range) / 20))
    if rng.random() < options.band_limit:
        samples = limit_band(samples, rng)
    samples = samples * (0.5 / max(1e-3, float(np.abs(samples).max())))
    if rng.random() < options.clip:
        samples = np.clip(samples * rng.uniform(2, 6), -0.5, 0.5)
    return (samples * 10 ** (rng.uniform(*options.gain_db) / 20)).astype(np.float32)


def spec_augment(
    mel: np.ndarray,
    rng: np.random.Generator,
    *,
    bands: int = 2,
    width: int = 12,
    stretches: int = 2,
    share: float = 0.06,
) -> np.ndarray:
    """Mask `bands` bands of up to `width` mels and `stretches` of up to `share` of the frames:
    (mels, frames), copied.

    Masked cells take the clip's mean.
    """
    mel = mel.copy()
    fill = mel.mean()
    for _ in range(bands):
        size = int(rng.integers(0, width + 1))
        start = int(rng.integers(0, mel.shape[0] - size + 1))
        mel[start : start + size] = fill
    for _ in range(stretches):
        size = int(rng.integers(0, int(mel.shape[1] * share) + 1))
        start = int(rng.integers(0, mel.shape[1] - size + 1))
        mel[:, start : start + size] = fill
    return mel
