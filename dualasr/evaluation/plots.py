"""Plots of reports: PNG files and SVG elements.

All are drawn on a `matplotlib.figure.Figure`, without pyplot: no backend is chosen for the whole
process, and no figure is left open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dualasr.atomic import atomic_file
from dualasr.audio.spectrogram import figure_svg
from dualasr.evaluation.report_sections import MODES, modes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_STYLES = {
    "pipeline_aware": ("o", "#3b82c4"),
    "group_aware": ("D", "#2a9d6f"),
    "agnostic": ("s", "#d9622b"),
}
_BLUE = "#3b82c4"  # can be seen on black and on white, as all colours here


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that fits its contents into its size.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, with 130 dots per inch.

    Args:
        figure: The figure.
        path: The file.

    Raises:
        RunError: The file cannot be written.
    """
    with atomic_file(path) as part:
        figure.savefig(part, dpi=130, format="png")


def rates_plot(report: dict) -> str:
    """Return an SVG of the CER of every language and mode with its interval, one row a language."""
    modes, entries = modes_of(report), [*report["languages"].items(), ("mean", report["mean"])]
    figure = new_figure(6.4, 1.3 + 0.16 * len(modes) * len(entries))
    axes = figure.subplots()
    for k, mode in enumerate(modes):
        marker, colour = _STYLES[mode]
        for row, (_, entry) in enumerate(entries):
            if (rate := entry[mode]["cer"]) is None:
                continue
            low, high = entry[mode]["cer_interval"] or (rate, rate)
            place = row + 0.22 * (k - (len(modes) - 1) / 2)
            axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6)
            axes.plot(100 * rate, place, marker, color=colour, markersize=5)
        axes.plot([], [], marker, color=colour, markersize=5, label=MODES[mode])
    axes.set_yticks(range(len(entries)), [code for code, _ in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("CER, %, with the 95 % interval")
    axes.grid(axis="x", alpha=0.4)
    figure.legend(loc="outside upper center", ncols=len(modes), frameon=False)
    return figure_svg(figure, "CER by language and mode; the numbers are in the table")


def reliability_plot(report: dict) -> str | None:
    """Return an SVG of posterior against accuracy, or None without such numbers.

    There is one dot a bin; its area grows with the number of its clips.
    """
    bins = (report["routing"].get("calibration") or {}).get("bins")
    if not bins:
        return None
    figure = new_figure(4.2, 4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], linestyle="--", color="#888888", linewidth=1)
    confidence, accuracy, clips = zip(
        *((b["confidence"], b["accuracy"], b["n"]) for b in bins), strict=True
    )
    axes.plot(confidence, accuracy, color=_BLUE, linewidth=1)
    axes.scatter(
        confidence, accuracy, s=[20 + 180 * n / max(clips) for n in clips], color=_BLUE, alpha=0.75
    )
    for x, y, n in zip(confidence, accuracy, clips, strict=True):
        axes.annotate(
            str(n), (x, y), textcoords="offset points", xytext=(0, 9), ha="center", fontsize=8
        )
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.09),
        xlabel="posterior of the chosen route",
        ylabel="share of clips routed right",
    )
    axes.grid(alpha=0.4)
    return figure_svg(
        figure,
        "Reliability: posterior against the share of clips routed right, with the number of clips",
    )


def draw_matrix(
    path: Path,
    steps: Sequence[str],
    languages: Sequence[str],
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Draw error rates after every step as heat maps, one below the other, in a PNG file.

    Cells are coloured by the change since the language was learnt; rates before that are grey.

    Args:
        path: The file.
        steps: Names of the steps, the rows.
        languages: Codes of the languages, the columns.
        panels: By title, rates in percent and their changes in points, both of shape (steps,
            languages), NaN where there is none.

    Raises:
        RunError: The file cannot be written.
    """
    crowded = len(languages) > 14
    row_height = 0.36 if crowded else 0.42
    figure = new_figure(
        max(6.0, 1.4 + 0.62 * len(languages)), 1.6 + 2 * row_height * (len(steps) + 1.2)
    )
    rows = figure.subplots(len(panels), 1, sharex=True)
    limit = max(1.0, *(np.nanmax(np.abs(change)) for _, change in panels.values()))
    for axes, (title, (rates, change)) in zip(rows, panels.items(), strict=True):
        image = _heat_map(axes, rates, change, limit)
        axes.set_yticks(range(len(steps)), steps)
        axes.set_xticks(range(len(languages)), languages, rotation=60 if crowded else 0)
        axes.tick_params(length=0, labelsize=8)
        axes.set_title(title, fontsize=10, loc="left")
    figure.colorbar(image, ax=rows, label="points since learnt", shrink=0.7, aspect=30)
    save_figure(figure, path)


def _heat_map(axes: Axes, rates: np.ndarray, change: np.ndarray, limit: float) -> AxesImage:
    """Draw one panel of `draw_matrix`; the colours end at +-limit points."""
    axes.set_facecolor("0.88")
    image = axes.imshow(
        np.ma.masked_invalid(change), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"
    )
    for k, i in np.argwhere(~np.isnan(rates)).tolist():
        moved = change[k, i]
        text, colour = f"{rates[k, i]:.1f}", "0.45"
        if not np.isnan(moved):
            text += f"\n{moved:+.1f}" if abs(moved) >= 0.05 else ""
            colour = "white" if abs(moved) > 0.7 * limit else "black"
        axes.text(i, k, text, ha="center", va="center", fontsize=7, color=colour, linespacing=0.9)
    # white lines between the cells
    axes.set_xticks(np.arange(rates.shape[1]) - 0.5, minor=True)
    axes.set_yticks(np.arange(rates.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    return image


def draw_regression(
    steps: Sequence[Mapping], path: Path, *, old: Collection[str], new: Collection[str]
) -> None:
    """Draw the CER of every language after each step as lines, in a PNG file.

    Args:
        steps: Reports, each with the name of its "step".
        path: The file.
        old: Codes of the base's languages.
        new: Codes of the added languages, drawn as thicker lines.

    Raises:
        RunError: The file cannot be written.
    """
    figure = new_figure(8, 4.5)
    axes = figure.subplots()
    for k, code in enumerate([*old, *new]):
        for mode, style in (("pipeline_aware", "-"), ("agnostic", ":")):
            rates = [100 * step["languages"][code][mode]["cer"] for step in steps]
            axes.plot(
                range(len(steps)),
                rates,
                style,
                color=f"C{k}",
                marker="o",
                markersize=4,
                linewidth=2.5 if code in new else 1.2,
                label=code if style == "-" else None,
            )
    axes.set_xticks(range(len(steps)), [step["step"] for step in steps])
    axes.set(ylabel="CER, %", title="Test CER after each added language")
    axes.set_ylim(bottom=0)
    axes.legend(
        title="solid: pipeline known\ndotted: nothing known",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    axes.grid(alpha=0.3)
    save_figure(figure, path)
