"""The command `dualasr calibrate`: fit the selector of a set of packs."""

import argparse
import sys
from pathlib import Path

from dualasr.cli.loading import (
    CORPUS_HELP,
    layout,
    layout_flags,
    load,
    model_command,
    model_flags,
)


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr calibrate`."""
    command.set_defaults(parser=command)
    model_flags(command)
    command.add_argument(
        "--corpus",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help=(
            "dev audio in the languages of the packs and of the base, each clip with its language:"
            f" {CORPUS_HELP}; repeat for several"
        ),
    )
    layout_flags(command)
    command.add_argument(
        "--split",
        default="dev",
        help="split of the corpora to use; test is refused (default: %(default)s)",
    )
    command.add_argument(
        "--negatives",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help=(
            "audio in languages that neither the base nor a pack knows: a corpus or a folder of"
            " sound files; repeat for several"
        ),
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE.json",
        help="file to write the fitted selector to; other commands read it with --selector",
    )
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="file to draw the calibration to, before and after (default: beside --out)",
    )
    command.add_argument(
        "--max_false_accept_rate",
        "--most_stolen",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="largest share of the negatives that may be routed to a pack (default: %(default)s)",
    )
    command.add_argument(
        "--false_accept_cost",
        "--taken",
        type=float,
        default=2.0,
        metavar="X",
        help=(
            "cost of routing a clip in a language of the base to a pack; any other error costs 1"
            " (default: %(default)s)"
        ),
    )
    command.add_argument(
        "--beam", type=int, default=1, help="beam width; 1 is greedy (default: %(default)s)"
    )
    command.add_argument(
        "--batch",
        type=int,
        default=16,
        help="number of clips to decode together (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Fit the selector, print and write the result; return the exit code."""
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
    print(to_text(found))
    write_calibration(args.out, found, model, model_command(args))
    draw(found, args.plot or args.out.with_suffix(".png"))
    return 0
