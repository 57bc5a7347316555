"""Writing reports: Markdown and HTML to read, JSON to compute with, and the clips behind the rates,
worst first.
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

from dualasr.atomic import cannot_write
from dualasr.audio.load import load_audio
from dualasr.audio.spectrogram import spectrogram_svg
from dualasr.errors import AudioError, DualasrError
from dualasr.evaluation.evaluate import ClipSound, Evaluation
from dualasr.evaluation.markdown import cell, markdown_table
from dualasr.evaluation.plots import rates_plot, reliability_plot
from dualasr.evaluation.report_sections import MODES, WorstClip, sections, title, worst_clips
from dualasr.evaluation.scoring import ClipResult, error_counts_by_sentence
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.alignment import words_of_clip

_WIDTH = 100  # columns of an alignment
_LETTERS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}


def to_markdown(report: dict, command: str | None = None, clips: Sequence[dict] = ()) -> str:
    """Write a report as Markdown.

    Args:
        report: "report" of an `Evaluation`, or of a file PATH.json.
        command: The command that makes the report again; None leaves it out.
        clips: Rows of PATH.clips.jsonl, worst first; the worst are shown with their alignment.

    Returns:
        Markdown.
    """
    lines = [f"# {title(report)}", ""]
    for section in sections(report):
        if section.key == "whisper":  # the worst clips come before the details
            lines += _worst(worst_clips(report, clips))
        lines += [f"## {section.title}", "", section.text, ""]
        lines += markdown_table(section.head, section.rows) if section.head else []
    if command:
        lines += ["This command makes the report again:", "", "```sh", command, "```", ""]
    return "\n".join(lines)


def _worst(clips: Sequence[WorstClip]) -> list[str]:
    """Return the section of the worst clips."""
    if not clips:
        return []
    lines = [
        "## Worst clips",
        "",
        "Clips with the highest character error rates in the agnostic mode, normalised. REF is the"
        " reference, HYP the transcript. S: substituted, D: deleted, I: inserted.",
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
    """Return lines of REF, of HYP and of the letters of errors, in columns, at most _WIDTH wide."""
    lines: list[str] = []
    columns: list[list[str]] = []
    used = 0
    for kind, ref, hyp in [*aligned, ("end", "", "")]:
        width = max(_columns(ref), _columns(hyp), 1) + 1
        if columns and (kind == "end" or used + width > _WIDTH):
            for name, cells in zip(("REF", "HYP", "   "), zip(*columns, strict=True), strict=True):
                lines.append(f"{name} {''.join(cells)}".rstrip())
            columns, used = [], 0
        if kind != "end":
            columns.append(
                [text + " " * (width - _columns(text)) for text in (ref, hyp, _LETTERS[kind])]
            )
            used += width
    return lines


def _columns(text: str) -> int:
    """Return how many columns a text takes: none for a mark, two for a wide character."""
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
        rows: Rows of PATH.clips.jsonl, worst first.
        sounds: Sounds of the rows, in the same order; () draws nothing.
        model: What was evaluated; None draws no words.

    Returns:
        SVG elements by the index of their row. A clip whose file can no longer be read has none.
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
    """Return the words of a clip with start and end in seconds; none if they cannot be aligned."""
    try:
        return [
            (word.start, word.end, word.word)
            for word in words_of_clip(model, samples, sound.windows)
        ]
    # torchaudio does not load with a torch that is built for CPUs only
    except (DualasrError, ImportError, OSError, ValueError):
        return []


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    command: str | None = None,
    *,
    model: DualWhisper | None = None,
) -> None:
    """Write PATH.json, PATH.md, PATH.html and PATH.clips.jsonl, each whole or not at all.

    The clips are sorted, those with the highest agnostic CER first. The HTML page shows
    spectrograms of the worst clips whose files still exist.

    Args:
        path: PATH, with or without the ending .json; its folder is made. An existing report is
            replaced once all files are written.
        evaluation: What `evaluate` returned.
        command: The command that makes the report again; None leaves it out.
        model: What was evaluated, to write the words at their times above the spectrograms; None
            leaves them out.

    Raises:
        RunError: The files cannot be written.
    """
    path = Path(path)
    path = path.with_suffix("") if path.suffix == ".json" else path
    report = evaluation.report
    rows = [_clip_row(clip) for clip in evaluation.clips]
    order = sorted(
        range(len(rows)), key=lambda i: -rows[i]["agnostic_errors"] / max(rows[i]["characters"], 1)
    )
    rows = [rows[i] for i in order]
    sounds = [evaluation.sounds[i] for i in order] if evaluation.sounds else []
    spectrograms = draw_worst(report, rows, sounds, model)
    contents = {
        ".md": to_markdown(report, command, rows),
        ".html": to_html(report, command, rows, spectrograms),
        ".clips.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        # written last: if it is there, the others are
        ".json": json.dumps(report | {"command": command}, indent=1, ensure_ascii=False) + "\n",
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as part:
            for ending, content in contents.items():
                Path(part, ending).write_text(content, encoding="utf-8")
            for ending in contents:
                os.replace(Path(part, ending), f"{path}{ending}")
    except OSError as error:
        raise cannot_write(f"the report {path}", error) from error


def _clip_row(clip: ClipResult) -> dict:
    """Return a row of PATH.clips.jsonl: the clip, its length and its errors in characters."""
    errors, length = {}, 0
    for mode in MODES:
        [counts] = error_counts_by_sentence([clip], mode)["marks"]["cer"].tolist()
        errors[f"{mode}_errors"], length = counts
    return asdict(clip) | {"characters": length} | errors


def to_html(
    report: dict,
    command: str | None = None,
    clips: Sequence[dict] = (),
    spectrograms: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """Write a report as an HTML page: the content of `to_markdown`, with plots.

    All text of the report is escaped.

    Args:
        report: "report" of an `Evaluation`, or of a file PATH.json.
        command: The command that makes the report again; None leaves it out.
        clips: Rows of PATH.clips.jsonl, worst first; the worst are shown with their alignment.
        spectrograms: SVG elements by the index of their clip in `clips`.

    Returns:
        A page that needs no other file.
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
        letters=_LETTERS,
    )
