"""`dualasr evaluate` and `dualasr compare`: measure a base with packs, and two reports against each
other.
"""

import argparse
import sys
from pathlib import Path

from dualasr.cli.loading import layout, layout_flags, load, model_flags


def add_flags(command: argparse.ArgumentParser) -> None:
    model_flags(command)
    command.add_argument(
        "--corpus", type=Path, required=True, metavar="PATH", help="corpus, in any layout (README)"
    )
    layout_flags(command)
    command.add_argument("--split", default="test", help="(%(default)s)")
    command.add_argument(
        "--language", action="append", default=None, metavar="CODE", help="only these languages"
    )
    command.add_argument(
        "--report",
        type=Path,
        required=True,
        metavar="OUT.json",
        help="beside it OUT.md, .html and .clips.jsonl",
    )
    command.add_argument(
        "--answers",
        type=Path,
        default=None,
        metavar="DIR",
        help="what was decoded is kept there, and not decoded again (answers beside the report)",
    )
    command.add_argument("--beam", type=int, default=5, help="(%(default)s)")
    command.add_argument(
        "--batch", type=int, default=16, help="windows decoded together (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
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
    packs = "".join(f" --pack {path.name}" for path in args.pack)
    command = (
        f"dualasr evaluate --base {args.base}{packs} --corpus {args.corpus.name} --split"
        f" {args.split} --beam {args.beam}"
    )
    command += "".join(f" --column {column}" for column in args.column) + (
        f" --tier {args.tier}" if args.tier else ""
    )
    write_report(args.report, evaluation, command, model=model)
    print(to_markdown(evaluation.report, command))
    return 0


def add_compare_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "reports",
        type=Path,
        nargs=2,
        metavar="REPORT.json",
        help="A and B, each with its clips beside it",
    )
    command.add_argument(
        "--mode",
        action="append",
        choices=("pipeline_aware", "group_aware", "agnostic"),
        default=None,
        help="repeat for several (agnostic and pipeline_aware)",
    )
    command.add_argument(
        "--out", type=Path, default=None, metavar="DIFF.json", help="write it as JSON, too"
    )
    command.add_argument("--seed", type=int, default=0, help="of the resampling (%(default)s)")


def run_compare(args: argparse.Namespace) -> int:
    from dualasr.evaluation.compare import compare, to_markdown, write_comparison

    comparison = compare(
        *args.reports, tuple(args.mode or ("agnostic", "pipeline_aware")), seed=args.seed
    )
    if args.out is not None:
        write_comparison(args.out, comparison)
    print(to_markdown(comparison))
    return 0
