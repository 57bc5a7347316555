"""An evaluation on paper: Markdown and HTML to read, JSON to compute with, and the clips behind the
rates, worst first.
"""

import json
import os
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dualasr.audio.load import load_audio
from dualasr.audio.spectrogram import spectrogram_svg
from dualasr.errors import AudioError, DualasrError, RunError
from dualasr.evaluation.evaluate import ClipSound, Evaluation
from dualasr.evaluation.markdown import cell, markdown_table
from dualasr.evaluation.plots import rates_plot, reliability_plot
from dualasr.evaluation.report_sections import MODES, WorstClip, sections, title, worst_clips
from dualasr.evaluation.scoring import error_counts_by_sentence
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.alignment import words_of_clip

_WIDTH = 100  # columns of an alignment


def to_markdown(report: dict, command: str | None = None, clips: Sequence[dict] = ()) -> str:
    """A report to read: rates in percent with 95 % intervals, routing, settings, and the command
    that makes it again.

    `clips`: rows of PATH.clips.jsonl, worst first; the worst are shown with their alignment.
    """
    lines = [f"# {title(report)}", ""]
    for section in sections(report):
        if section.key == "whisper":  # the fine print comes after
            lines += _worst(worst_clips(report, clips))
        lines += [f"## {section.title}", "", section.text, ""]
        lines += markdown_table(section.head, section.rows) if section.head else []
    lines += (
        ["The command that makes it again:", "", "```sh", command, "```", ""] if command else []
    )
    return "\n".join(lines)


def _worst(clips: Sequence[WorstClip]) -> list[str]:
    if not clips:
        return []
    lines = [
        "## Worst clips",
        "",
        "As the agnostic mode wrote them, normalised; S substituted, D deleted, I inserted.",
        "",
    ]
    for clip in clips:
        lines += [
            f"{cell(clip.id)}: {cell(clip.note)}",
            "",
            "```text",
            *_side_by_side(clip.aligned),
            "```",
            "",
        ]
    return lines


def _side_by_side(aligned: Sequence[tuple[str, str, str]]) -> list[str]:
    """REF, HYP and the letter of each error in columns, wrapped at `_WIDTH`."""
    letters = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}
    lines, columns, used = [], [], 0
    for kind, ref, hyp in [*aligned, ("end", "", "")]:
        width = max(_columns(ref), _columns(hyp), 1) + 1
        if columns and (kind == "end" or used + width > _WIDTH):
            for name, cells in zip(("REF", "HYP", "   "), zip(*columns, strict=True), strict=True):
                lines.append(f"{name} {''.join(cells)}".rstrip())
            columns, used = [], 0
        if kind != "end":
            columns.append(
                [text + " " * (width - _columns(text)) for text in (ref, hyp, letters[kind])]
            )
            used += width
    return lines


def _columns(text: str) -> int:
    """Columns a terminal needs: none for a mark, two for a wide character."""
    return sum(
        (
            0
            if unicodedata.category(c)[0] in "MC" and unicodedata.category(c) != "Mc"
            else 2
            if unicodedata.east_asian_width(c) in "WF"
            else 1
        )
        for c in text
    )


def draw_worst(
    report: dict, rows: Sequence[dict], sounds: Sequence[ClipSound], model: DualWhisper | None
) -> dict[int, str]:
    """Draw the sound of the worst clips, with their words if there is a model.

    Args:
        report: The report of the evaluation.
        rows: Of PATH.clips.jsonl, worst first.
        sounds: Of the rows, in the same order; none, no pictures.
        model: What was evaluated, or None.

    Returns:
        SVG elements by the place of their row. A clip whose file can no longer be read has none.
    """
    found = {}
    for clip in worst_clips(report, rows) if sounds else ():
        sound = sounds[clip.place]
        try:
            samples = load_audio(sound.sound)
        except AudioError:
            continue
        words = () if model is None else _words(model, samples, sound)
        found[clip.place] = spectrogram_svg(samples, f"Spectrogram of {clip.id}", words)
    return found


def _words(
    model: DualWhisper, samples: np.ndarray, sound: ClipSound
) -> list[tuple[float, float, str]]:
    """The words with their times; none where they cannot be aligned: a report does without."""
    try:
        return [
            (word.start, word.end, word.word)
            for word in words_of_clip(model, samples, sound.windows)
        ]
    # torchaudio does not load beside a torch for CPUs alone
    except (DualasrError, ImportError, OSError, ValueError):
        return []


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    command: str | None = None,
    *,
    model: DualWhisper | None = None,
) -> None:
    """Write PATH.json, PATH.md, PATH.html and PATH.clips.jsonl, the clips with the highest agnostic
    CER first.

    The page shows the spectrograms of the worst clips whose files are still there; with the `model`
    that was evaluated, also the words where they were heard.

    The folder is made; an ending .json of `path` is not doubled. Each file appears whole or not at
    all; a former report is replaced once all are written. Raises RunError, which names the path,
    where that fails.
    """
    path = Path(path)
    path = path.with_suffix("") if path.suffix == ".json" else path
    rows = []
    for clip in evaluation.clips:
        errors = {}
        for mode in (mode for mode in MODES if getattr(clip, mode, None)):
            errors[f"{mode}_errors"], length = error_counts_by_sentence([clip], mode)["marks"][
                "cer"
            ][0].tolist()
        rows.append(asdict(clip) | {"characters": length} | errors)
    order = sorted(
        range(len(rows)), key=lambda i: -rows[i]["agnostic_errors"] / max(rows[i]["characters"], 1)
    )
    rows = [rows[i] for i in order]
    sounds = [evaluation.sounds[i] for i in order] if evaluation.sounds else []
    spectrograms = draw_worst(evaluation.report, rows, sounds, model)
    contents = {
        ".md": to_markdown(evaluation.report, command, rows),
        ".html": to_html(evaluation.report, command, rows, spectrograms),
        ".clips.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        # the last
        ".json": (
            json.dumps(evaluation.report | {"command": command}, indent=1, ensure_ascii=False)
            + "\n"
        ),
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
        raise RunError(
            f"Cannot write the report {path}: {reason}. Free some space or choose another place."
        ) from error


def to_html(
    report: dict,
    command: str | None = None,
    clips: Sequence[dict] = (),
    spectrograms: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """Render a page of all that `report.to_markdown` says, with plots. All text of the report is
    escaped.

    Args:
        report: The report of an `Evaluation`, or of a file PATH.json.
        command: What makes the report again. clips: Rows of PATH.clips.jsonl, worst first.
        spectrograms: SVG elements by the place of their clip in `clips`, for those of the worst
        that have one.

    Returns:
        HTML that needs nothing beside it.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    template = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    plots = {"rates": rates_plot(report), "calibration": reliability_plot(report)}
    expected = {
        code: entry["pipeline"] for code, entry in report["languages"].items() if entry["known"]
    }
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return page.render(
        title=title(report),
        sections=sections(report),
        plots={key: Markup(svg) for key, svg in plots.items() if svg},
        confusion=report["routing"]["confusion"],
        expected=expected,
        worst=worst_clips(report, clips),
        command=command,
        spectrograms={place: Markup(svg) for place, svg in spectrograms.items()},
        letters={"equal": "", "substitute": "S", "delete": "D", "insert": "I"},
    )
