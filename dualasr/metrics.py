"""Word and character error rates, bootstrap intervals over sentences, and calibration error.

Rates are corpus-level: the errors of all clips over the length of all references (jiwer). The texts
must be normalised before. `ErrorRates` is a metric of the `evaluate` library, which normalises by
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Literal

import numpy as np

from dualasr.errors import MissingExtraError
from dualasr.text import normalise, scoring_unit

_CELLS = 2**20  # values of a column in one batch of resamples, 8 MB


@dataclass(frozen=True)
class ErrorRate:
    """A corpus-level error rate with its counts.

    If all references are empty, the rate is infinite with insertions, and 0 without.

    Attributes:
        rate: `errors` / `length`.
        errors: Substitutions, deletions and insertions.
        length: Words or characters of the references.
        substitutions: Words or characters that are replaced by another.
        deletions: Words or characters of the reference that are missing.
        insertions: Words or characters that the reference does not have.
    """

    rate: float
    errors: int
    length: int
    substitutions: int
    deletions: int
    insertions: int


def word_errors(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Count word errors over a corpus.

    Args:
        refs: Reference of each clip, normalised.
        hyps: Hypothesis of each clip, normalised.

    Returns:
        The corpus-level word error rate.

    Raises:
        ValueError: There are no clips, or the lists differ in length.
    """
    return _error_rate(refs, hyps, "word")


