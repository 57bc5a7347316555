"""Plots of reports: error rates with their intervals, reliability; as PNG files or inline SVG."""

from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.audio.spectrogram import figure_svg
from dualasr.evaluation.report_sections import MODES, modes_of

_STYLES = {
    "pipeline_aware": ("o", "#3b82c4"),
    "group_aware": ("D", "#2a9d6f"),
    "agnostic": ("s", "#d9622b"),
}
_BLUE = "#3b82c4"  # all of them readable on black and on white


def save_figure(figure, path: Path) -> None:
    """A pyplot figure as PNG, whole or not at all; it is closed."""
    from matplotlib import pyplot

    with atomic_file(path) as part:
        figure.savefig(part, dpi=130)
    pyplot.close(figure)


def rates_plot(report: dict) -> str | None:
    """CER of every language and mode with its interval, a row a language."""
    from matplotlib.figure import Figure

    modes, entries = modes_of(report), [*report["languages"].items(), ("mean", report["mean"])]
    figure = Figure(figsize=(6.4, 1.3 + 0.16 * len(modes) * len(entries)), layout="constrained")
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
    """Posterior against accuracy, a dot a bin whose area grows with its clips."""
    from matplotlib.figure import Figure

    bins = (report["routing"].get("calibration") or {}).get("bins")
    if not bins:
        return None
    figure = Figure(figsize=(4.2, 4), layout="constrained")
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
        ylabel="share of right routes",
    )
    axes.grid(alpha=0.4)
    return figure_svg(
        figure,
        "Reliability: posterior against share of right routes, number of clips beside each dot",
    )
