"""Word and character error rates with their evidence, and bootstrap intervals over clips.

Rates are corpus-level: the errors of all clips over the length of all references (jiwer). Give normalised text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ErrorRate:
    """`rate` = `errors` / `length`, the length of the references in words or characters.

    Insertions into nothing but empty references make the rate infinite; nothing in nothing is 0.
    """

    rate: float
    errors: int
    length: int
    substitutions: int
    deletions: int
    insertions: int


def word_errors(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Corpus-level word errors. Raises ValueError if there are no clips or the lists differ in length."""
    return _error_rate(refs, hyps, "word")


def character_errors(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Corpus-level character errors; a space inside a line is a character. Raises like `word_errors`."""
    return _error_rate(refs, hyps, "character")


def per_clip_errors(refs: Sequence[str], hyps: Sequence[str], unit: Literal["word", "character"]) -> np.ndarray:
    """Errors and reference length of each clip: int, shape (n, 2). Raises like `word_errors`."""
    counts = np.zeros((len(refs), 2), dtype=np.int64)
    for clip, chunks in enumerate(_process(refs, hyps, unit).alignments):
        for chunk in chunks:
            in_ref = chunk.ref_end_idx - chunk.ref_start_idx
            if chunk.type != "equal":
                counts[clip, 0] += max(in_ref, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[clip, 1] += in_ref
    return counts


def bootstrap_interval(
    counts: np.ndarray, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the corpus-level rate, resampled by clip (Bisani and Ney, 2004).

    `counts` is what `per_clip_errors` gives, shape (n, 2). Raises ValueError if it has no clips or no reference.
    """
    totals = _resampled([_checked(counts)], samples, seed)[:, 0]
    return _interval(totals[:, 0], totals[:, 1], level)


def paired_bootstrap(
    counts_a: np.ndarray,
    counts_b: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    relative: bool = False,
) -> tuple[float, float, float]:
    """(difference, low, high) of rate_a - rate_b on the same clips, or with `relative` of (rate_a - rate_b) / rate_b.

    Both systems are resampled with the same clips, so what is hard for both cancels. Row i of both arrays, shape
    (n, 2), must be the same clip. Raises ValueError if they cannot be, or if `relative` and b makes no errors.
    """
    counts_a, counts_b = _checked(counts_a), _checked(counts_b)
    if not np.array_equal(counts_a[:, 1], counts_b[:, 1]):
        raise ValueError(f"not the same clips: {len(counts_a)} and {len(counts_b)} rows whose reference lengths differ")
    errors_a, (errors_b, length) = counts_a[:, 0].sum(), counts_b.sum(axis=0)
    if relative and not errors_b:
        raise ValueError("a relative difference needs errors to compare with, and b makes none; use relative=False")
    totals = _resampled([counts_a, counts_b], samples, seed)
    # The reference length is common to both, so a relative difference of rates is one of error counts.
    scale = errors_b if relative else length
    scales = totals[:, 1, 0] if relative else totals[:, 1, 1]
    return float((errors_a - errors_b) / scale), *_interval(totals[:, 0, 0] - totals[:, 1, 0], scales, level)


def _process(refs: Sequence[str], hyps: Sequence[str], unit: str):
    import jiwer

    if len(refs) != len(hyps):
        raise ValueError(f"{len(refs)} references but {len(hyps)} hypotheses; there must be one for each clip")
    if not len(refs):
        raise ValueError("no clips, so there is no error rate")
    if unit not in ("word", "character"):
        raise ValueError(f"unit {unit!r} is unknown; choose word or character")
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    return process(list(refs), list(hyps))


def _error_rate(refs: Sequence[str], hyps: Sequence[str], unit: str) -> ErrorRate:
    out = _process(refs, hyps, unit)
    errors = out.substitutions + out.deletions + out.insertions
    length = out.hits + out.substitutions + out.deletions
    rate = errors / length if length else float("inf") if errors else 0.0
    return ErrorRate(rate, errors, length, out.substitutions, out.deletions, out.insertions)


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[1] != 2 or not counts[:, 1].any():
        raise ValueError(f"counts of shape {counts.shape}; wanted (n, 2), errors and length, with some reference")
    return counts


def _resampled(systems: list[np.ndarray], samples: int, seed: int) -> np.ndarray:
    """Summed counts of each resample: shape (samples, systems, 2)."""
    stacked = np.stack(systems, axis=1)
    generator, clips = np.random.default_rng(seed), len(stacked)
    return np.stack([stacked[generator.integers(clips, size=clips)].sum(axis=0) for _ in range(samples)])


def _interval(numerators: np.ndarray, denominators: np.ndarray, level: float) -> tuple[float, float]:
    usable = denominators > 0  # a resample of empty references only has no rate
    low, high = np.quantile(numerators[usable] / denominators[usable], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reliability(confidences, correct, bins=10):
    return {"ece": None, "bins": []}
