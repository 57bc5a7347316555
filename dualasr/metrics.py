"""Word and character error rates with their evidence, bootstrap intervals over sentences, and
calibration.

Rates are corpus-level: the errors of all clips over the length of all references (jiwer). Give
normalised text. `ErrorRates` is the same as a metric of the `evaluate` library; it normalises by
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

_CELLS = 2**20  # values that one batch of resamples holds of a column, 8 MB


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
    """Corpus-level word errors. Raises ValueError if there are no clips or the lists differ in
    length.
    """
    return _error_rate(refs, hyps, "word")


def character_errors(refs: Sequence[str], hyps: Sequence[str]) -> ErrorRate:
    """Corpus-level character errors; a space inside a line is a character. Raises like
    `word_errors`.
    """
    return _error_rate(refs, hyps, "character")


def per_clip_errors(
    refs: Sequence[str], hyps: Sequence[str], unit: Literal["word", "character"]
) -> np.ndarray:
    """Errors and reference length of each clip: int, shape (n, 2). Raises like `word_errors`."""
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
    """`per_clip_errors`, the clips of one sentence in one row: int, shape (sentences, 2), in the
    order they first occur.

    Who reads a sentence changes its errors less than which sentence it is: five readings are no
    five clips, and resampled as such they would make an interval too narrow (a cluster bootstrap;
    Davison and Hinkley 1997, section 3.8).
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
    """Texts as words are counted in, and as characters are: normalised (None: as they are), without
    spaces where the language is written without. Raises ValueError for an unknown normaliser.
    """
    texts = [normalise(text, normaliser) for text in texts] if normaliser else list(texts)
    spaceless = scoring_unit(language) == "character"
    return texts, [text.replace(" ", "") for text in texts] if spaceless else texts


