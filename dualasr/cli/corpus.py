"""The command `dualasr corpus`: check a corpus, or split it."""

import argparse
from pathlib import Path

from dualasr.cli.loading import CORPUS_HELP, layout, layout_flags


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the actions `check` and `split`, and their flags."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("check", "report what a corpus contains, and what is wrong with it"),
        ("split", "split a corpus into train, dev and test, with no sentence in two of them"),
    ):
        c = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        c.add_argument("path", type=Path, metavar="PATH", help=f"the corpus: {CORPUS_HELP}")
        c.add_argument(
            "--language", metavar="CODE", help="language of clips for which the corpus names none"
        )
        layout_flags(c)
        if action == "check":
            c.add_argument(
                "--html",
                type=Path,
                metavar="OUT.html",
                help="page to write the report to, with histograms",
            )
            continue
        c.add_argument(
            "--out",
            type=Path,
            required=True,
            metavar="DIR",
            help="folder to write manifest.jsonl to, which lists the clips of all splits",
        )
        for split in ("dev", "test"):
            c.add_argument(
                f"--{split}",
                type=float,
                default=0.1,
                metavar="SHARE",
                help=f"share of the clips to put into {split} (default: %(default)s)",
            )
        c.add_argument(
            "--by-speaker",
            action="store_true",
            help="also keep all clips of a speaker in one split",
        )
        c.add_argument("--seed", type=int, default=1, help="seed of the split (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Check or split a corpus; return the exit code."""
    if args.action == "check":
        from dualasr.data.check import check_corpus, to_text, write_html

        check = check_corpus(args.path, default_language=args.language, **layout(args))
        print(to_text(check).encode(errors="backslashreplace").decode())
        if args.html:
            write_html(args.html, check)
        return 0
    from dualasr.data.split import SplitOptions, split_corpus

    options = SplitOptions(args.dev, args.test, args.by_speaker, args.seed)
    counts = split_corpus(
        args.path, args.out, options, default_language=args.language, **layout(args)
    )
    print(
        f"{args.out / 'manifest.jsonl'}:"
        f" {', '.join(f'{name} {count}' for name, count in counts.items())}"
    )
    return 0