def character_errors(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Count character errors over a corpus; a space inside a line is a character.

    Args:
        refs: Reference of each clip, normalised.
        hyps: Hypothesis of each clip, normalised.

    Returns:
        The corpus-level character error rate.

    Raises:
        ValueError: There are no clips, or the lists differ in length.
    """
    return _error_rate(refs, hyps, "character")


def per_clip_errors(
    refs: Sequence[str], hyps: Sequence[str], unit: Literal["word", "character"]
) -> np.ndarray:
    """Count the errors of each clip.

    Args:
        refs: Reference of each clip, normalised.
        hyps: Hypothesis of each clip, normalised.
        unit: What is counted.

    Returns:
        int64, shape (clips, 2): errors and reference length.

    Raises:
        ValueError: There are no clips, the lists differ in length, or the unit is unknown.
    """
    counts = np.zeros((len(refs), 2), dtype=np.int64)
    for clip, chunks in enumerate(_process(refs, hyps, unit).alignments):
        for chunk in chunks:
            in_ref = chunk.ref_end_idx - chunk.ref_start_idx
            if chunk.type != "equal":
                counts[clip, 0] += max(in_ref, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[clip, 1] += in_ref
    return counts


def per_sentence_errors(
    refs: Sequence[str], hyps: Sequence[str], unit: Literal["word", "character"]
) -> np.ndarray:
    """Count the errors of each sentence: the clips with the same reference are summed.

    The errors of a clip depend more on its sentence than on its speaker. So five readings of a
    sentence are not five independent clips, and to resample them as such makes an interval too
    narrow. To resample whole sentences is a cluster bootstrap (Davison and Hinkley 1997, section
    3.8).

    Args:
        refs: Reference of each clip, normalised.
        hyps: Hypothesis of each clip, normalised.
        unit: What is counted.

    Returns:
        int64, shape (sentences, 2): errors and reference length, in the order in which the
        sentences first occur.

    Raises:
        ValueError: There are no clips, the lists differ in length, or the unit is unknown.
    """
    rows: dict[str, int] = {}
    places = [rows.setdefault(ref, len(rows)) for ref in refs]
    counts = per_clip_errors(refs, hyps, unit)
    summed = np.zeros((len(rows), 2), dtype=np.int64)
    np.add.at(summed, places, counts)
    return summed


def comparable(
    texts: Sequence[str], language: str, normaliser: str | None
) -> tuple[list[str], list[str]]:
    """Prepare texts for counting word errors and character errors.

    Args:
        texts: References or hypotheses.
        language: Code of their language.
        normaliser: One of `NORMALISERS`; None takes the texts as they are.

    Returns:
        The texts in which words are counted, and those in which characters are counted. The latter
        are without spaces if the language is written without spaces.

    Raises:
        ValueError: The normaliser is unknown.
    """
    texts = [normalise(text, normaliser) for text in texts] if normaliser else list(texts)
    spaceless = scoring_unit(language) == "character"
    return texts, [text.replace(" ", "") for text in texts] if spaceless else texts


def align(ref: str, hyp: str, unit: Literal["word", "character"]) -> list[tuple[str, str, str]]:
    """Align a hypothesis with its reference, as their errors are counted.

    Args:
        ref: Reference.
        hyp: Hypothesis.
        unit: What is counted.

    Returns:
        (kind, part of ref, part of hyp) in order, of kind "equal", "substitute", "delete" or
        "insert". A part is one word, or a run of characters. Empty for two empty texts.
    """
    if not ref and not hyp:
        return []
    ref_words, hyp_words = ref.split(), hyp.split()
    aligned: list[tuple[str, str, str]] = []
    for chunk in _process([ref], [hyp], unit).alignments[0]:
        in_ref = slice(chunk.ref_start_idx, chunk.ref_end_idx)
        in_hyp = slice(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if unit == "word":
            pairs = zip_longest(ref_words[in_ref], hyp_words[in_hyp], fillvalue="")
            aligned += [(chunk.type, left, right) for left, right in pairs]
        else:
            aligned.append((chunk.type, ref[in_ref], hyp[in_hyp]))
    return aligned


def bootstrap_interval(
    counts: np.ndarray, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Compute the percentile interval of a corpus-level error rate (Bisani and Ney 2004).

    Args:
        counts: Errors and reference lengths, shape (n, 2), of `per_sentence_errors` or
            `per_clip_errors`; the rows are resampled.
        samples: Number of resamples.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval.

    Returns:
        Lower and upper end of the interval.

    Raises:
        ValueError: There is no row, or every reference is empty.
    """
    errors, lengths = resampled_sums(_checked(counts), samples, seed)
    return _percentiles(_ratios(errors, lengths), level)


def paired_bootstrap(
    counts_a: np.ndarray,
    counts_b: np.ndarray,
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    relative: bool = False,
) -> tuple[float, float, float]:
    """Compute the difference of two error rates on the same clips, with its percentile interval.

    Both systems are resampled with the same rows, so sentences that are hard for both do not widen
    the interval (Bisani and Ney 2004).

    Args:
        counts_a: Errors and reference lengths of system a, shape (n, 2).
        counts_b: The same of system b, shape (n, 2); row i is the same sentence or clip.
        samples: Number of resamples.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval.
        relative: Whether to divide the difference by the rate of b.

    Returns:
        rate_a - rate_b, and the lower and upper end of its interval.

    Raises:
        ValueError: The rows cannot be the same clips, there is no row, every reference is empty, or
            the difference is relative and b makes no errors.
    """
    counts = _same_rows(counts_a, counts_b)
    errors_a, errors_b, length = counts.sum(axis=0)
    if relative and not errors_b:
        raise ValueError(
            "a relative difference needs errors to compare with, and b makes none; use"
            " relative=False"
        )
    sums_a, sums_b, lengths = resampled_sums(counts, samples, seed)
    # both have the same reference length, so it cancels in a relative difference
    difference = (errors_a - errors_b) / (errors_b if relative else length)
    resamples = _ratios(sums_a - sums_b, sums_b if relative else lengths)
    return float(difference), *_percentiles(resamples, level)


def paired_bootstrap_mean(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Compute the difference of two mean error rates over languages, with its percentile interval.

    Every language has the same weight, and its rows are resampled on their own.

    Args:
        pairs: The arguments counts_a and counts_b of `paired_bootstrap` for each language, each of
            shape (n, 2).
        samples: Number of resamples.
        seed: Seed of the resamples.
        level: Share of the resamples inside the interval.

    Returns:
        The mean of rate_a - rate_b, and the lower and upper end of its interval.

    Raises:
        ValueError: There is no language, or `paired_bootstrap` would raise it for one of them.
    """
    if not pairs:
        raise ValueError("no languages, so there is no mean")
    generator = np.random.default_rng(seed)
    differences, resamples = [], []
    for pair in pairs:
        counts = _same_rows(*pair)
        errors_a, errors_b, length = counts.sum(axis=0)
        differences.append((errors_a - errors_b) / length)
        sums_a, sums_b, lengths = resampled_sums(counts, samples, generator)
        resamples.append(_ratios(sums_a - sums_b, lengths))
    return float(np.mean(differences)), *_percentiles(np.mean(resamples, axis=0), level)


def resampled_sums(counts: np.ndarray, samples: int, rng: int | np.random.Generator) -> np.ndarray:
    """Draw bootstrap resamples of the rows, and sum the columns of each.

    A rate of a resample is then a ratio of two sums, which the caller computes. (A resample with
    only empty references has no rate, and SciPy's own interval cannot leave such resamples out.)

    Args:
        counts: Errors and reference lengths, or other numbers to sum; shape (rows, columns).
        samples: Number of resamples. Each has as many rows as `counts`, drawn with replacement.
        rng: A seed, or a generator, which is used from its present state.

    Returns:
        float64, shape (columns, samples).

    Raises:
        ValueError: There is no row, or `samples` is 0.
    """
    from scipy.stats import bootstrap  # takes most of a second to import

    rows = len(counts)
    if rows == 1:  # SciPy refuses a single row; every resample is this row
        return np.repeat(np.asarray(counts, dtype=float).T, samples, axis=1)

    def sums(*columns: np.ndarray, axis: int) -> np.ndarray:
        return np.stack([column.sum(axis=axis) for column in columns])

    columns = tuple(np.asarray(counts, dtype=float).T)
    batch = max(1, _CELLS // rows)
    resampled = bootstrap(
        columns,
        sums,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=samples,
        batch=batch,
        rng=rng,
    )
    return resampled.bootstrap_distribution


def reliability(
    confidences: Sequence[float],
    correct: Sequence[bool],
    bins: int = 10,
    *,
    equal_mass: bool = False,
) -> dict:
    """Compare confidences with accuracy: a reliability diagram, and the calibration error (ECE).

    1. Sort the decisions into bins by their confidence. Bins of equal width contain their lower
       edge, the last one both edges. Bins of equal mass contain equally many decisions; decisions
       with the same confidence are in the same bin.
    2. Take the mean confidence and the accuracy of each bin that is not empty.
    3. ECE is the mean distance of the two, weighted by the size of the bins (Guo et al. 2017,
       eq. 3).

    Args:
        confidences: Probability of each decision, in 0..1; shape (n,).
        correct: Whether each decision was right; shape (n,).
        bins: Number of bins.
        equal_mass: Whether bins contain equally many decisions instead of being equally wide.

    Returns:
        {"ece": float, or None without decisions, "bins": [{"low", "high", "n", "confidence",
        "accuracy"}]}. With `equal_mass`, "low" and "high" are the lowest and highest confidence.

    Raises:
        ValueError: The lists differ in length, or a confidence is not in 0..1.
    """
    from scipy.stats import rankdata

    probs, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=bool)
    if probs.shape != right.shape or not (np.abs(probs - 0.5) <= 0.5 + 1e-6).all():
        raise ValueError(
            f"{len(probs)} confidences for {len(right)} decisions; wanted one in 0..1 for each"
        )
    probs = probs.clip(0, 1)  # a sum of probabilities may be a little above 1 by rounding
    ranks = (rankdata(probs) - 0.5) / max(len(probs), 1) if equal_mass else probs
    places, filled, ece = np.minimum(ranks * bins, bins - 1).astype(int), [], 0.0
    for place in np.unique(places).tolist():
        here = places == place
        n, confidence, accuracy = int(here.sum()), probs[here].mean(), right[here].mean()
        if equal_mass:
            low, high = probs[here].min(), probs[here].max()
        else:
            low, high = place / bins, (place + 1) / bins
        filled.append(
            {
                "low": float(low),
                "high": float(high),
                "n": n,
                "confidence": float(confidence),
                "accuracy": float(accuracy),
            }
        )
        ece += n / len(right) * abs(float(confidence) - float(accuracy))
    return {"ece": ece if filled else None, "bins": filled}


def __getattr__(name: str):
    """Make `ErrorRates` when it is first used, because `evaluate` takes seconds to import."""
    if name == "ErrorRates":
        return _error_rates_metric()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _error_rates_metric() -> type:
    try:
        import evaluate
    except ImportError as error:
        raise MissingExtraError("evaluate", "evaluate") from error
    from datasets import Features, Value

    class ErrorRates(evaluate.Metric):
        """WER and CER as an `evaluate` metric that needs no hub.

        `ErrorRates("or").compute(predictions=..., references=...)` returns wer and cer as
        fractions, and substitutions, deletions, insertions and length in the language's unit.

        Args:
            language: Code of the language, which decides the unit.
            normaliser: "marks", "whisper", or None for texts as they are.
            **kwargs: Arguments of `evaluate.Metric`. Nothing is written to disk unless
                keep_in_memory is False.
        """

        def __init__(
            self,
            language: str = "",
            normaliser: Literal["marks", "whisper"] | None = "marks",
            **kwargs,
        ):
            self.language, self.normaliser = language, normaliser
            # refuse an unknown normaliser now, not after the last batch
            comparable([""], language, normaliser)
            super().__init__(**({"keep_in_memory": True} | kwargs))

        def _build_data_dir(self) -> str:
            # the method of evaluate.Metric makes a folder even if it needs none
            return "" if self.keep_in_memory else super()._build_data_dir()

        def _info(self):
            text = Value("string")
            return evaluate.MetricInfo(
                description=self.__doc__,
                citation="",
                inputs_description="",
                features=Features(predictions=text, references=text),
            )

        def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
            refs, hyps = (
                comparable(texts, self.language, self.normaliser)
                for texts in (references, predictions)
            )
            words, characters = word_errors(refs[0], hyps[0]), character_errors(refs[1], hyps[1])
            counts = characters if scoring_unit(self.language) == "character" else words
            names = ("substitutions", "deletions", "insertions", "length")
            return {
                "wer": words.rate,
                "cer": characters.rate,
                **{name: getattr(counts, name) for name in names},
            }

    # pickle finds it by this name, through __getattr__
    ErrorRates.__qualname__ = "ErrorRates"
    return ErrorRates


def _process(refs: Sequence[str], hyps: Sequence[str], unit: str):
    """Align each clip by jiwer: a WordOutput or a CharacterOutput."""
    import jiwer

    if len(refs) != len(hyps):
        raise ValueError(
            f"{len(refs)} references but {len(hyps)} hypotheses; there must be one for each clip"
        )
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
        raise ValueError(
            f"counts of shape {counts.shape}; wanted (n, 2), errors and length, with some reference"
        )
    return counts


def _same_rows(counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
    """Return errors of a, errors of b, and the reference length of both, shape (rows, 3)."""
    counts_a, counts_b = _checked(counts_a), _checked(counts_b)
    if not np.array_equal(counts_a[:, 1], counts_b[:, 1]):
        raise ValueError(
            f"not the same clips: {len(counts_a)} and {len(counts_b)} rows whose reference lengths"
            " differ"
        )
    return np.column_stack([counts_a[:, 0], counts_b])


def _ratios(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Return the ratio of each resample, NaN where the denominator is 0."""
    return numerators / np.where(denominators > 0, denominators, np.nan)


def _percentiles(resamples: np.ndarray, level: float) -> tuple[float, float]:
    """Return both ends of the middle share `level` of the resamples that are not NaN."""
    low, high = np.nanquantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
