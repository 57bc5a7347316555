"""Continual learning: error rates after every added language, and what earlier languages lost.

Task 0 is the mean of the base's languages; task j is the mean of the languages learnt at step j.
R_kj is the error rate of task j after step k. The measures are those of CL-MASR (Della Libera et
al. 2023, arXiv 2310.16931):

    AWER_k   average error rate: mean of R_kj over j <= k
    BWT_k    backward transfer: mean of R_jj - R_kj over j < k; negative is forgetting
    IM_k     intransigence: R_kk minus the rate of task k after training on all tasks jointly
    FWT_k    forward transfer: the rate of task k after training on it alone, minus R_kk
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
from dualasr.evaluation.plots import draw_matrix
from dualasr.evaluation.scoring import MODES

Growth = Literal["pack", "shared", "joint"]
MEASURES = ("cer", "wer")
TITLES = {
    "pipeline_aware": "Pipeline known",
    "group_aware": "Old or new known",
    "agnostic": "Nothing known",
}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Error rates of all languages after every step.

    Attributes:
        steps: Names of the steps; the first is the base without packs.
        languages: Codes of the languages, the base's first.
        learnt: The step at which each language was learnt, 0 for the base's.
        rates: By mode and by measure ("cer", "wer"), a row for each step with a rate for each
            language: fractions, None where a language was not evaluated.
        intervals: Likewise the 95 % intervals, [low, high] or None.
        accuracy: For each step, the share of clips that were routed right; None if not known.
        decoded: For each step, the number of windows that each pipeline decoded.
        confusion: For each step, the number of clips by language and route.
        grow: How languages were added: "pack" (a pack for each), "shared" (one pack learns one
            after the other), "joint" (one pack learns all together).
    """

    steps: tuple[str, ...]
    languages: tuple[str, ...]
    learnt: tuple[int, ...]
    rates: dict
    intervals: dict
    accuracy: tuple[float | None, ...]
    decoded: tuple[dict[str, int], ...]
    confusion: tuple[dict[str, dict[str, int]], ...] = ()
    grow: Growth = "pack"

    @property
    def is_whole(self) -> bool:
        """Whether every language has been learnt."""
        return max(self.learnt, default=0) < len(self.steps)

    def table(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """Return the rates of a mode, float of shape (steps, languages), NaN where there is none.

        Args:
            mode: The mode of evaluation.
            measure: "cer" or "wer".
        """
        return np.array(self.rates[mode][measure], dtype=float)

    def change(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """Return how far rates are above those of the step at which their language was learnt.

        Args:
            mode: The mode of evaluation.
            measure: "cer" or "wer".

        Returns:
            Differences of fractions, shape (steps, languages), NaN before that step.
        """
        table, learnt = self.table(mode, measure), np.array(self.learnt)
        change = table - table[learnt.clip(max=len(table) - 1), range(len(learnt))]
        change[np.arange(len(table))[:, None] < learnt] = np.nan
        return change

    def tasks(self, mode: str = "pipeline_aware", measure: str = "cer") -> np.ndarray:
        """Return R of the equations above, with a task for each step.

        Args:
            mode: The mode of evaluation.
            measure: "cer" or "wer".

        Returns:
            Fractions, shape (steps, tasks), NaN for a task without languages.
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
        """The number of the first task: 1 if no language of the base was evaluated, else 0."""
        return min(self.learnt, default=0)


def matrix_of(
    reports: Sequence[Mapping],
    steps: Sequence[str],
    learnt: Mapping[str, int],
    grow: Growth = "pack",
) -> Matrix:
    """Collect the rates of evaluation reports.

    Args:
        reports: "report" of an `Evaluation`, one for each step.
        steps: Names of the steps.
        learnt: By code, the step at which each language was learnt. It may be later than the last
            report: then the language has not been learnt yet.
        grow: How languages were added.

    Returns:
        The matrix.
    """
    languages = tuple(sorted(learnt, key=learnt.__getitem__))

    def collect(key: str) -> dict:
        """Return the values of a measure with this ending, by mode, measure, step and language."""
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
        steps=tuple(steps),
        languages=languages,
        learnt=tuple(learnt[code] for code in languages),
        rates=collect(""),
        intervals=collect("_interval"),
        accuracy=tuple(report["routing"]["accuracy"] for report in reports),
        decoded=tuple(report["decoded"] for report in reports),
        confusion=tuple(report["routing"]["confusion"] for report in reports),
        grow=grow,
    )


def steps_of(reports: Sequence[Mapping]) -> tuple[list[str], dict[str, int]]:
    """Find the steps in evaluations with more and more packs, for `matrix_of`.

    Args:
        reports: "report" of an `Evaluation`, one for each step.

    Returns:
        Names of the steps, after the packs that were added; and by code, the step at which each
        language was first known.
    """
    steps: list[str] = []
    before: set[str] = set()
    for report in reports:
        names = [pack["name"] for pack in report["packs"]]
        new = [name for name in names if name not in before]
        steps.append("+ " + ", ".join(new) if new else "base")
        before |= set(names)
    knows = {
        code: [report["languages"].get(code, {}).get("known", False) for report in reports]
        for code in reports[-1]["languages"]
    }
    return steps, {
        code: known.index(True) if any(known) else len(reports) for code, known in knows.items()
    }


def awer(matrix: Matrix, mode: str = "pipeline_aware", measure: str = "wer") -> list[float]:
    """Return the average rate over the tasks learnt so far, by step (NaN where there is none)."""
    tasks, first = matrix.tasks(mode, measure), matrix.first
    return [
        float(tasks[k, first : k + 1].mean()) if k >= first else float("nan")
        for k in range(len(tasks))
    ]


def bwt(matrix: Matrix, mode: str = "pipeline_aware", measure: str = "wer") -> list[float]:
    """Return backward transfer by step; negative is forgetting, NaN at the first task."""
    tasks, first = matrix.tasks(mode, measure), matrix.first
    lost = [np.diag(tasks)[first:k] - tasks[k, first:k] for k in range(len(tasks))]
    return [float(row.mean()) if len(row) else float("nan") for row in lost]


_MEASURES: dict[str, Callable[[Matrix, str], list[float]]] = {"AWER": awer, "BWT": bwt}


def im(
    matrix: Matrix, joint: Matrix, mode: str = "pipeline_aware", measure: str = "wer"
) -> list[float]:
    """Return intransigence by step: how much worse the newest task is than after joint training.

    Args:
        matrix: Rates of learning one after the other.
        joint: Rates of joint training; its last step is compared.
        mode: The mode of evaluation.
        measure: "cer" or "wer".
    """
    return _beside(matrix, joint, [len(joint.steps) - 1] * len(joint.languages), mode, measure)


def fwt(
    matrix: Matrix, alone: Matrix, mode: str = "pipeline_aware", measure: str = "wer"
) -> list[float]:
    """Return forward transfer by step: how much better the newest task is than trained alone.

    Args:
        matrix: Rates of learning one after the other.
        alone: Rates of training a pack for each language.
        mode: The mode of evaluation.
        measure: "cer" or "wer".
    """
    return [-value for value in _beside(matrix, alone, alone.learnt, mode, measure)]


def _beside(
    matrix: Matrix, other: Matrix, rows: Sequence[int], mode: str, measure: str
) -> list[float]:
    """Return R_kk minus the mean of another matrix's rates of the languages of task k.

    `rows` gives the step of the other matrix for each of its languages. Step 0 has no value (NaN).
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
    """A language whose error rate is higher after a later step.

    Attributes:
        language: Its code.
        step: Name of the later step.
        before: Its rate when it was learnt, a fraction.
        after: Its rate after the later step, a fraction.
    """

    language: str
    step: str
    before: float
    after: float

    def __str__(self) -> str:
        points = 100 * (self.after - self.before)
        return (
            f"{self.language} worsened by {points:.2f} points after {self.step}:"
            f" {_percent(self.before)} to {_percent(self.after)} %"
        )


def regressions(matrix: Matrix, most: float) -> list[Regression]:
    """Find languages whose agnostic WER rose after they were learnt.

    Args:
        matrix: The rates.
        most: The allowed rise, in percentage points.

    Returns:
        For each such language, its rates at the first step that exceeds it.
    """
    table, change = matrix.table("agnostic", "wer"), matrix.change("agnostic", "wer")
    found = []
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


def _percent(rate: float | None) -> str:
    """Return a fraction in percent with one digit; "" for none."""
    return "" if rate is None or np.isnan(rate) else f"{100 * rate:.1f}"


def to_markdown(
    matrix: Matrix, command: str, joint: Matrix | None = None, alone: Matrix | None = None
) -> str:
    """Write a matrix as Markdown.

    Args:
        matrix: The rates.
        command: The command that makes the matrix again.
        joint: Rates of joint training, for IM; None leaves it out.
        alone: Rates of a pack for each language, for FWT; None leaves it out.

    Returns:
        Markdown with tables of CER, of the last rates, and of the measures of continual learning.
    """
    lines = [
        "# After every added language",
        "",
        "Error rates in percent, computed with the mark-safe normaliser. In brackets: the change"
        " since the language was learnt, in points, where there is one. In italics: rates before"
        " the language was learnt (*zero-shot*). *Pipeline known*: each clip is decoded by the"
        " pipeline that knows its language. *Old or new known*: only whether the base or a pack"
        " knows it is given. *Nothing known*: the selector chooses the pipeline.",
        "",
    ]
    for mode in ("pipeline_aware", "agnostic"):
        lines += [f"## {TITLES[mode]}: CER", "", *_rates(matrix, mode)]
    lines += ["## At the end", "", *_last(matrix)]
    if matrix.confusion:
        last = matrix.confusion[-1]
        lines += [
            "Clips by language (rows) and the pipeline that the selector chose (columns):",
            "",
            *markdown_table(
                ("language", *next(iter(last.values()))),
                [(code, *map(str, last[code].values())) for code in last],
            ),
        ]
    lines += ["## Continual learning", "", *_measures(matrix, joint, alone)]
    return "\n".join([*lines, "", "![](matrix.png)", "", f"Made by `{command}`.", ""])


def _measures(matrix: Matrix, joint: Matrix | None, alone: Matrix | None) -> list[str]:
    """Return the table of AWER, BWT, IM and FWT after every step, and what they mean."""
    modes = {"pipeline_aware": "pipeline known", "agnostic": "nothing known"}
    values = {name: [of(matrix, mode) for mode in modes] for name, of in _MEASURES.items()}
    explained = [
        "In points of WER. AWER: average over the tasks learnt so far, where the base's languages"
        " together are one task. BWT: change of the earlier tasks since they were learnt; negative"
        " means that they were forgotten."
    ]
    if joint is not None:
        values["IM"] = [im(matrix, joint, mode) for mode in modes]
        explained.append("IM: how much worse the newest task is than after joint training.")
    if alone is not None:
        values["FWT"] = [fwt(matrix, alone, mode) for mode in modes]
        explained.append("FWT: how much better the newest task is than after training it alone.")
    if matrix.grow == "pack":
        explained.append(
            "With a pack for each language nothing can change for the others if the pipeline is"
            " known: BWT and FWT are then 0 by construction."
        )
    head = ["after", *(f"{name}, {known}" for name in values for known in modes.values())]
    rows = []
    for k, step in enumerate(matrix.steps):
        right = matrix.accuracy[k]
        rows.append(
            (
                step,
                *(_percent(column[k]) for columns in values.values() for column in columns),
                "" if right is None else f"{100 * right:.1f} %",
                ", ".join(f"{name} {count}" for name, count in matrix.decoded[k].items()),
            )
        )
    table = markdown_table([*head, "routed right", "windows decoded"], rows)
    return [*table, " ".join(explained)]


def _rates(matrix: Matrix, mode: str) -> list[str]:
    """Return the table of CER after every step."""
    table, change = matrix.table(mode), matrix.change(mode)
    rows = []
    for k, step in enumerate(matrix.steps):
        cells = []
        for rate, moved in zip(table[k], change[k], strict=True):
            if np.isnan(rate):
                cells.append("")
            elif np.isnan(moved):
                cells.append(f"*{_percent(rate)}*")
            else:
                note = f" ({100 * moved:+.1f})" if abs(moved) >= 0.0005 else ""
                cells.append(_percent(rate) + note)
        rows.append((step, *cells))
    return markdown_table(("after", *matrix.languages), rows)


def _last(matrix: Matrix) -> list[str]:
    """Return the table of all rates after the last step, with their intervals."""
    columns = [(mode, measure) for mode in MODES for measure in MEASURES]
    titles = (f"{TITLES[mode].lower()}: {measure.upper()}" for mode, measure in columns)
    rows = []
    for i, code in enumerate(matrix.languages):
        step = matrix.learnt[i]
        cells = []
        for mode, measure in columns:
            rate = matrix.rates[mode][measure][-1][i]
            low, high = matrix.intervals[mode][measure][-1][i] or (None, None)
            ends = f" [{_percent(low)}, {_percent(high)}]"
            cells.append("" if rate is None else _percent(rate) + ends)
        rows.append((code, matrix.steps[step] if step < len(matrix.steps) else "", *cells))
    return markdown_table(("language", "learnt", *titles), rows)


def write_matrix(
    folder: Path,
    matrix: Matrix,
    command: str,
    *,
    joint: Matrix | None = None,
    alone: Matrix | None = None,
) -> None:
    """Write matrix.json, matrix.md and matrix.png to a folder, each whole or not at all.

    Args:
        folder: The folder; it is made.
        matrix: The rates.
        command: The command that makes the matrix again.
        joint: Rates of joint training, for IM; None leaves it out.
        alone: Rates of a pack for each language, for FWT; None leaves it out.

    Raises:
        RunError: A file cannot be written.
    """
    measures = {
        name.lower(): {
            mode: [None if np.isnan(value) else value for value in of(matrix, mode)]
            for mode in MODES
        }
        for name, of in _MEASURES.items()
    }
    content = {"command": command, **asdict(matrix), **measures}
    texts = {
        "matrix.json": json.dumps(content, indent=1, ensure_ascii=False),
        "matrix.md": to_markdown(matrix, command, joint, alone),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    panels = {
        f"{TITLES[mode]}: CER after every step, %": (
            100 * matrix.table(mode),
            100 * matrix.change(mode),
        )
        for mode in ("pipeline_aware", "agnostic")
    }
    draw_matrix(folder / "matrix.png", matrix.steps, matrix.languages, panels)


def read_matrix(path: Path) -> Matrix:
    """Read a matrix.

    Args:
        path: A matrix.json, or the folder that holds it.

    Returns:
        The matrix.

    Raises:
        RunError: The file cannot be read, or it is no matrix.
    """
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
    """Read the matrix of a finished run, to compare with.

    Args:
        path: A matrix.json, or the folder that holds it.
        grow: How that run must have added languages.
        languages: Codes of the languages that it must have.

    Returns:
        The matrix.

    Raises:
        RunError: It cannot be read, is not finished, added languages in another way, or lacks one
            of the languages.
    """
    matrix = read_matrix(path)
    if matrix.grow != grow:
        raise RunError(f"{path} is a --grow {matrix.grow} run; wanted one of --grow {grow}.")
    if not matrix.is_whole:
        raise RunError(
            f"{path} is not finished: it ends after {matrix.steps[-1]}; start its command again,"
            " and it continues."
        )
    if missing := sorted(set(languages) - set(matrix.languages)):
        raise RunError(
            f"{path} has no {', '.join(missing)}, only {', '.join(matrix.languages)}; name a run"
            " over the same languages."
        )
    return matrix
