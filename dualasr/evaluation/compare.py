"""Comparison of two reports on the same clips: the difference of their error rates, with paired
bootstrap intervals (Bisani and Ney 2004).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.errors import RunError
from dualasr.evaluation.markdown import markdown_table, percent
from dualasr.evaluation.report_sections import MODES
from dualasr.evaluation.scoring import RATES
from dualasr.metrics import comparable, paired_bootstrap_mean, per_sentence_errors

_NAMED = 5  # clips that only one report has: how many are named


def compare(
    a: str | Path,
    b: str | Path,
    modes: Sequence[str] = ("agnostic", "pipeline_aware"),
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compare two reports on the clips that both have.

    Args:
        a: The report A.json, with its clips beside it in A.clips.jsonl.
        b: The report B.json, likewise.
        modes: The modes to compare.
        samples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        "languages": by code n (clips), and for each mode wer and cer, each {a, b, difference,
        interval}. "mean": likewise for the mean over languages, where the sentences of each
        language are resampled separately. "only_a", "only_b": number and first ids of the clips
        that only one report has, or None. "a", "b", "samples", "seed": the arguments. Rates are
        fractions, computed with the mark-safe normaliser; None for a language without reference
        text. The difference is a - b: below zero if A is better.

    Raises:
        RunError: A file is no report, or the reports are not of the same clips.
    """
    clips_a, clips_b = _clips(a, modes), _clips(b, modes)
    shared: dict[str, list[tuple[dict, dict]]] = {}
    for key in sorted(clips_a.keys() & clips_b.keys()):
        left, right = clips_a[key], clips_b[key]
        if left["ref"] != right["ref"]:
            raise RunError(
                f"Clip {key[1]!r} ({key[0]}) has another reference in {a} than in {b}; compare"
                " reports on the same corpus."
            )
        shared.setdefault(key[0], []).append((left, right))
    if not shared:
        raise RunError(
            f"{a} and {b} have no clip in common; compare reports on the same languages and split."
        )
    counts = {
        code: {mode: _counts(code, pairs, mode) for mode in modes} for code, pairs in shared.items()
    }
    return {
        "a": str(a),
        "b": str(b),
        "samples": samples,
        "seed": seed,
        "languages": {
            code: (
                {"n": len(shared[code])}
                | {mode: _differences([of[mode]], samples, seed) for mode in modes}
            )
            for code, of in counts.items()
        },
        "mean": {
            mode: _differences([of[mode] for of in counts.values()], samples, seed)
            for mode in modes
        },
        "only_a": _only(clips_a, clips_b),
        "only_b": _only(clips_b, clips_a),
    }


def to_markdown(comparison: dict) -> str:
    """Write a comparison as Markdown, in percent and points."""
    languages = comparison["languages"]
    modes = [mode for mode in MODES if mode in comparison["mean"]]
    rows = []
    for code, entry in [*languages.items(), ("mean", comparison["mean"])]:
        n = str(entry.get("n", sum(e["n"] for e in languages.values())))
        rows += [
            (code, n, MODES[mode], *_columns(entry[mode]["cer"]), *_columns(entry[mode]["wer"]))
            for mode in modes
        ]
    head = ("language", "clips", "mode", "CER A", "CER B", "A - B", "WER A", "WER B", "A - B")
    lines = [
        f"# A: {comparison['a']}, B: {comparison['b']}",
        "",
        "Error rates in percent on the clips that both reports have, computed with the mark-safe"
        " normaliser. A - B is the difference in percentage points with its 95 % interval (paired"
        " bootstrap over sentences). It is below zero if A is better.",
        "",
        *markdown_table(head, rows),
    ]
    for side in "ab":
        if only := comparison[f"only_{side}"]:
            more = ", …" if only["n"] > len(only["first"]) else ""
            lines += [
                f"Only in {side.upper()}: {only['n']} clips ({', '.join(only['first'])}{more}).",
                "",
            ]
    return "\n".join(lines)


