"""Hallucination: words that a model writes for sounds without speech.

Whisper is known to write fluent text for silence and noise (Koenecke et al. 2024, "Careless
Whisper"). A pack trained on short clips of speech may do the same. The probes are silence, noise,
hum and music-like sound, generated from a seed.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dualasr.audio.augment import coloured_noise, music
from dualasr.audio.load import SAMPLE_RATE
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.text import normalise
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe


def probes(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Generate sounds without speech, of 1 to 10 s; their kinds take turns.

    Args:
        count: How many.
        seed: Seed of all of them.

    Yields:
        Name and sound, float32 of shape (samples,) at 16 kHz.
    """
    rng = np.random.default_rng([seed, 23])
    for i in range(count):
        size = int(rng.uniform(1, 10) * SAMPLE_RATE)
        level, pitch = 10 ** (rng.uniform(-50, -15) / 20), rng.choice([50.0, 60.0, 120.0])
        hum = np.sin(2 * np.pi * pitch * np.arange(size) / SAMPLE_RATE) + 0.1 * coloured_noise(
            size, rng
        )
        name, sound = (
            ("silence", np.zeros(size)),
            ("noise", coloured_noise(size, rng)),
            ("hum", hum),
            ("music", music(size, rng)),
        )[i % 4]
        yield (
            f"{name} {i // 4 + 1}, {size / SAMPLE_RATE:.1f} s",
            (level * sound).clip(-1, 1).astype(np.float32),
        )


def count_hallucinations(
    model: DualWhisper, count: int, decode: DecodeOptions, seed: int = 0
) -> dict:
    """Transcribe probes and count the words that are written for them.

    Args:
        model: What is evaluated.
        count: Number of probes.
        decode: Settings of decoding.
        seed: Seed of the probes.

    Returns:
        "probes", "with_words" (probes with words), "words" (in all), and "examples" (all probes
        with words).
    """
    # a model that repeats itself for ever would take long: 100 tokens are enough to count
    generate = {"max_new_tokens": 100} | decode.generate
    options = TranscribeOptions(decode=replace(decode, generate=generate))
    found = []
    for name, sound in probes(count, seed):
        result = transcribe(model, sound, options=options)
        if words := normalise(result.text, "marks").split():
            found.append(
                {"sound": name, "text": result.text, "route": result.route, "words": len(words)}
            )
    return {
        "probes": count,
        "with_words": len(found),
        "words": sum(row["words"] for row in found),
        "examples": found,
    }
