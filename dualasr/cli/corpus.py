"""`dualasr corpus`: check a corpus, or split it."""

import argparse
from pathlib import Path

from dualasr.cli.loading import layout, layout_flags


def add_flags(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("check", "what is in a corpus, and what is wrong with it"),
        ("split", "write a manifest with no sentence in two splits"),
    ):
        c = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        c.add_argument("path", type=Path, metavar="PATH")
        c.add_argument("--language", metavar="CODE", help="of rows that name none")
        layout_flags(c)
        if action == "check":
            c.add_argument("--html", type=Path, metavar="OUT.html", help="a page with histograms")
            continue
        c.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="DIR/manifest.jsonl is written"
        )
        c.add_argument("--dev", type=float, default=0.1, help="share of the clips (%(default)s)")
        c.add_argument("--test", type=float, default=0.1, help="share of the clips (%(default)s)")
        c.add_argument("--by-speaker", action="store_true", help="no speaker in two splits, either")
        c.add_argument("--seed", type=int, default=1, help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
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
