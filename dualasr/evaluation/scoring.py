"""Rates of evaluated clips: word and character errors with intervals, routing, contamination."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dualasr.data.fingerprints import Fingerprints
from dualasr.evaluation.contamination import KINDS, audit
from dualasr.languages import tag_among
from dualasr.metrics import (
    bootstrap_interval,
    character_errors,
    comparable,
    per_sentence_errors,
    reliability,
    resampled_sums,
    word_errors,
)
from dualasr.text import NORMALISERS, normalise

Unit = Literal["word", "character"]
RATES: dict[str, Unit] = {"wer": "word", "cer": "character"}  # and what they count
MODES = ("pipeline_aware", "group_aware", "agnostic")

# by normaliser and rate ("wer", "cer"): errors and length of each sentence, int, (sentences, 2)
Tables = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class ModeResult:
    """The transcript of a clip in one mode.

    Attributes:
        hyp: The transcript.
        route: "primary" or a pack's name; of several windows, that of the most seconds.
        language: Code of the language that it was decoded in; of several windows, that of the most
            seconds; "" for a clip that was not transcribed.
        reason: Why it has this route.
    """

    hyp: str
    route: str
    language: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """A clip in every mode.

    Attributes:
        id: The clip's id in the corpus.
        language: Code of its language in the corpus.
        ref: Its reference text.
        seconds: Its length, in seconds.
        windows: Number of windows that were transcribed.
        pipeline_aware: Its transcript in the pipeline-aware mode.
        group_aware: Its transcript in the group-aware mode.
        agnostic: Its transcript in the agnostic mode.
        confidence: The selector's posterior of the agnostic route: the mean over the windows,
            weighted by their lengths. None for a clip that was not transcribed.
    """

    id: str
    language: str
    ref: str
    seconds: float
    windows: int
    pipeline_aware: ModeResult
    group_aware: ModeResult
    agnostic: ModeResult
    confidence: float | None


def _counted(
    language: str, refs: Sequence[str], hyps: Sequence[str], method: str
) -> dict[str, tuple[list[str], list[str]]]:
    """Return references and hypotheses as they are compared for each rate."""
    sides = (comparable(texts, language, method) for texts in (refs, hyps))
    return dict(zip(("wer", "cer"), zip(*sides, strict=True), strict=True))


def error_tables(language: str, refs: Sequence[str], hyps: Sequence[str]) -> Tables:
    """Count the errors of each sentence of one language, for `scores_of`.

    Args:
        language: Code of the language.
        refs: Reference texts of clips. Clips with the same reference share a row.
        hyps: Their transcripts.

    Returns:
        By normaliser and rate, errors and length of each sentence, int, shape (sentences, 2).
    """
    return {
        method: {
            rate: per_sentence_errors(*texts, RATES[rate])
            for rate, texts in _counted(language, refs, hyps, method).items()
        }
        for method in NORMALISERS
    }


def _texts(clips: Sequence[ClipResult], mode: str) -> tuple[str, list[str], list[str]]:
    return (
        clips[0].language,
        [clip.ref for clip in clips],
        [getattr(clip, mode).hyp for clip in clips],
    )


def error_counts_by_sentence(clips: Sequence[ClipResult], mode: str) -> Tables:
    """Count the errors of each sentence of clips of one language (`error_tables`).

    Args:
        clips: Clips of one language, at least one.
        mode: The mode.

    Returns:
        By normaliser and rate, errors and length of each sentence, int, shape (sentences, 2).
    """
    return error_tables(*_texts(clips, mode))


def error_counts(clips: Sequence[ClipResult], mode: str) -> dict[str, dict[str, int]]:
    """Count substitutions, deletions and insertions of clips of one language (mark-safe).

    Args:
        clips: Clips of one language, at least one.
        mode: The mode.

    Returns:
        By unit ("word", "character"): substitutions, deletions, insertions, and the length of the
        references.
    """
    texts = _counted(*_texts(clips, mode), "marks")
    found = {"word": word_errors(*texts["wer"]), "character": character_errors(*texts["cer"])}
    keys = ("substitutions", "deletions", "insertions", "length")
    return {unit: {key: getattr(count, key) for key in keys} for unit, count in found.items()}


def scores_of(languages: Sequence[Tables], bootstrap: int, seed: int) -> dict:
    """Compute rates, as the mean over languages.

    Args:
        languages: `error_tables` of each language. A language without reference text has no rate
            and is left out.
        bootstrap: Number of resamples for the 95 % intervals; 0 for no intervals.
        seed: Seed of the resampling.

    Returns:
        "wer" and "cer" as fractions, mark-safe; None if no language has a rate. "wer_interval" and
        "cer_interval": [low, high] or None. "whisper": wer and cer with Whisper's normaliser.
    """
    scores: dict = {"whisper": {}}
    for method, into in (("marks", scores), ("whisper", scores["whisper"])):
        for rate in ("wer", "cer"):
            tables = [
                language[method][rate]
                for language in languages
                if language[method][rate][:, 1].any()
            ]
            rates = [errors / length for errors, length in (table.sum(axis=0) for table in tables)]
            into[rate] = float(np.mean(rates)) if rates else None
            if method == "marks":
                into[f"{rate}_interval"] = (
                    _interval(tables, bootstrap, seed) if rates and bootstrap else None
                )
    return scores


def _interval(tables: Sequence[np.ndarray], bootstrap: int, seed: int) -> list[float]:
    """Return the 95 % bootstrap interval of the mean rate, (low, high).

    The sentences of each language are resampled separately (Bisani and Ney 2004).
    """
    if len(tables) == 1:
        return list(bootstrap_interval(tables[0], samples=bootstrap, seed=seed))
    generator = np.random.default_rng(seed)
    sums = [resampled_sums(table, bootstrap, generator) for table in tables]
    rates = [errors / np.maximum(lengths, 1) for errors, lengths in sums]
    return np.quantile(np.mean(rates, axis=0), [0.025, 0.975]).tolist()


def routing_of(
    clips: Sequence[ClipResult], languages: dict[str, dict], routes: Sequence[str]
) -> dict:
    """Measure how the agnostic mode routed clips.

    Args:
        clips: The clips.
        languages: "languages" of the report, by code.
        routes: All routes: "primary" and the names of the packs.

    Returns:
        "confusion": number of clips by language and route. Over the languages that a pipeline
        knows, "accuracy": share of clips with the right route, "language_accuracy": share of clips
        with the right language tag (both None without such clips), and "calibration": reliability
        of the posterior (`metrics.reliability`).
    """
    confusion = {code: dict.fromkeys(routes, 0) for code in languages}
    for clip in clips:
        confusion[clip.language][clip.agnostic.route] += 1
    known = {code: entry["pipeline"] for code, entry in languages.items() if entry["known"]}
    of_known = [clip for clip in clips if clip.language in known]
    routed = sum(confusion[code][pipeline] for code, pipeline in known.items())
    named = sum(tag_among(clip.language, [clip.agnostic.language]) is not None for clip in of_known)
    accuracy, language_accuracy = (
        hits / len(of_known) if of_known else None for hits in (routed, named)
    )
    confidences, right = [], []
    for clip in of_known:
        if clip.confidence is not None:
            confidences.append(clip.confidence)
            right.append(clip.agnostic.route == known[clip.language])
    calibration = reliability(confidences, right)
    return {
        "accuracy": accuracy,
        "language_accuracy": language_accuracy,
        "confusion": confusion,
        "calibration": calibration,
    }


def empty_references_of(groups: Mapping[str, Sequence[ClipResult]]) -> dict[str, dict]:
    """Count references that are empty after normalising, and compute the rates without them.

    Every word that is written for such a clip is an insertion, and its reference adds nothing to
    the length. So a few of them can raise a rate a lot.

    Args:
        groups: Clips by language.

    Returns:
        By language, for those that have such clips, and by normaliser ("marks", "whisper"): "n"
        such clips, and for each mode wer and cer of the other clips, None if there are none.
    """
    found: dict[str, dict] = {}
    for code, clips in groups.items():
        for method in NORMALISERS:
            rest = [clip for clip in clips if normalise(clip.ref, method)]
            if len(rest) < len(clips):
                entry = found.setdefault(code, {}).setdefault(method, {"n": len(clips) - len(rest)})
                entry |= {mode: _rates_by(method, rest, mode) for mode in MODES}
    return found


def _rates_by(method: str, clips: Sequence[ClipResult], mode: str) -> dict[str, float | None]:
    """Return wer and cer of clips of one language, which may be none, by a normaliser."""
    scores = scores_of([error_counts_by_sentence(clips, mode)] if clips else [], 0, 0)
    by_method = scores["whisper"] if method == "whisper" else scores
    return {rate: by_method[rate] for rate in RATES}


def contamination_of(
    clips: Sequence[ClipResult], test: Fingerprints, trained: Mapping[str, Fingerprints | None]
) -> dict:
    """Find clips that are in the training data of packs, and compute the rates without them.

    Args:
        clips: The evaluated clips.
        test: Their fingerprints, in the same order.
        trained: By pack, the fingerprints of its training data; None if it has none.

    Returns:
        "packs": by pack, whether it has fingerprints ("known"), and the number of clips of each
        kind. "leaks": each such clip with the pack and the kind. "clean": for the languages that
        have such clips, the number of other clips and their rates, by mode.
    """
    leaks = audit(test, {name: known for name, known in trained.items() if known is not None})
    counts = Counter((leak.pack, leak.kind) for leak in leaks)
    packs = {
        name: {"known": known is not None, **{kind: counts[name, kind] for kind in KINDS}}
        for name, known in trained.items()
    }
    leaked = {leak.clip for leak in leaks}
    clean: dict[str, dict] = {}
    for code in sorted({clips[i].language for i in leaked}):
        rest = [clip for i, clip in enumerate(clips) if clip.language == code and i not in leaked]
        clean[code] = {"n": len(rest)}
        clean[code] |= {mode: _rates_by("marks", rest, mode) for mode in MODES}
    listed = [
        {
            "id": clips[leak.clip].id,
            "language": clips[leak.clip].language,
            "pack": leak.pack,
            "kind": leak.kind,
            "similarity": round(leak.similarity, 3),
            "words": leak.words,
        }
        for leak in leaks
    ]
    return {"packs": packs, "leaks": listed, "clean": clean}
