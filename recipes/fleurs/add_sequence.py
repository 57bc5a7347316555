r"""Add languages one after the other, and measure all languages so far after every step.

    python recipes/fleurs/add_sequence.py ky_kg ga_ie or_in om_et --corpus data/fleurs \
        --out runs/sequence
    python recipes/fleurs/add_sequence.py ky_kg ga_ie or_in om_et --corpus data/fleurs \
        --out runs/shared --grow shared
    python recipes/fleurs/add_sequence.py ky_kg ga_ie or_in om_et --corpus data/fleurs \
        --out runs/joint --grow joint

--grow pack    One pack for each language.
--grow shared  The paper's one LoRA and one decoder. Every language trains them further, and
               rehearses a share of the earlier new languages, never of the base's. The vocabulary
               is made from the whole sequence's text at the start; every language brings its tag.
--grow joint   One pack of all languages, trained at once, in as many steps as the other two take
               for all of them. This is the paper's own setting, and the reference for IM.

OUT/matrix.json, .md and .png are the result, OUT/reports holds the evaluation of each step, and
OUT/packs the packs. For IM and FWT, --joint and --alone name a finished run with --grow joint and
one with --grow pack. The exit code is 1 where the WER of a language, with nothing known, rose by
more than --max-regression points. OUT is never overwritten. A run that was stopped goes on with the
same command.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from add_language import arguments_of, begin, configs_of, measure, open_out, run, say, train

from dualasr.evaluation.continual import (
    Matrix,
    matrix_of,
    read_finished,
    read_matrix,
    regressions,
    to_markdown,
    write_matrix,
)
from dualasr.languages import language_of
from dualasr.packs.format import attach_regression


def add_many(args: argparse.Namespace) -> int:
    languages, setting, _ = begin(args, args.configs)
    groups = [languages] if args.grow == "joint" else [[language] for language in languages]
    learnt = {language_of(config).code: 0 for config in setting.old}
    learnt |= {language.code: k for k, group in enumerate(groups, 1) for language in group}
    beside = {
        name: read_finished(folder, grow, learnt)
        for name, folder, grow in (("joint", args.joint, "joint"), ("alone", args.alone, "pack"))
        if folder
    }
    open_out(
        args.out,
        asdict(setting)
        | {
            "configs": [one.config for one in languages],
            "grow": args.grow,
            "rehearse": args.rehearse,
        },
    )
    steps = [
        "base",
        *("joint" if args.grow == "joint" else f"+ {group[0].code}" for group in groups),
    ]
    packs: list[Path] = []
    reports, lost = [], []
    there = len(read_matrix(args.out).steps) if (args.out / "matrix.json").exists() else 0
    for k, step in enumerate(steps):
        say(f"== {step}")
        before = [language for group in groups[: max(0, k - 1)] for language in group]
        if k:
            packs = add_step(args, setting, packs, before, groups[k - 1], languages)
        measured = (
            [language.config for language in (*before, *groups[k - 1])]
            if k
            else [one.config for one in languages]
        )
        report = args.out / "reports" / f"{k:02}-{step.removeprefix('+ ')}.json"
        reports.append(measure(setting, packs, [*setting.old, *measured], report, args.command))
        say(
            "  decoded: "
            + ", ".join(f"{name} {count}" for name, count in reports[-1]["decoded"].items())
            + " windows"
        )
        matrix = matrix_of(reports, steps[: k + 1], learnt, args.grow)
        if k + 1 >= there:  # a resumed run keeps the longer matrix until it has as many steps
            write_matrix(args.out, matrix, args.command, **beside)
            for pack in packs:
                attach_regression(pack, args.out / "matrix.md", args.out / "matrix.png")
        lost = regressions(matrix, args.max_regression)
        for line in rates_of(matrix):
            say(f"  {line}")
        if lost and args.stop_on_regression:
            break
    print(to_markdown(matrix, args.command, **beside))
    print(f"{args.out / 'matrix.md'}, matrix.png, matrix.json")
    for regression in lost:
        print(
            f"add_sequence: {regression}; --max-regression allows {args.max_regression:g}",
            file=sys.stderr,
        )
    return 1 if lost else 0


def add_step(args, setting, packs: list[Path], before, new, languages) -> list[Path]:
    """Return the packs after a step: one more, or one that went on from the last one."""
    folder = args.out / "packs"
    if args.grow == "joint":
        steps = setting.training.steps * len(new)  # --steps is for one language
        longer = replace(setting, training=replace(setting.training, steps=steps))
        train(longer, folder / "joint", new, processes=args.processes)
        return [folder / "joint"]
    if args.grow == "pack":
        train(
            setting,
            folder / new[0].code,
            new,
            others=[one.config for one in before],
            processes=args.processes,
        )
        return [*packs, folder / new[0].code]
    later = [one.config for one in languages if one not in (*before, *new)]
    shared = folder / f"shared-{len(before) + 1:02}"
    train(
        setting,
        shared,
        new,
        earlier=before,
        init=packs[0] if packs else None,
        later=later,
        rehearse=args.rehearse,
        processes=args.processes,
    )
    return [shared]


def rates_of(matrix: Matrix) -> list[str]:
    """Return the newest row of the matrix, for the screen."""
    lines = []
    for mode, words in (("pipeline_aware", "pipeline known"), ("agnostic", "nothing known ")):
        rates = 100 * matrix.table(mode)[-1]
        lines.append(
            f"CER, {words}: "
            + "  ".join(
                f"{code} {rate:.1f}"
                for code, rate in zip(matrix.languages, rates, strict=True)
                if rate == rate
            )
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="add_sequence.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    configs_of(parser)
    arguments_of(parser)
    g = parser.add_argument_group("sequence")
    g.add_argument(
        "--grow", choices=("pack", "shared", "joint"), default="pack", help="(%(default)s)"
    )
    g.add_argument(
        "--rehearse",
        type=float,
        default=0.3,
        metavar="SHARE",
        help="of the earlier new languages' training clips, with --grow shared (%(default)s)",
    )
    g.add_argument(
        "--max-regression",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="of WER, nothing known (%(default)s)",
    )
    g.add_argument(
        "--stop-on-regression", action="store_true", help="add no further language after one"
    )
    g.add_argument(
        "--joint",
        type=Path,
        metavar="RUN",
        help="a --grow joint run over the same languages, for IM",
    )
    g.add_argument(
        "--alone",
        type=Path,
        metavar="RUN",
        help="a --grow pack run over the same languages, for FWT",
    )
    return run(add_many, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
