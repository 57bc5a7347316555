"""Two reports on the same clips: how far their error rates lie apart, with the paired bootstrap
interval (Bisani and Ney).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.errors import RunError
from dualasr.evaluation.markdown import markdown_table, percent
from dualasr.evaluation.report_sections import MODES
from dualasr.metrics import comparable, paired_bootstrap_mean, per_sentence_errors

_NAMED = 5  # clips of one report only, named


def compare(
    a: str | Path,
    b: str | Path,
    modes: Sequence[str] = ("agnostic", "pipeline_aware"),
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict:
    """Compare the reports A.json and B.json, whose clips lie beside them (A.clips.jsonl), on the
    clips that both have.

    Returns "languages" (by code: n, and of each mode wer and cer: {a, b, difference, interval}),
    "mean" (of the languages, each weighing the same, its sentences resampled on their own),
    "only_a" and "only_b" (n, and the first ids), and a, b, samples, seed. Rates are fractions by
    the mark-safe normaliser; difference is a - b, below zero where A is better; a language without
    reference text has None. Raises RunError for what is no report, or not of the same clips.
    """
    clips_a, clips_b = _clips(a, modes), _clips(b, modes)
    shared: dict[str, list[tuple[dict, dict]]] = {}
    for key in sorted(clips_a.keys() & clips_b.keys()):
        left, right = clips_a[key], clips_b[key]
        if left["ref"] != right["ref"]:
            raise RunError(
                f"Clip {key[1]!r} ({key[0]}) has another reference in {a} than in {b}; both must be"
                " of one corpus."
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
    """A comparison to read, in percent and points."""
    languages = comparison["languages"]
    modes, rows = [mode for mode in MODES if mode in comparison["mean"]], []
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
        (
            "Percent on the clips that both have, mark-safe normaliser; A - B in points, below zero"
            " where A is better, with the"
        ),
        "95 % paired bootstrap interval over sentences.",
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
    """Write a comparison as JSON, whole or not at all. Raises RunError, which names the path, where
    that fails.
    """
    with atomic_file(path, advice="Choose another place for --out.") as part:
        part.write_text(
            json.dumps(comparison, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _clips(path: str | Path, modes: Sequence[str]) -> dict[tuple[str, str], dict]:
    """The clips of a report by language and id; each has a reference and a hypothesis of every
    mode.
    """
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
    """Errors and lengths of both reports, (a, b) by rate."""
    refs = comparable([left["ref"] for left, _ in pairs], language, "marks")
    sides = [comparable([pair[side][mode] for pair in pairs], language, "marks") for side in (0, 1)]
    return {
        rate: tuple(per_sentence_errors(refs[k], hyps[k], unit) for hyps in sides)
        for k, (rate, unit) in enumerate((("wer", "word"), ("cer", "character")))
    }


def _differences(languages: Sequence[dict], samples: int, seed: int) -> dict:
    found = {}
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
    keys = [key for key in here if key not in there]
    return (
        {"n": len(keys), "first": [f"{language}/{id}" for language, id in keys[:_NAMED]]}
        if keys
        else None
    )


def _columns(found: dict) -> tuple[str, str, str]:
    if found["a"] is None:
        return "–", "–", "–"
    low, high = found["interval"]
    points = f"{100 * found['difference']:+z.2f} ({100 * low:+z.2f} to {100 * high:+z.2f})"
    return percent(found["a"]), percent(found["b"]), points
