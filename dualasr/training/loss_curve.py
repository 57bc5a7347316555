"""The losses of a run: the plot loss.png, and whether they say that the run is in trouble."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dualasr.evaluation.plots import new_figure, save_figure

LEAST_STEPS = 100  # a run is not judged before
_BLUE, _ORANGE = "#3b82c4", "#d9622b"  # can be seen on black and on white


def trouble(history: Sequence[Mapping[str, float]], steps: int) -> str | None:
    """Say why a run should be stopped.

    - The loss is no number.
    - The loss rose: over the last 50 steps it is more than twice as high as it was at its lowest,
      and the run has lost more than half of what it had won.
    - Half of the steps are done, and nearly every character on dev is still wrong.

    Args:
        history: What was logged, as transformers' TrainerState keeps it: rows with "step", and
            "loss" or "dev_cer".
        steps: Steps of the whole run.

    Returns:
        The reason as a clause, or None.
    """
    losses = [row["loss"] for row in history if "loss" in row]
    if losses and not math.isfinite(losses[-1]):
        return f"the loss is {losses[-1]}"
    step = max((int(row["step"]) for row in history), default=0)
    if step < LEAST_STEPS:
        return None
    means = [(a + b) / 2 for a, b in zip(losses, losses[1:], strict=False)]
    if means and means[-1] > max(2 * min(means), losses[0] / 2):
        return f"the loss rose from {min(means):.2f} to {means[-1]:.2f}"
    rates = [row["dev_cer"] for row in history if "dev_cer" in row]
    if rates and 2 * step >= steps and min(rates) > 0.95 and step >= 2 * LEAST_STEPS:
        return f"it has learnt nothing: of the characters of dev {rates[-1]:.0%} are wrong"
    return None


def draw_loss_curve(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the losses and dev CER over the steps.

    Args:
        history: What was logged, as for `trouble`.
        path: File of the plot, PNG.

    Raises:
        RunError: The file cannot be written.
    """
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    losses = [(row["step"], row["loss"]) for row in history if "loss" in row]
    rates = [(row["step"], 100 * row["dev_cer"]) for row in history if "dev_cer" in row]
    axes.plot(*zip(*losses, strict=True) if losses else ((), ()), color=_BLUE)
    axes.set(xlabel="step", yscale="log")
    axes.set_ylabel("loss (logarithmic)", color=_BLUE)
    if rates:
        right = axes.twinx()
        right.plot(*zip(*rates, strict=True), color=_ORANGE, marker="o")
        right.annotate(
            f"{rates[-1][1]:.1f} %",
            rates[-1],
            xytext=(0, 7),
            textcoords="offset points",
            ha="right",
            color=_ORANGE,
        )
        right.set_ylim(0, max(100.0, *(rate for _, rate in rates)))
        right.set_ylabel("dev CER of the CTC head, %", color=_ORANGE)
    axes.spines["top"].set_visible(False)
    save_figure(figure, path)
