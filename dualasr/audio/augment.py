"""Augmentation of a waveform and of a log-mel, as pure functions of (sound, generator).

A model trained only on clean synthetic speech fails on real rooms and microphones. A pack trained
on recordings of one studio learns to recognise the studio instead of the language. So `augment`
changes the speed, microphone, room, noise and level of a clip, and `spec_augment` masks mel bands
and frames (SpecAugment; Park et al. 2019, arXiv 1904.08779).
"""

from dataclasses import dataclass

import numpy as np
import soxr
from scipy import signal

from dualasr.audio.load import SAMPLE_RATE, SHORTEST


@dataclass(frozen=True)
class Augmentation:
    """Settings of `augment`: the probability of each step, and the ranges it draws from.

    `repr` of an instance is part of a cache key, so the fields keep their names and their order.

    Attributes:
        speed: Probability of a change of speed and pitch.
        speed_range: Lowest and highest speed factor; above 1 is faster.
        colour: Probability of a random smooth equaliser, which stands for a microphone.
        colour_db: Largest gain or loss of the equaliser, in dB.
        reverberation: Probability of a synthetic room.
        rt60_range: Shortest and longest reverberation time (RT60), in seconds.
        noise: Probability of added noise; one noise in five is music.
        snr_range: Lowest and highest signal-to-noise ratio, in dB.
        band_limit: Probability of a band-pass filter, as of a telephone.
        clip: Probability of clipping.
        gain_db: Lowest and highest level of the result, in dB; at 0 dB its peak is 0.5.
    """

    speed: float = 0.5
    speed_range: tuple[float, float] = (0.85, 1.18)
    colour: float = 0.6
    colour_db: float = 9.0
    reverberation: float = 0.4
    rt60_range: tuple[float, float] = (0.1, 0.6)
    noise: float = 0.6
    snr_range: tuple[float, float] = (3.0, 35.0)
    band_limit: float = 0.25
    clip: float = 0.05
    gain_db: tuple[float, float] = (-25.0, 6.0)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (factor > 1) or slower, pitch included, (samples,) -> (samples / factor,)."""
    faster = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
    return faster.astype(np.float32)


def coloured_noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of unit power with the power spectrum 1/f^a, a from 0 (white) to 2 (brown).

    Args:
        count: Number of samples, at 16 kHz.
        rng: Source of the noise and of a.

    Returns:
        float32, shape (count,).
    """
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0 + count / 400) ** (rng.uniform(0, 2) / 2)
    noise = np.fft.irfft(spectrum, count)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a music-like sound of unit power: chords of decaying harmonic notes on a beat.

    Args:
        count: Number of samples, at 16 kHz.
        rng: Source of beat, notes and timbre.

    Returns:
        float32, shape (count,).
    """
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
    """Add the reverberation of a synthetic room, shape (samples,) -> (samples,).

    The impulse response is noise that decays by 60 dB (a factor of e^6.9) in `rt60` seconds, after
    a direct sound of 1.
    """
    time = np.arange(int(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    decay = np.exp(-6.9 * time / rt60).astype(np.float32)
    impulse = rng.standard_normal(len(time)).astype(np.float32) * decay
    impulse *= rng.uniform(0.1, 0.9) / np.sqrt((impulse**2).sum() + 1e-9)
    impulse[0] = 1.0
    return signal.fftconvolve(samples, impulse)[: len(samples)].astype(np.float32)


def colour(samples: np.ndarray, depth_db: float, rng: np.random.Generator) -> np.ndarray:
    """Apply a random smooth equaliser, shape (samples,) -> (samples,).

    Eight gains, each at most `depth_db` up or down, have equal distances from 0 to 8 kHz.
    """
    spectrum = np.fft.rfft(samples)
    points = rng.uniform(-depth_db, depth_db, 8)
    curve = np.interp(np.linspace(0, 7, len(spectrum)), np.arange(8), points)
    return np.fft.irfft(spectrum * 10 ** (curve / 20), len(samples)).astype(np.float32)


def limit_band(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep a random band, as a telephone or a small speaker does, shape (samples,) -> (samples,).

    The band begins at 50 to 400 Hz and ends at 3 to 7.5 kHz.
    """
    band = [rng.uniform(50, 400), rng.uniform(3000, 7500)]
    sections = signal.butter(3, band, "bandpass", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(sections, samples).astype(np.float32)


def augment(
    samples: np.ndarray, rng: np.random.Generator, options: Augmentation = Augmentation()
) -> np.ndarray:
    """Change a clip at random: speed, microphone, room, noise, band, clipping and level.

    Each step is taken with its own probability, except for the level, which always changes.

    Args:
        samples: float32, shape (samples,), 16 kHz, full scale at +-1.
        rng: Source of every random choice; the same state gives the same clip.
        options: Probabilities and ranges.

    Returns:
        float32, shape (new_samples,), 16 kHz; the length differs where the speed was changed. A
        clip shorter than 25 ms comes back as it is.
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
    """Mask random mel bands and random runs of frames (SpecAugment; Park et al. 2019, section 2).

    Masked cells take the mean of the clip. There is no time warping.

    Args:
        mel: log-mel spectrogram, shape (mels, frames); it is not changed.
        rng: Source of the places and sizes.
        bands: Number of masks over mel bands.
        width: Largest height of such a mask, in mel bands.
        stretches: Number of masks over time.
        share: Largest length of such a mask, as a share of the frames.

    Returns:
        A masked copy, shape (mels, frames).
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
