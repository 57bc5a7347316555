"""Whisper's temperature fallback: a transcript that looks like a failure is decoded again, less and
less greedily.

Radford et al. 2023, section 4.5. A window is decoded by itself for it, from a seed of its own, so
that its text does not depend on what else is in the batch.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dualasr.model.search import Hypothesis
from dualasr.model.whisper import Backbone

SEED = 0


def ladder(first: float = 0.0, step: float | None = 0.2) -> tuple[float, ...]:
    """The temperatures from the first one up to 1 by steps; the first alone where there is no step.

    Raises ValueError for a step below 0.
    """
    if step is not None and not step >= 0:
        raise ValueError(f"the temperature's increment is {step}; it must be 0 or more")
    temperatures = [first]
    while step and temperatures[-1] + step <= 1.0 + 1e-6:
        temperatures.append(temperatures[-1] + step)
    return tuple(temperatures)


@dataclass(frozen=True)
class Fallback:
    """When a transcript of the primary is a failure, and the temperatures that are tried then, in
    turn.

    A failure compresses by more than `compression_ratio_threshold` (it repeats itself) or has an
    average log-probability a token below `logprob_threshold`, None for neither; but where the
    no-speech probability is above `no_speech_threshold` an unsure transcript is silence, and no
    failure, even if it repeats itself. The first of `temperatures` is the one that all windows are
    decoded with; 0 is greedy or a beam. Raises ValueError for no temperature or a negative one.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def __post_init__(self):
        if not self.temperatures or not all(
            0 <= temperature < math.inf for temperature in self.temperatures
        ):
            raise ValueError(
                f"temperatures are {self.temperatures}; at least one is wanted, none below 0"
            )

    def is_silence(self, avg_logprob: float, no_speech_prob: float) -> bool:
        """Return whether a window is no speech (Radford et al. 2023, section 4.5).

        The no-speech probability alone is not enough: the transcript must be unsure, too.
        """
        if self.no_speech_threshold is None or no_speech_prob <= self.no_speech_threshold:
            return False
        return self.logprob_threshold is None or avg_logprob < self.logprob_threshold

    def fails(self, hypothesis: Hypothesis, no_speech_prob: float) -> bool:
        """Return whether a transcript is a failure, which is to be decoded again."""
        unsure = (
            self.logprob_threshold is not None and hypothesis.avg_logprob < self.logprob_threshold
        )
        if unsure and self.is_silence(hypothesis.avg_logprob, no_speech_prob):
            return False  # silence, whatever was written
        limit = self.compression_ratio_threshold
        return unsure or (limit is not None and compression_ratio(hypothesis.text) > limit)


def compression_ratio(text: str) -> float:
    """Bytes of a text for each byte that zlib makes of it: above 2 where it repeats itself."""
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
    **options,
) -> list[Hypothesis]:
    """`Backbone.decode`, and again at higher temperatures for what fails; the last try stands,
    whatever it is.
    """
    first, *rest = fallback.temperatures
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
    devices = [encoded.device] if encoded.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(SEED)
        [found] = backbone.decode(
            encoded, language, do_sample=True, temperature=temperature, **options
        )
    return replace(found, temperature=temperature)
