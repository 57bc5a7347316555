"""An evaluation on paper: Markdown to read, JSON to compute with, and the clips behind the rates, worst first."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dualasr.errors import RunError
from dualasr.evaluation import MODES, Evaluation, tables_of
from dualasr.selector import PRIMARY


def to_markdown(report: dict, command: str | None = None) -> str:
    """A report to read: rates in percent with 95 % intervals, routing, settings, and the command that makes it again."""
    languages, routing, packs = report["languages"], report["routing"], [pack["name"] for pack in report["packs"]]
    head = ["language", "pipeline-aware CER", "WER", "agnostic CER", "WER"]
    cells = [(mode, rate) for mode in MODES for rate in ("cer", "wer")]
    rows, whisper, confusion = [], [], []
    for code, entry in [*languages.items(), ("mean", report["mean"])]:
        rates = [_percent(entry[mode][rate], entry[mode][f"{rate}_interval"]) for mode, rate in cells]
        whisper.append([code, *(_percent(entry[mode]["whisper"][rate]) for mode, rate in cells)])
        if code == "mean":
            rows.append([code, *rates, "", str(sum(e["n"] for e in languages.values())), _percent(routing["accuracy"])])
            continue
        counts, pipeline = routing["confusion"][code], entry["pipeline"]
        right = _percent(counts[pipeline] / entry["n"] if entry["known"] else None)
        rows.append([code, *rates, pipeline if entry["known"] else "zero-shot", str(entry["n"]), right])
        confusion.append([code, *map(str, counts.values())])
    settings = report["settings"] | {key: report[key] for key in ("base", "packs", "seconds", "real_time_factor")}
    return "\n".join([
        f"# Evaluation of {report['base']['name']} with {', '.join(packs) or 'no pack'}", "",
        "Percent, with the 95 % bootstrap interval over clips; mark-safe normaliser. Pipeline-aware: the right pipeline",
        "is given, the language tag is not. Agnostic: nothing is given. Of a language written without spaces, read CER.",
        "", *_table([*head, "pipeline", "clips", "routed right"], rows),
        "## With Whisper's normaliser, to compare with the literature", "", *_table(head, whisper),
        "## Routing: clips by language and agnostic route", "", *_table(["language", PRIMARY, *packs], confusion),
        f"Of the clips whose language a pipeline knows, {_percent(routing['accuracy'])} % went to the right pipeline, "
        f"{_percent(routing['language_accuracy'])} % got the right tag.", "", f"## Skipped: {len(report['skipped'])}", "",
        *(f"- `{row['source']}`: {row['reason']}" for row in report["skipped"]), "", "## Settings", "",
        *_table(["setting", "value"], [[key, f"`{json.dumps(value)}`"] for key, value in settings.items()]),
        *(["The command that makes it again:", "", "```sh", command, "```", ""] if command else []),
    ])  # fmt: skip


def _percent(rate: float | None, interval: Sequence[float] | None = None) -> str:
    if rate is None:
        return "–"
    return f"{100 * rate:.2f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [*(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)), ""]


def write_report(path: str | Path, evaluation: Evaluation, command: str | None = None) -> None:
    """Write PATH.json, PATH.md and PATH.clips.jsonl, the clips with the highest agnostic CER first; the folder is made.

    An ending .json of `path` is not doubled. Each file appears whole or not at all; a former report is replaced once all
    three are written. Raises RunError, which names the path, where that fails.
    """
    path = Path(path)
    path = path.with_suffix("") if path.suffix == ".json" else path
    rows = []
    for clip in evaluation.clips:
        (aware, _), (agnostic, length) = (tables_of([clip], mode)["marks"]["cer"][0].tolist() for mode in MODES)
        rows.append(asdict(clip) | {"characters": length, "pipeline_aware_errors": aware, "agnostic_errors": agnostic})
    rows.sort(key=lambda row: -row["agnostic_errors"] / max(row["characters"], 1))
    contents = {
        ".json": json.dumps(evaluation.report | {"command": command}, indent=1, ensure_ascii=False) + "\n",
        ".md": to_markdown(evaluation.report, command),
        ".clips.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as part:
            for ending, content in contents.items():
                Path(part, ending).write_text(content, encoding="utf-8")
            for ending in contents:
                os.replace(Path(part, ending), f"{path}{ending}")
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"Cannot write the report {path}: {reason}. Free some space or choose another place.") from error
