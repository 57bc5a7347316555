"""What adding languages one after the other costs: the matrix of error rates, and the measures of
continual learning.

Task 0 is the mean of the base's languages, task j the mean of the languages learnt at step j; R_kj
is the rate on task j after step k. As CL-MASR computes them (Della Libera et al. 2023, arXiv
2310.16931):

    AWER_k  mean of R_kj over j <= k
    BWT_k   mean of R_jj - R_kj over j < k: negative is forgetting
    IM_k    R_kk less the rate on task k of training on all tasks jointly
    FWT_k   the rate on task k of training on it alone, less R_kk
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dualasr.atomic import atomic_file
from dualasr.errors import RunError
from dualasr.evaluation.markdown import markdown_table
from dualasr.evaluation.plots import save_figure
from dualasr.evaluation.scoring import MODES

MEASURES = ("cer", "wer")
TITLES = {
    "pipeline_aware": "Pipeline known",
    "group_aware": "Old or new known",
    "agnostic": "Nothing known",
}


@dataclass(frozen=True)
class Matrix:
    """Error rates after every step: fractions, None where a language was not evaluated.

    `languages` are the columns, the base's first; `learnt` is the step of each, 0 for the base's.
    `rates` and `intervals` hold, by mode and by measure, a row for each step. `decoded` counts by
    step the windows that each pipeline decoded, `confusion` the clips by language and route. `grow`
    is how packs took up languages: a pack each, one that is shared, or all jointly.
    """

    steps: tuple[str, ...]
    languages: tuple[str, ...]
    learnt: tuple[int, ...]
    rates: dict
    intervals: dict
    accuracy: tuple[float | None, ...]  # of the routing, by step
    decoded: tuple[dict[str, int], ...]
    confusion: tuple[dict[str, dict[str, int]], ...] = ()
    grow: Literal["pack", "shared", "joint"] = "pack"

    @property
    def is_whole(self) -> bool:
        """Whether every language has been learnt."""
        return max(self.learnt, default=0) < len(self.steps)

    def table(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """(steps, languages), NaN where there is no rate."""
        return np.array(self.rates[mode][measure], dtype=float)

    def change(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """By how much a rate is above that of the step at which its language was learnt: (steps,
        languages), NaN before.
        """
        table, learnt = self.table(mode, measure), np.array(self.learnt)
        change = table - table[learnt.clip(max=len(table) - 1), range(len(learnt))]
        change[np.arange(len(table))[:, None] < learnt] = np.nan
        return change

    def tasks(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """R of the module's equations: (steps, tasks), a task for each step, NaN for one without
        languages.
        """
        table, learnt = self.table(mode, measure), np.array(self.learnt)
        nothing = np.full(len(table), np.nan)
        return np.stack(
            [
                table[:, learnt == k].mean(1) if k in learnt else nothing
                for k in range(len(self.steps))
            ],
            1,
        )

    @property
    def first(self) -> int:
        """The first task: 1 where no language of the base was evaluated."""
        return min(self.learnt, default=0)


def matrix_of(
    reports: Sequence[Mapping],
    steps: Sequence[str],
    learnt: Mapping[str, int],
    grow: Literal["pack", "shared", "joint"] = "pack",
) -> Matrix:
    """Of evaluation reports (evaluation.py), one for each step; `learnt` is the step of each
    language, in column order.

    A language learnt later than the last step is shown as it was before.
    """
    languages = tuple(sorted(learnt, key=learnt.get))

    def collect(key: str) -> dict:
        return {
            mode: {
                m: tuple(
                    tuple(row.get(code, {}).get(mode, {}).get(m + key) for code in languages)
                    for row in (report["languages"] for report in reports)
                )
                for m in MEASURES
            }
            for mode in MODES
        }

    return Matrix(
        tuple(steps),
        languages,
        tuple(learnt[code] for code in languages),
        collect(""),
        collect("_interval"),
        tuple(report["routing"]["accuracy"] for report in reports),
        tuple(report["decoded"] for report in reports),
        tuple(report["routing"]["confusion"] for report in reports),
        grow,
    )


def steps_of(reports: Sequence[Mapping]) -> tuple[list[str], dict[str, int]]:
    """What `matrix_of` is to be given besides, of evaluations with more and more packs: the steps,
    named by the packs that came, and the step at which each language was first known.
    """
    steps, before = [], set()
    for report in reports:
        names = {pack["name"]: None for pack in report["packs"]}
        steps.append(
            "+ " + ", ".join(new)
            if (new := [name for name in names if name not in before])
            else "base"
        )
        before |= set(names)
    knows = {
        code: [report["languages"].get(code, {}).get("known", False) for report in reports]
        for code in reports[-1]["languages"]
    }
    return steps, {
        code: known.index(True) if any(known) else len(reports) for code, known in knows.items()
    }


def awer(matrix: Matrix, mode: str = "pipeline_aware", measure: str = "wer") -> list[float]:
    """Average rate over the tasks learnt so far, by step (NaN where there is none)."""
    tasks, first = matrix.tasks(mode, measure), matrix.first
    return [
        float(tasks[k, first : k + 1].mean()) if k >= first else float("nan")
        for k in range(len(tasks))
    ]


def bwt(matrix: Matrix, mode: str = "pipeline_aware", measure: str = "wer") -> list[float]:
    """Backward transfer by step: negative is forgetting. At the first task nothing can be forgotten
    (NaN).
    """
    tasks, first = matrix.tasks(mode, measure), matrix.first
    lost = [np.diag(tasks)[first:k] - tasks[k, first:k] for k in range(len(tasks))]
    return [float(row.mean()) if len(row) else float("nan") for row in lost]


def im(
    matrix: Matrix, joint: Matrix, mode: str = "pipeline_aware", measure: str = "wer"
) -> list[float]:
    """Intransigence by step: what learning one after the other costs the newest task beside `joint`
    training (last step).
    """
    return _beside(matrix, joint, [len(joint.steps) - 1] * len(joint.languages), mode, measure)


def fwt(
    matrix: Matrix, alone: Matrix, mode: str = "pipeline_aware", measure: str = "wer"
) -> list[float]:
    """Forward transfer by step: what the newest task gains beside training on it `alone` (a pack
    for each language).
    """
    return [-value for value in _beside(matrix, alone, alone.learnt, mode, measure)]


def _beside(
    matrix: Matrix, other: Matrix, rows: Sequence[int], mode: str, measure: str
) -> list[float]:
    """R_kk less the mean of the other's rates on the languages of task k, each of its row; step 0
    has none.
    """
    theirs, tasks = other.table(mode, measure), matrix.tasks(mode, measure)
    values = [float("nan")]
    for k in range(1, len(matrix.steps)):
        mine = [
            code for code, step in zip(matrix.languages, matrix.learnt, strict=True) if step == k
        ]
        places = [other.languages.index(code) for code in mine]
        values.append(float(tasks[k, k] - np.mean([theirs[rows[i], i] for i in places])))
    return values


@dataclass(frozen=True)
class Regression:
    """A language that a later step made worse. Rates are fractions."""

    language: str
    step: str
    before: float
    after: float

    def __str__(self) -> str:
        points = 100 * (self.after - self.before)
        return (
            f"{self.language} worsened by {points:.2f} points after {self.step}:"
            f" {_pct(self.before)} to {_pct(self.after)} %"
        )


def regressions(matrix: Matrix, most: float) -> list[Regression]:
    """Languages whose WER, nothing known, is more than `most` percentage points above what it was
    when they were learnt, at the first such step.
    """
    table, change, found = matrix.table("agnostic", "wer"), matrix.change("agnostic", "wer"), []
    for i, code in enumerate(matrix.languages):
        worse = np.flatnonzero(100 * change[:, i] > most + 1e-9)
        if len(worse):
            k = int(worse[0])
            found.append(
                Regression(
                    code, matrix.steps[k], float(table[matrix.learnt[i], i]), float(table[k, i])
                )
            )
    return found


def _pct(rate: float) -> str:
    return "" if rate is None or np.isnan(rate) else f"{100 * rate:.1f}"


def to_markdown(
    matrix: Matrix, command: str, joint: Matrix | None = None, alone: Matrix | None = None
) -> str:
    """The matrix to read, with IM and FWT where there is a run to compare with."""
    lines = [
        "# After every added language",
        "",
        (
            "Rates in percent, mark-safe normaliser; in brackets the change since the "
            "language was learnt, where there is one; *zero-shot* before."
        ),
        "",
    ]
    for mode in ("pipeline_aware", "agnostic"):
        lines += [f"## {TITLES[mode]}: CER", "", *_rates(matrix, mode)]
    lines += ["## At the end", "", *_last(matrix)]
    if matrix.confusion:
        last = matrix.confusion[-1]
        lines += [
            "Clips by language and route, nothing known:",
            "",
            *markdown_table(
                ("language", *next(iter(last.values()))),
                [(code, *map(str, last[code].values())) for code in last],
            ),
        ]
    lines += ["## Continual learning", ""]
    measures: list[tuple[str, Callable]] = [("AWER", awer), ("BWT", bwt)]
    if joint is not None:
        measures.append(("IM", lambda *asked: im(asked[0], joint, *asked[1:])))
    if alone is not None:
        measures.append(("FWT", lambda *asked: fwt(asked[0], alone, *asked[1:])))
    head = [
        "after",
        *(
            f"{name}, {words}"
            for name, _ in measures
            for words in ("pipeline known", "nothing known")
        ),
    ]
    columns = [
        measure(matrix, mode, "wer")
        for _, measure in measures
        for mode in ("pipeline_aware", "agnostic")
    ]
    head += ["routed right", "windows decoded"]
    rows = []
    for k, step in enumerate(matrix.steps):
        right = matrix.accuracy[k]
        rows.append(
            (
                step,
                *(_pct(column[k]) for column in columns),
                "" if right is None else f"{100 * right:.1f} %",
                ", ".join(f"{name} {count}" for name, count in matrix.decoded[k].items()),
            )
        )
    lines += markdown_table(head, rows)
    lines += [
        "Points of WER. AWER is the average over the tasks learnt so far, the base's languages"
        " together being one; BWT what the earlier tasks gained since (negative: forgotten)"
        + (", IM what the newest lost beside joint training" if joint is not None else "")
        + (", FWT what it gained beside training alone" if alone is not None else "")
        + "."
    ]
    if matrix.grow == "pack":
        lines += [
            "With a pack for each language, BWT with the pipeline known is 0 by construction, and"
            " so is FWT."
        ]
    return "\n".join([*lines, "", "![](matrix.png)", "", f"Made by `{command}`.", ""])


def _rates(matrix: Matrix, mode: str) -> list[str]:
    table, change, rows = matrix.table(mode), matrix.change(mode), []
    for k, step in enumerate(matrix.steps):
        cells = []
        for rate, moved in zip(table[k], change[k], strict=True):
            if np.isnan(moved):
                cells.append(f"*{_pct(rate)}*" if not np.isnan(rate) else "")
            else:
                cells.append(
                    _pct(rate) + (f" ({100 * moved:+.1f})" if abs(moved) >= 0.0005 else "")
                )
        rows.append((step, *cells))
    return markdown_table(("after", *matrix.languages), rows)


def _last(matrix: Matrix) -> list[str]:
    head, rows = (
        (
            "language",
            "learnt",
            *(f"{TITLES[mode].lower()}: {m.upper()}" for mode in MODES for m in MEASURES),
        ),
        [],
    )
    for i, code in enumerate(matrix.languages):
        cells = []
        for mode in MODES:
            for measure in MEASURES:
                rate = matrix.rates[mode][measure][-1][i]
                low, high = matrix.intervals[mode][measure][-1][i] or (None, None)
                cells.append(
                    f"{_pct(rate)} [{_pct(low)}, {_pct(high)}]" if rate is not None else ""
                )
        rows.append(
            (
                code,
                matrix.steps[matrix.learnt[i]] if matrix.learnt[i] < len(matrix.steps) else "",
                *cells,
            )
        )
    return markdown_table(head, rows)


def draw(matrix: Matrix, path: Path) -> None:
    """A heat map for each of two modes: CER, coloured by the change since the language was learnt;
    zero-shot in grey.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, languages = len(matrix.steps), len(matrix.languages)
    crowded = languages > 14
    width, height = (
        max(6.0, 1.4 + 0.62 * languages),
        1.6 + 2 * (0.36 if crowded else 0.42) * (steps + 1.2),
    )
    figure, panels = pyplot.subplots(
        2, 1, figsize=(width, height), layout="constrained", sharex=True
    )
    changes = [100 * matrix.change(mode) for mode in ("pipeline_aware", "agnostic")]
    most = max(1.0, *(np.nanmax(np.abs(change)) for change in changes))
    for axes, mode, change in zip(panels, ("pipeline_aware", "agnostic"), changes, strict=True):
        table = 100 * matrix.table(mode)
        axes.set_facecolor("0.88")
        image = axes.imshow(
            np.ma.masked_invalid(change), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto"
        )
        for k, i in np.ndindex(table.shape):
            if np.isnan(table[k, i]):
                continue
            moved = change[k, i]
            text = f"{table[k, i]:.1f}" + (
                f"\n{moved:+.1f}" if not np.isnan(moved) and abs(moved) >= 0.05 else ""
            )
            colour = "0.45" if np.isnan(moved) else "white" if abs(moved) > 0.7 * most else "black"
            axes.text(
                i, k, text, ha="center", va="center", fontsize=7, color=colour, linespacing=0.9
            )
        axes.set_yticks(range(steps), matrix.steps)
        axes.set_xticks(range(languages), matrix.languages, rotation=60 if crowded else 0)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xticks(np.arange(languages) - 0.5, minor=True)
        axes.set_yticks(np.arange(steps) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        axes.set_title(f"{TITLES[mode]}: CER after every step, %", fontsize=10, loc="left")
    figure.colorbar(image, ax=panels, label="points since learnt", shrink=0.7, aspect=30)
    save_figure(figure, path)


def write_matrix(folder: Path, matrix: Matrix, command: str, **more) -> None:
    """matrix.json, matrix.md and matrix.png in a folder, each whole or not at all; `more` is for
    `to_markdown`.

    Raises RunError where they cannot be written.
    """
    measures = {
        name: {
            mode: [None if np.isnan(value) else value for value in of(matrix, mode)]
            for mode in MODES
        }
        for name, of in (("awer", awer), ("bwt", bwt))
    }
    texts = {
        "matrix.json": json.dumps(
            {"command": command, **asdict(matrix), **measures}, indent=1, ensure_ascii=False
        ),
        "matrix.md": to_markdown(matrix, command, **more),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    draw(matrix, folder / "matrix.png")


def read_matrix(path: Path) -> Matrix:
    """A matrix.json, or that of a run's folder. Raises RunError."""
    path = path / "matrix.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tuples = {
            key: tuple(found[key])
            for key in ("steps", "languages", "learnt", "accuracy", "decoded")
        }
        confusion, grow = tuple(found.get("confusion", ())), found.get("grow", "pack")
        return Matrix(
            **tuples,
            rates=found["rates"],
            intervals=found["intervals"],
            confusion=confusion,
            grow=grow,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is no matrix of a sequence ({error}); wanted the matrix.json of"
            " add_sequence.py."
        ) from error


def read_finished(path: Path, grow: str, languages: Collection[str]) -> Matrix:
    """`read_matrix` of a run to compare with. Raises RunError where it is not finished, grew in
    another way, or lacks one of the languages (codes).
    """
    matrix = read_matrix(path)
    if matrix.grow != grow:
        raise RunError(f"{path} is a --grow {matrix.grow} run; wanted one of --grow {grow}.")
    if not matrix.is_whole:
        raise RunError(
            f"{path} is not finished: it ends after {matrix.steps[-1]}; start its command again, it"
            " goes on."
        )
    if missing := sorted(set(languages) - set(matrix.languages)):
        raise RunError(
            f"{path} has no {', '.join(missing)}, only {', '.join(matrix.languages)}; name a run"
            " over the same languages."
        )
    return matrix
