"""Rates of evaluated clips: errors in words and characters with intervals, routing, and what is
left without leaked clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from dualasr.text import NORMALISERS

MODES = ("pipeline_aware", "group_aware", "agnostic")

# normaliser, rate -> errors and length of each sentence: int, (sentences, 2)
Tables = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class ModeResult:
    """What one mode made of a clip; of several windows, `route` and `language` are those of the
    most seconds.
    """

    hyp: str
    route: str
    language: str
    reason: str


@dataclass(frozen=True)
class ClipResult:
    """A clip in every mode; `language` and `ref` are the corpus', `seconds` its length, `windows`
    the pieces heard.

    `confidence` is the selector's posterior of the agnostic route, the mean over the windows by
    their length.
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
    """References and hypotheses as each rate counts them."""
    sides = (comparable(texts, language, method) for texts in (refs, hyps))
    return dict(zip(("wer", "cer"), zip(*sides, strict=True), strict=True))


def error_tables(language: str, refs: Sequence[str], hyps: Sequence[str]) -> Tables:
    """What `scores_of` takes, of texts of one language; those of the same sentence share a row."""
    units = {"wer": "word", "cer": "character"}
    return {
        method: {
            rate: per_sentence_errors(*texts, units[rate])
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
    """`error_tables` of clips of one language."""
    return error_tables(*_texts(clips, mode))


def error_counts(clips: Sequence[ClipResult], mode: str) -> dict[str, dict[str, int]]:
    """Substitutions, deletions and insertions in words and in characters, mark-safe."""
    texts = _counted(*_texts(clips, mode), "marks")
    found = {"word": word_errors(*texts["wer"]), "character": character_errors(*texts["cer"])}
    keys = ("substitutions", "deletions", "insertions", "length")
    return {unit: {key: getattr(count, key) for key in keys} for unit, count in found.items()}


def scores_of(languages: Sequence[Tables], bootstrap: int, seed: int) -> dict:
    """Rates of `error_tables`; of several languages, the mean of their rates. A language without
    reference has none.

    Of the mark-safe rates also the 95 % interval over `bootstrap` resamples, None for none.
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
    """95 % bootstrap interval of the mean rate, the sentences of each language resampled on their
    own.
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
    """Confusion of languages and agnostic routes in clips; accuracies over the languages that a
    pipeline knows.
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
    sure = [clip for clip in of_known if clip.confidence is not None]
    right = [clip.agnostic.route == known[clip.language] for clip in sure]
    calibration = reliability([clip.confidence for clip in sure], right)
    return {
        "accuracy": accuracy,
        "language_accuracy": language_accuracy,
        "confusion": confusion,
        "calibration": calibration,
    }


def contamination_of(
    clips: Sequence[ClipResult], heard: Fingerprints, trained: Mapping[str, Fingerprints | None]
) -> dict:
    """Which clips the packs were trained on, or on something like them, and the rates without
    those.

    `heard` are the fingerprints of the clips, `trained` those of each pack, None where it says
    nothing. "packs" counts the clips of each kind, "leaks" lists them, "clean" has the rates by
    language and mode of what is left, of the languages that lose clips.
    """
    leaks = audit(heard, {name: known for name, known in trained.items() if known is not None})
    packs: dict[str, dict] = {
        name: {"known": known is not None, **dict.fromkeys(KINDS, 0)}
        for name, known in trained.items()
    }
    for leak in leaks:
        packs[leak.pack][leak.kind] += 1
    leaked, clean = {leak.clip for leak in leaks}, {}
    for code in sorted({clips[i].language for i in leaked}):
        rest = [clip for i, clip in enumerate(clips) if clip.language == code and i not in leaked]
        clean[code] = {"n": len(rest)}
        for mode in MODES:
            scores = scores_of([error_counts_by_sentence(rest, mode)] if rest else [], 0, 0)
            clean[code][mode] = {rate: scores[rate] for rate in ("wer", "cer")}
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
