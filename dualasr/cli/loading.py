"""Flags that commands share (base, packs, corpus), and how base and packs are loaded from them."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dualasr.cli.again import command_line
from dualasr.errors import CorpusError

if TYPE_CHECKING:
    from dualasr.model.dual_whisper import DualWhisper

log = logging.getLogger("dualasr")

BASE_HELP = (
    "Whisper to use: a built-in base, a folder in transformers or CTranslate2 format, OpenAI's .pt"
    " file, a hub id, or a size of Whisper such as small (default: %(default)s)"
)
CORPUS_HELP = "a folder, table or manifest in one of the layouts that docs/add-a-language.md lists"


class Flags(Protocol):
    """A parser, or a group of flags in one."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add a flag."""


def packs_dir_flag(command: Flags) -> None:
    """Add the flag --packs_dir."""
    command.add_argument(
        "--packs_dir",
        type=Path,
        metavar="DIR",
        help=(
            "folder in which to look for packs by name (default: the environment variable"
            " DUALASR_PACKS, else the user's data folder)"
        ),
    )


def model_flags(command: Flags) -> None:
    """Add the flags that name a base, its packs, the device and the selector."""
    command.add_argument("--base", "--model", default="micro", help=BASE_HELP)
    command.add_argument(
        "--pack",
        type=Path,
        action="append",
        default=[],
        metavar="PACK",
        help="language pack to load: its folder or name, or a folder of packs; repeat for several",
    )
    packs_dir_flag(command)
    command.add_argument(
        "--device",
        default="auto",
        help=(
            "device to run on: auto (a GPU if there is one), cpu, cuda, cuda:1, ... (default:"
            " %(default)s)"
        ),
    )
    command.add_argument(
        "--selector",
        default="calibrated",
        help=(
            "rule that chooses between base and packs: calibrated, paper (the rule of the paper),"
            " or a file that `dualasr calibrate` wrote (default: %(default)s)"
        ),
    )


def layout_flags(command: Flags) -> None:
    """Add the flags that say how to read a corpus."""
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help=(
            "name of a table's column, such as text=transcription; FIELD is audio, text, language,"
            " split, speaker, id, start or end; repeat for several (default: guessed)"
        ),
    )
    command.add_argument(
        "--tier", metavar="NAME", help="tier to read of ELAN files and TextGrids (default: all)"
    )


def layout(args: argparse.Namespace) -> dict[str, Any]:
    """Return --column and --tier as arguments of `load_corpus`.

    Raises:
        CorpusError: A --column is not FIELD=NAME, or its field is unknown.
    """
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


def pack_folders(args: argparse.Namespace) -> list[Path]:
    """Find the folders of the packs that --pack names now."""
    from dualasr.packs.folder import find_packs, packs_dir

    return find_packs(args.pack, packs_dir(args.packs_dir), empty=args.command == "serve")


def model_command(args: argparse.Namespace) -> str:
    """Write the command of these arguments, with the packs folder if --pack has a name in it."""
    from dualasr.packs.folder import packs_dir, packs_in
    from dualasr.packs.format import is_pack

    by_name = any(not is_pack(path) and not packs_in(path) for path in args.pack)
    folder = packs_dir(args.packs_dir) if by_name else args.packs_dir
    return command_line(argparse.Namespace(**vars(args) | {"packs_dir": folder}))


def load(args: argparse.Namespace, **options: Any) -> "DualWhisper":
    """Load the base and the packs; `options` go to `load_model`."""
    return with_packs(load_base(args, **options), args)


def load_base(args: argparse.Namespace, **options: Any) -> "DualWhisper":
    """Load the base with the selector, without packs; `options` go to `load_model`."""
    from dualasr.model.selector import SelectorOptions
    from dualasr.model.whisper import find_device
    from dualasr.packs.format import read_selector
    from dualasr.packs.load import load_model

    named = {"calibrated": SelectorOptions(), "paper": SelectorOptions.paper()}
    selector = (
        named[args.selector] if args.selector in named else read_selector(Path(args.selector))
    )
    return load_model(args.base, device=find_device(args.device), selector=selector, **options)


def with_packs(base: "DualWhisper", args: argparse.Namespace) -> "DualWhisper":
    """Load the packs that --pack names now, and warn of those that cannot be routed well."""
    from dualasr.packs import load as packs_load

    model, selector = packs_load.with_packs(base, pack_folders(args)), base.selector
    if selector.packs and set(selector.packs) != set(model.packs):
        fitted, loaded = ", ".join(selector.packs), ", ".join(model.packs) or "none"
        log.warning(f"{args.selector} was fitted for the packs {fitted}, not for {loaded}")
    for name, pack in model.packs.items():
        if not pack.info.calibration.negatives:
            log.warning(
                f"pack {name!r} was trained without --negatives, so its routing is unreliable"
            )
    return model
