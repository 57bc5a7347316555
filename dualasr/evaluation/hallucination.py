"""Words for nothing: what a model writes when nobody speaks.

Whisper is known to write fluent text for silence and noise (Koenecke et al. 2024, "Careless
Whisper"); a pack trained on short clips of speech may do the same. The probes are silence, noise,
hum and music-like sound, functions of a seed.
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
    """Names and sounds without speech, 1 to 10 s each: (samples,) float32; the kinds take turns."""
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
    """How many of `count` probes got words, as `transcribe` gives them: probes, with_words, words,
    and all examples.
    """
    # a loop of words is counted, not waited for
    generate = {"max_new_tokens": 100} | decode.generate
    options, found = TranscribeOptions(decode=replace(decode, generate=generate)), []
    for name, sound in probes(count, seed):
        said = transcribe(model, sound, options=options)
        if words := normalise(said.text, "marks").split():
            found.append(
                {"sound": name, "text": said.text, "route": said.route, "words": len(words)}
            )
    return {
        "probes": count,
        "with_words": len(found),
        "words": sum(row["words"] for row in found),
        "examples": found,
    }
