"""`dualasr calibrate`: fit the selector of a set of packs."""

import argparse
import sys
from pathlib import Path

from dualasr.cli.loading import layout, layout_flags, load, model_flags


def add_flags(command: argparse.ArgumentParser) -> None:
    model_flags(command)
    command.add_argument(
        "--corpus",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="labelled dev audio, of the primary's languages too, in any layout (README)",
    )
    layout_flags(command)
    command.add_argument("--split", default="dev", help="never test (%(default)s)")
    command.add_argument(
        "--negatives",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="audio in languages that neither the primary nor a pack knows",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE.json", help="for --selector"
    )
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="reliability before and after (beside --out)"
    )
    command.add_argument(
        "--max_false_accept_rate",
        "--most_stolen",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of the negatives that packs may take (%(default)s)",
    )
    command.add_argument(
        "--false_accept_cost",
        "--taken",
        type=float,
        default=2.0,
        metavar="X",
        help=(
            "what a clip that a pack takes from the primary counts; any other error counts 1"
            " (%(default)s)"
        ),
    )
    command.add_argument("--beam", type=int, default=1, help="(%(default)s)")
    command.add_argument(
        "--batch", type=int, default=16, help="clips decoded together (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    from dualasr.data.corpus import load_corpus
    from dualasr.training.calibrate_set import calibrate_set, read_unknown, refuse_test
    from dualasr.training.set_calibration import SetOptions
    from dualasr.training.set_calibration_report import draw, to_text, write_calibration

    refuse_test(args.split)
    corpora = [
        load_corpus(path, args.split, require_text=False, **layout(args)) for path in args.corpus
    ]
    for note in (note for corpus in corpora for note in corpus.notes):
        print(f"dualasr: {note}", file=sys.stderr)
    model, options = (
        load(args),
        SetOptions(args.max_false_accept_rate, args.false_accept_cost, args.beam, args.batch),
    )
    unknown = read_unknown(args.negatives, args.split, model)
    found = calibrate_set(
        model, [u for corpus in corpora for u in corpus.utterances], unknown, options
    )
    named = (("--pack", args.pack), ("--corpus", args.corpus), ("--negatives", args.negatives))
    command = f"dualasr calibrate --base {args.base}" + "".join(
        f" {flag} {p.name}" for flag, paths in named for p in paths
    )
    command += f" --split {args.split} --max_false_accept_rate {args.max_false_accept_rate}"
    command += f" --false_accept_cost {args.false_accept_cost} --beam {args.beam}"
    print(to_text(found))
    write_calibration(
        args.out,
        found,
        model,
        f"{command} --selector {Path(args.selector).name} --out {args.out.name}",
    )
    draw(found, args.plot or args.out.with_suffix(".png"))
    return 0