def write_comparison(path: str | Path, comparison: dict) -> None:
    """Write a comparison as JSON, whole or not at all.

    Args:
        path: The file.
        comparison: What `compare` returned.

    Raises:
        RunError: The file cannot be written.
    """
    with atomic_file(path, advice="Choose another place for --out.") as part:
        part.write_text(
            json.dumps(comparison, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _clips(path: str | Path, modes: Sequence[str]) -> dict[tuple[str, str], dict]:
    """Return the reference and the hypotheses of each clip of a report, by language and id."""
    path = Path(path)
    beside = path.with_suffix(".clips.jsonl")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in beside.read_text(encoding="utf-8").split("\n") if line]
    except OSError as error:
        raise RunError(
            f"Cannot read {error.filename}: {error.strerror}. Give a report that `dualasr evaluate`"
            f" wrote; its clips, {beside.name}, belong beside it."
        ) from error
    except ValueError as error:
        raise RunError(
            f"{path} and {beside.name} are no report: {error}. Give what `dualasr evaluate` wrote."
        ) from error
    if not isinstance(report, dict) or "languages" not in report:
        raise RunError(
            f"{path} is no report: it has no languages. Give the JSON file that `dualasr evaluate`"
            " wrote."
        )
    clips: dict[tuple[str, str], dict] = {}
    for number, row in enumerate(rows, 1):
        try:
            key = row["language"], row["id"]
            clip = {"ref": row["ref"]} | {mode: row[mode]["hyp"] for mode in modes}
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{beside}:{number} has no {error}; evaluate again, or choose another --mode."
            ) from error
        if key in clips:
            raise RunError(
                f"{beside}:{number} is the second clip {key[1]!r} ({key[0]}); ids must differ to"
                " pair the clips."
            )
        clips[key] = clip
    return clips


def _counts(language: str, pairs: Sequence[tuple[dict, dict]], mode: str) -> dict:
    """Return by rate, for both reports, errors and length of each sentence: (sentences, 2)."""
    refs = comparable([left["ref"] for left, _ in pairs], language, "marks")
    sides = [comparable([pair[side][mode] for pair in pairs], language, "marks") for side in (0, 1)]
    return {
        rate: tuple(per_sentence_errors(refs[k], hyps[k], unit) for hyps in sides)
        for k, (rate, unit) in enumerate(RATES.items())
    }


def _differences(languages: Sequence[dict], samples: int, seed: int) -> dict:
    """Return both rates and their difference, as the mean over languages, for wer and cer."""
    found: dict[str, dict] = {}
    for rate in ("wer", "cer"):
        pairs = [counts[rate] for counts in languages if counts[rate][0][:, 1].any()]
        if not pairs:
            found[rate] = dict.fromkeys(("a", "b", "difference", "interval"))
            continue
        a, b = (
            sum(pair[side][:, 0].sum() / pair[side][:, 1].sum() for pair in pairs) / len(pairs)
            for side in (0, 1)
        )
        difference, *interval = paired_bootstrap_mean(pairs, samples=samples, seed=seed)
        found[rate] = {"a": float(a), "b": float(b), "difference": difference, "interval": interval}
    return found


def _only(here: dict, there: dict) -> dict | None:
    """Return the number and the first ids of the clips that one report lacks; None for no clip."""
    keys = [key for key in here if key not in there]
    return (
        {"n": len(keys), "first": [f"{language}/{id}" for language, id in keys[:_NAMED]]}
        if keys
        else None
    )


def _columns(found: dict) -> tuple[str, str, str]:
    """Return A, B and A - B as cells of a table."""
    if found["a"] is None:
        return "–", "–", "–"
    low, high = found["interval"]
    points = f"{100 * found['difference']:+z.2f} ({100 * low:+z.2f} to {100 * high:+z.2f})"
    return percent(found["a"]), percent(found["b"]), points
