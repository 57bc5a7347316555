"""The commands `dualasr evaluate` and `dualasr compare`: measure a base with packs, and compare two
such measurements.
"""

import argparse
import sys
from pathlib import Path

from dualasr.cli.again import command_line
from dualasr.cli.loading import (
    CORPUS_HELP,
    layout,
    layout_flags,
    load,
    model_command,
    model_flags,
)


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr evaluate`."""
    command.set_defaults(parser=command)
    model_flags(command)
    command.add_argument(
        "--corpus",
        type=Path,
        required=True,
        metavar="PATH",
        help=f"transcribed speech to measure on: {CORPUS_HELP}",
    )
    layout_flags(command)
    command.add_argument(
        "--split", default="test", help="split of the corpus to use (default: %(default)s)"
    )
    command.add_argument(
        "--language",
        action="append",
        default=None,
        metavar="CODE",
        help="code of a language to use; repeat for several (default: all of the corpus)",
    )
    command.add_argument(
        "--report",
        type=Path,
        required=True,
        metavar="OUT.json",
        help="file to write the report to, with OUT.md, OUT.html and OUT.clips.jsonl beside it",
    )
    command.add_argument(
        "--answers",
        type=Path,
        default=None,
        metavar="DIR",
        help=(
            "folder to keep decoded text in, so that it is not decoded again (default: answers"
            " beside the report)"
        ),
    )
    command.add_argument(
        "--beam", type=int, default=5, help="beam width; 1 is greedy (default: %(default)s)"
    )
    command.add_argument(
        "--batch",
        type=int,
        default=16,
        help="number of windows to decode together (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write the report and print it; return the exit code."""
    from dualasr.data.corpus import load_corpus
    from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
    from dualasr.evaluation.report import to_markdown, write_report

    only = args.language[0] if args.language and len(args.language) == 1 else None
    corpus = load_corpus(
        args.corpus, args.split, languages=args.language, default_language=only, **layout(args)
    )
    for note in corpus.notes:
        print(f"dualasr: {note}", file=sys.stderr)
    model = load(args)
    evaluation = evaluate(
        model,
        corpus.utterances,
        EvaluationOptions(beam=args.beam, batch=args.batch),
        skipped=corpus.skipped,
        answers=args.answers or args.report.parent / "answers",
    )
    command = model_command(args)
    write_report(args.report, evaluation, command, model=model)
    print(to_markdown(evaluation.report, command))
    return 0


def add_compare_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr compare`."""
    command.set_defaults(parser=command)
    command.add_argument(
        "reports",
        type=Path,
        nargs=2,
        metavar="REPORT.json",
        help="the two reports of `dualasr evaluate`, each with its .clips.jsonl beside it",
    )
    command.add_argument(
        "--mode",
        action="append",
        choices=("pipeline_aware", "group_aware", "agnostic"),
        default=None,
        help=(
            "what is known of each clip before it is decoded: its pipeline (pipeline_aware), only"
            " whether that is the base or a pack (group_aware), or nothing (agnostic); repeat for"
            " several (default: agnostic and pipeline_aware)"
        ),
    )
    command.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIFF.json",
        help="file to write the comparison to as JSON (default: only print it)",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)"
    )


def run_compare(args: argparse.Namespace) -> int:
    """Compare two reports, and print the differences; return the exit code."""
    from dualasr.evaluation.compare import compare, to_markdown, write_comparison

    first, second = args.reports
    modes = tuple(args.mode or ("agnostic", "pipeline_aware"))
    comparison = compare(first, second, modes, seed=args.seed)
    if args.out is not None:
        write_comparison(args.out, comparison | {"command": command_line(args)})
    print(to_markdown(comparison))
    return 0
