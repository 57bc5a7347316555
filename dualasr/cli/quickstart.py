"""The command `dualasr quickstart`: add two languages, measure, and transcribe generated speech."""

import argparse
from dataclasses import fields
from pathlib import Path

from dualasr.cli.loading import BASE_HELP


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr quickstart`."""
    command.add_argument(
        "--out",
        type=Path,
        default=Path("quickstart"),
        help="folder to write corpus, packs and reports to (default: %(default)s)",
    )
    command.add_argument("--base", default="micro", help=BASE_HELP)
    command.add_argument(
        "--steps",
        type=int,
        default=argparse.SUPPRESS,
        help="number of training steps for each language (default: 250)",
    )
    command.add_argument(
        "--readings",
        type=int,
        default=argparse.SUPPRESS,
        help="number of voices that read each training sentence (default: 2)",
    )
    command.add_argument(
        "--text",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="folder with more sentences to read, in files named *_<language code>.txt",
    )
    command.add_argument("--corpus-only", action="store_true", help="generate the corpus, and stop")
    command.add_argument(
        "--limit",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="use only N sentences of each split, for a quick look (default: all)",
    )
    command.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: 1)")
    command.add_argument(
        "--beam",
        type=int,
        default=argparse.SUPPRESS,
        help="beam width of the measurements (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the quickstart, and return the exit code."""
    from dualasr.training.quickstart import QuickstartOptions, quickstart

    names = [field.name for field in fields(QuickstartOptions)]
    given = {name: vars(args)[name] for name in names if name in args}
    quickstart(QuickstartOptions(**given), corpus_only=args.corpus_only)
    return 0
