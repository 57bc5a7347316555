"""What the commands share: the flags that name a base, packs and a corpus, and how these are
loaded.
"""

import argparse
import logging
from pathlib import Path

from dualasr.errors import CorpusError

log = logging.getLogger("dualasr")

BASE_HELP = (
    "built-in base, folder in transformers format, hub id, or a size of Whisper's (%(default)s)"
)


def packs_dir_flag(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--packs_dir",
        type=Path,
        metavar="DIR",
        help="where packs are looked for by name (DUALASR_PACKS, or the user's data folder)",
    )


def model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--base", "--model", default="micro", help=BASE_HELP)
    command.add_argument(
        "--pack",
        type=Path,
        action="append",
        default=[],
        metavar="PACK",
        help="language pack: its folder, its name, or a folder of packs; repeat for several",
    )
    packs_dir_flag(command)
    command.add_argument(
        "--device",
        default="auto",
        help="auto (cuda where there is one), cpu, cuda, cuda:1 (%(default)s)",
    )
    command.add_argument(
        "--selector",
        default="calibrated",
        help="calibrated, paper, or the JSON file of a pack set (%(default)s)",
    )


def layout_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help=(
            "column of a table: audio, text, language, split, speaker, id, start or end, as "
            "text=transcription; what is not named is guessed"
        ),
    )
    command.add_argument("--tier", metavar="NAME", help="tier of ELAN files and TextGrids (all)")


def layout(args) -> dict:
    """What --column and --tier say. Raises CorpusError."""
    from dualasr.data.corpus import Columns

    pairs = [item.partition("=") for item in args.column]
    known = Columns.__dataclass_fields__
    for field, _, name in pairs:
        if field not in known or not name:
            raise CorpusError(
                f"--column {field}{'=' + name if name else ''}: wanted FIELD=NAME, with FIELD one"
                f" of {', '.join(known)}."
            )
    return {"columns": Columns(**{field: name for field, _, name in pairs}), "tier": args.tier}


def pack_folders(args) -> list[Path]:
    """The folders of --pack, as they are now."""
    from dualasr.packs.folder import find_packs, packs_dir

    return find_packs(args.pack, packs_dir(args.packs_dir), empty=args.command == "serve")


def load(args, **options):
    return with_packs(load_base(args, **options), args)


def load_base(args, **options):
    """The base with the selector, as yet without a pack."""
    from dualasr.model.selector import SelectorOptions
    from dualasr.model.whisper import find_device
    from dualasr.packs.format import read_selector
    from dualasr.packs.load import load_model

    named = {"calibrated": SelectorOptions(), "paper": SelectorOptions.paper()}
    selector = (
        named[args.selector] if args.selector in named else read_selector(Path(args.selector))
    )
    return load_model(args.base, device=find_device(args.device), selector=selector, **options)


def with_packs(base, args):
    """The base with the packs that are there now."""
    from dualasr.packs import load as packs_load

    model, selector = packs_load.with_packs(base, pack_folders(args)), base.selector
    if selector.packs and set(selector.packs) != set(model.packs):
        fitted, loaded = ", ".join(selector.packs), ", ".join(model.packs) or "none"
        log.warning(f"{args.selector} was fitted for the packs {fitted}, not for {loaded}")
    for name, pack in model.packs.items():
        if not pack.info.calibration.negatives:
            log.warning(f"pack {name!r} had no --negatives; its routing is unreliable")
    return model