def align(ref: str, hyp: str, unit: Literal["word", "character"]) -> list[tuple[str, str, str]]:
    """The two texts side by side, as their errors are counted: (kind, part of ref, part of hyp), of
    kind "equal", "substitute", "delete" or "insert"; a word each, or a run of characters. Empty for
    two empty texts.
    """
    if not ref and not hyp:
        return []
    chunks = _process([ref], [hyp], unit).alignments[0]
    refs, hyps = (ref.split(), hyp.split()) if unit == "word" else (ref, hyp)
    aligned = []
    for chunk in chunks:
        left, right = (
            refs[chunk.ref_start_idx : chunk.ref_end_idx],
            hyps[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        pairs = zip_longest(left, right, fillvalue="") if unit == "word" else [(left, right)]
        aligned += [(chunk.type, *pair) for pair in pairs]
    return aligned


def bootstrap_interval(
    counts: np.ndarray, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the corpus-level rate, resampled by row (Bisani and Ney,
    2004).

    `counts` is what `per_sentence_errors` gives, or `per_clip_errors`, shape (n, 2). Raises
    ValueError if it has no row, or no reference.
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
    """(difference, low, high) of rate_a - rate_b on the same rows, or with `relative` of (rate_a -
    rate_b) / rate_b.

    Both systems are resampled with the same rows, so what is hard for both cancels. Row i of both
    arrays, shape (n, 2), must be the same sentence or clip. Raises ValueError if they cannot be, or
    if `relative` and b makes no errors.
    """
    counts = _same_rows(counts_a, counts_b)
    errors_a, errors_b, length = counts.sum(axis=0)
    if relative and not errors_b:
        raise ValueError(
            "a relative difference needs errors to compare with, and b makes none; use"
            " relative=False"
        )
    sums_a, sums_b, lengths = resampled_sums(counts, samples, seed)
    # The reference length is common to both, so a relative difference of rates is one of error
    # counts.
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
    """`paired_bootstrap` of the mean rate over languages, (counts_a, counts_b) of each: every
    language weighs the same, and its rows are resampled on their own. Raises ValueError like it, or
    if there is no language.
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
    """Sum the columns of bootstrap resamples of the rows.

    Every statistic of the resamples is then a ratio of sums, which the caller forms: a resample
    of empty references only has no rate, and SciPy's own interval knows no such resamples.

    Args:
        counts: numbers that can be added, as errors and reference lengths; shape (rows, columns).
        samples: how many resamples to draw, each of as many rows, with replacement.
        rng: a seed, or a generator that goes on from where it is.

    Returns:
        Float array of shape (columns, samples).

    Raises:
        ValueError: there is no row, or `samples` is 0.
    """
    from scipy.stats import bootstrap  # takes most of a second to import

    rows = len(counts)
    if rows == 1:  # SciPy refuses a single row, which is its own only resample
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
    """How far a confidence can be believed: {"ece", "bins": [{"low", "high", "n", "confidence",
    "accuracy"}]}.

    `bins` of equal width over 0..1, each with its low edge, the last with both; with `equal_mass`
    of as many answers each, from the lowest confidence to the highest, equal ones together. Empty
    bins are left out. ECE is the mean distance of confidence and accuracy, weighted by n (Guo et
    al. 2017, eq. 3), None without clips. Raises ValueError if the lists differ in length or a
    confidence is none.
    """
    from scipy.stats import rankdata

    confidences, correct = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=bool)
    if confidences.shape != correct.shape or not (np.abs(confidences - 0.5) <= 0.5 + 1e-6).all():
        raise ValueError(
            f"{len(confidences)} confidences for {len(correct)} answers; wanted one in 0..1 for"
            " each"
        )
    confidences = confidences.clip(0, 1)  # sums of probabilities may miss by rounding
    shares = (rankdata(confidences) - 0.5) / max(len(confidences), 1) if equal_mass else confidences
    places, filled, ece = np.minimum(shares * bins, bins - 1).astype(int), [], 0.0
    for place in np.unique(places).tolist():
        here = places == place
        n, confidence, accuracy = (
            int(here.sum()),
            float(confidences[here].mean()),
            float(correct[here].mean()),
        )
        low, high = (
            (confidences[here].min(), confidences[here].max())
            if equal_mass
            else (place / bins, (place + 1) / bins)
        )
        filled.append(
            {
                "low": float(low),
                "high": float(high),
                "n": n,
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
        ece += n / len(correct) * abs(confidence - accuracy)
    return {"ece": ece if filled else None, "bins": filled}


def __getattr__(name: str):
    """`ErrorRates`, made when it is first asked for: `evaluate` takes seconds to import."""
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
        """WER and CER as an `evaluate` metric, from no hub:
        `ErrorRates("or").compute(predictions=..., references=...)`.

        language: what the scoring unit is taken from. normaliser: "marks", "whisper", or None for
        texts as they are. The result holds wer and cer as fractions, and substitutions, deletions,
        insertions and length in the language's unit. Further arguments are `evaluate.Metric`'s;
        nothing is written to disk unless keep_in_memory is False.
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
            # it makes the folder even if it needs none
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

    ErrorRates.__qualname__ = "ErrorRates"  # found through __getattr__, so that it can be pickled
    return ErrorRates


def _process(refs: Sequence[str], hyps: Sequence[str], unit: str):
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
    """Errors of a, errors of b, and the reference length of both, shape (rows, 3)."""
    counts_a, counts_b = _checked(counts_a), _checked(counts_b)
    if not np.array_equal(counts_a[:, 1], counts_b[:, 1]):
        raise ValueError(
            f"not the same clips: {len(counts_a)} and {len(counts_b)} rows whose reference lengths"
            " differ"
        )
    return np.column_stack([counts_a[:, 0], counts_b])


def _ratios(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """The ratio of each resample, NaN where the denominator is 0."""
    return numerators / np.where(denominators > 0, denominators, np.nan)


def _percentiles(resamples: np.ndarray, level: float) -> tuple[float, float]:
    """The middle share `level` of the resamples that have a value."""
    low, high = np.nanquantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
