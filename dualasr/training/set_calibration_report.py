"""Write a calibrated set of packs: a selector file, a table of before and after, and a plot.

No pack is changed.
"""

from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.evaluation.markdown import markdown_table, percent
from dualasr.model.dual_whisper import DualWhisper
from dualasr.packs.format import write_selector
from dualasr.training.calibrate_set import SetCalibration


def to_text(found: SetCalibration) -> str:
    """Return the settings and the measurements before and after, as Markdown."""
    sides, measured = (found.before, found.selector), found.measured
    floors = [
        (
            f"floor of {name}",
            *(f"{one.floors[name]:+.2f}" if name in one.floors else "none" for one in sides),
        )
        for name in found.selector.packs
        if any(name in one.floors for one in sides)
    ]
    rows = [
        ("beta", *(f"{one.beta:+.2f}" for one in sides)),
        *floors,
        ("no speech above", *(f"{one.no_speech:g}" for one in sides)),
        (
            "posterior",
            *(
                f"{one.posterior.weights[0]:.2f} x log-odds {one.posterior.offset:+.2f}"
                for one in sides
            ),
        ),
        ("routed right, %", *(percent(m["accuracy"]) for m in measured)),
        (
            "calibration error of the posterior, 10 bins of equal mass, %",
            *(percent(m["calibration"]["ece"]) for m in measured),
        ),
        ("decoded twice, %", *(percent(m["decoded_twice"]) for m in measured)),
        (
            "unknown clips accepted by packs, %",
            *(percent(m["false_accept_rate"]) for m in measured),
        ),
    ]
    clips = ", ".join(f"{code} {count}" for code, count in found.clips.items())
    lines = [
        (
            f"dev clips: {clips}; in languages nobody knows: {found.unknown}. All figures are of"
            " the audio fitted on."
        ),
        "",
        *markdown_table(("", "before", "after"), rows),
        "Clips by language and route, before and after:",
        "",
    ]
    first, last = (m["confusion"] for m in measured)
    cells = [
        (
            code,
            *(
                (
                    str(last[code][r])
                    if counts[r] == last[code][r]
                    else f"{counts[r]} -> {last[code][r]}"
                )
                for r in counts
            ),
        )
        for code, counts in first.items()
    ]
    lines += markdown_table(("language", *next(iter(first.values()))), cells)
    if found.offers:
        offers = [(f"{share:g}", percent(accuracy)) for share, accuracy in found.offers]
        lines += [
            "What other shares would cost:",
            "",
            *markdown_table(("--max_false_accept_rate", "routed right, %"), offers),
        ]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)]).rstrip()


def draw(found: SetCalibration, path: Path) -> None:
    """Plot the reliability of the posterior before and after.

    Every bin shows the mean posterior, the share of right routes, and its number of clips.

    Args:
        found: The calibrated set.
        path: The PNG file.

    Raises:
        RunError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, measured in zip(panels, ("before", "after"), found.measured, strict=True):
        bins = measured["calibration"]["bins"]
        places = range(len(bins))
        axes.bar(
            places,
            [b["accuracy"] for b in bins],
            color="#3b82c4",
            alpha=0.45,
            label="share of right routes",
        )
        axes.plot(
            places,
            [b["confidence"] for b in bins],
            "o",
            color="#d9622b",
            label="mean posterior of the route",
        )
        for place, b in enumerate(bins):
            axes.annotate(f"n={b['n']}", (place, 0.02), ha="center", fontsize=8)
        axes.set_xticks(
            places,
            [f"{b['low']:.3f} to {b['high']:.3f}" for b in bins],
            rotation=55,
            ha="right",
            fontsize=8,
        )
        axes.set_title(
            f"{title}: {percent(measured['accuracy'])} % routed right, "
            f"calibration error {percent(measured['calibration']['ece'])} %",
            fontsize=10,
        )
        axes.set_ylim(0, 1.04)
    figure.supxlabel(
        "posterior of the route, from the least sure tenth of the dev clips to the surest",
        fontsize=9,
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    with atomic_file(path) as part:
        figure.savefig(part, dpi=130, format="png")


def write_calibration(path: Path, found: SetCalibration, model: DualWhisper, command: str) -> None:
    """Write the selector file, with a record of what it was fitted on.

    Args:
        path: The JSON file.
        found: The calibrated set.
        model: The base and the packs, which the record names.
        command: The command that made it, for the record.

    Raises:
        RunError: The file cannot be written.
    """
    sides = [
        {key: side[key] for key in ("accuracy", "confusion", "decoded_twice", "false_accept_rate")}
        | {"ece": side["calibration"]["ece"]}
        for side in found.measured
    ]
    write_selector(
        path,
        found.selector,
        {
            "command": command,
            "base": {"name": model.backbone.name, "checksum": model.backbone.checksum},
            "packs": {name: list(pack.info.languages) for name, pack in model.packs.items()},
            "dev": found.clips,
            "unknown": found.unknown,
            "before": sides[0],
            "after": sides[1],
        },
    )
