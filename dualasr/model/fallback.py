"""Whisper's temperature fallback: decode a failed transcript again, at higher temperatures.

Radford et al. 2023, section 4.5. The second decoding takes each window alone, from a fixed seed, so
that its text does not depend on what else is in the batch.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.search import Hypothesis
from dualasr.model.whisper import Backbone

SEED = 0


def ladder(first: float = 0.0, step: float | None = 0.2) -> tuple[float, ...]:
    """Return the temperatures from the first one up to 1 in equal steps.

    Args:
        first: The first temperature.
        step: The difference between two temperatures; 0 or None for the first one alone.

    Raises:
        ValueError: The step is below 0.
    """
    if step is not None and not step >= 0:
        raise ValueError(f"the temperature's increment is {step}; it must be 0 or more")
    temperatures = [first]
    while step and temperatures[-1] + step <= 1.0 + 1e-6:
        temperatures.append(temperatures[-1] + step)
    return tuple(temperatures)


@dataclass(frozen=True)
class Fallback:
    """When a transcript of the primary is a failure, and the temperatures of further tries.

    A transcript that repeats itself compresses well, and one that the decoder is unsure of has a
    low mean log-probability; both are failures. But a window is silence, and no failure, where the
    decoder is unsure and the no-speech probability is high.

    Attributes:
        temperatures: The temperatures in the order of the tries. All windows are decoded with the
            first one; 0 is greedy or beam search.
        compression_ratio_threshold: A failure has more bytes for each compressed byte than this;
            None for no such limit.
        logprob_threshold: A failure has a lower mean log-probability per token than this; None for
            no such limit.
        no_speech_threshold: Silence has a higher no-speech probability than this; None for no
            silence.

    Raises:
        ValueError: There is no temperature, or one is negative or not finite.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def __post_init__(self) -> None:
        if not self.temperatures or not all(
            0 <= temperature < math.inf for temperature in self.temperatures
        ):
            raise ValueError(
                f"the temperatures are {self.temperatures}; give at least one, and none below 0"
            )

    def is_silence(self, avg_logprob: float, no_speech_prob: float) -> bool:
        """Return whether a window holds no speech (Radford et al. 2023, section 4.5).

        A high no-speech probability is not enough: the decoder must be unsure of the text, too.

        Args:
            avg_logprob: Mean log-probability per token of the window's transcript.
            no_speech_prob: The window's no-speech probability.
        """
        if self.no_speech_threshold is None or no_speech_prob <= self.no_speech_threshold:
            return False
        return self.logprob_threshold is None or avg_logprob < self.logprob_threshold

    def fails(self, hypothesis: Hypothesis, no_speech_prob: float) -> bool:
        """Return whether a transcript is a failure, which must be decoded again.

        Args:
            hypothesis: The transcript.
            no_speech_prob: The window's no-speech probability.
        """
        unsure = (
            self.logprob_threshold is not None and hypothesis.avg_logprob < self.logprob_threshold
        )
        if unsure and self.is_silence(hypothesis.avg_logprob, no_speech_prob):
            return False  # silence, even if the text repeats itself
        limit = self.compression_ratio_threshold
        return unsure or (limit is not None and compression_ratio(hypothesis.text) > limit)


def compression_ratio(text: str) -> float:
    """Return the size of a text divided by its size after zlib: above 2 where it repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def decode_with_fallback(
    backbone: Backbone,
    encoded: torch.Tensor,
    languages: Sequence[str],
    no_speech: Sequence[float],
    fallback: Fallback,
    *,
    beam: int = 1,
    on_step: OnStep = uninterrupted,
    **options,
) -> list[Hypothesis]:
    """Decode windows by `Backbone.decode`, and failures again at higher temperatures.

    The last try counts, even if it is a failure, too.

    Args:
        backbone: The primary.
        encoded: (batch, positions, width) encoder output of the primary.
        languages: A language code for each window.
        no_speech: A no-speech probability for each window.
        fallback: What a failure is, and the temperatures.
        beam: Width of the beam search at temperature 0; 1 is greedy.
        on_step: Function that is called between steps; it may raise, to stop the work.
        **options: Further arguments of `Backbone.decode`.

    Returns:
        A hypothesis for each window, with its temperature.
    """
    first, *rest = fallback.temperatures
    options = {**options, "on_step": on_step}
    if first:
        found = [
            _sample(backbone, encoded[i : i + 1], [code], first, options)
            for i, code in enumerate(languages)
        ]
    else:
        found = backbone.decode(encoded, list(languages), beam=beam, **options)
    for i, code in enumerate(languages):
        for temperature in rest:
            if not fallback.fails(found[i], no_speech[i]):
                break
            found[i] = _sample(backbone, encoded[i : i + 1], [code], temperature, options)
    return found


def _sample(
    backbone: Backbone,
    encoded: torch.Tensor,
    language: list[str],
    temperature: float,
    options: dict,
) -> Hypothesis:
    """Decode one window by sampling, from a fixed seed; torch's own generators stay as they are."""
    devices = [encoded.device] if encoded.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(SEED)
        [found] = backbone.decode(
            encoded, language, do_sample=True, temperature=temperature, **options
        )
    return replace(found, temperature=temperature)
