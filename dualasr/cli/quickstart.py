"""`dualasr quickstart`: the main job on generated speech."""

import argparse
from pathlib import Path

from dualasr.cli.loading import BASE_HELP


def add_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out",
        type=Path,
        default=Path("quickstart"),
        help="folder for corpus, packs, reports (%(default)s)",
    )
    command.add_argument("--base", default="micro", help=BASE_HELP)
    command.add_argument(
        "--steps", type=int, default=argparse.SUPPRESS, help="training steps a language (250)"
    )
    command.add_argument(
        "--readings", type=int, default=argparse.SUPPRESS, help="voices a training sentence (2)"
    )
    command.add_argument(
        "--text",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="more sentences: DIR/*_<code>.txt",
    )
    command.add_argument("--corpus-only", action="store_true", help="generate the corpus, and stop")
    command.add_argument(
        "--limit",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="N sentences a split, for a quick look",
    )
    command.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    from dualasr.training.quickstart import QuickstartOptions, quickstart

    given = {
        key: vars(args)[key]
        for key in ("out", "base", "steps", "readings", "text", "limit", "seed")
        if key in args
    }
    quickstart(QuickstartOptions(**given), corpus_only=args.corpus_only)
    return 0
