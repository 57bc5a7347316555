"""The commands `dualasr packs` (list, show, verify, add and remove packs) and `dualasr export`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dualasr.cli.loading import BASE_HELP, packs_dir_flag
from dualasr.errors import DualasrError, PackError, RunError

ACTIONS = {
    "list": "list the packs in the packs folder, one on each line",
    "show": "show the languages, training and scores of packs",
    "verify": "check that no file of a pack was changed or damaged",
    "add": "copy packs into the packs folder",
    "measured": "store in a pack how the error rates changed when it was added",
    "remove": "delete packs, without a question",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `dualasr packs`, and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    operands = {
        "add": "folder of a pack to copy",
        "remove": "name or path of a pack to delete; outside the packs folder, its whole path",
    }
    for action, text in ACTIONS.items():
        command = actions.add_parser(
            action, help=text, description=text[0].upper() + text[1:] + "."
        )
        packs_dir_flag(command)
        if action == "measured":
            command.add_argument(
                "packs", nargs=1, metavar="PACK", help="name or path of the pack to store it in"
            )
            command.add_argument(
                "reports",
                nargs="+",
                type=Path,
                metavar="REPORT.json",
                help="reports of `dualasr evaluate`, in order: the first without the pack",
            )
        elif action != "list":
            command.add_argument(
                "packs",
                nargs="+",
                metavar="PATH" if action == "add" else "PACK",
                help=operands.get(action, "name or path of a pack, or path of a folder of packs"),
            )


def run(args: argparse.Namespace) -> int:
    """Run an action for each pack, and return the exit code: 1 if it failed for a pack.

    Raises:
        PackError: The packs folder cannot be read.
    """
    from dualasr.packs.folder import add_pack, find_packs, packs_dir, remove_pack

    folder = packs_dir(args.packs_dir)
    if args.action == "list":
        return _list(folder)
    if args.action == "add":
        return _each(args.packs, lambda path: print(f"added {add_pack(path, folder)}"))
    if args.action == "remove":
        return _each(args.packs, lambda name: print(f"removed {remove_pack(name, folder)}"))
    act = {
        "verify": _verify,
        "show": _show,
        "measured": lambda path: _measured(path, args.reports),
    }[args.action]
    failed: list[int] = []
    code = _each(args.packs, lambda name: failed.append(_each(find_packs([name], folder), act)))
    return max([code, *failed])


def _each(items: Iterable, act: Callable) -> int:
    """Do something with each item, print the errors, and return 1 if there were any."""
    failed = 0
    for item in items:
        try:
            act(item)
        except DualasrError as error:
            failed = 1
            print(f"dualasr: {error}", file=sys.stderr)
    return failed


def _list(folder: Path) -> int:
    from dualasr.packs.folder import folders_in
    from dualasr.packs.format import read_pack

    found = folders_in(folder)
    for path in found:
        try:
            record = read_pack(path)
            other = "" if record["name"] == path.name else f"the pack {record['name']!r}; "
            print(f"{path.name}: {other}{_about(path, record)}")
        except DualasrError as error:
            print(f"{path.name}: not usable: {error}")
    if not found:
        print(f"no packs in {folder}; dualasr packs add PATH copies a pack there")
    return 0


def _about(path: Path, record: dict) -> str:
    from dualasr.packs.folder import pack_size

    languages = ", ".join(f"{name} ({code})" for code, name in record["languages"].items())
    return (
        f"{languages}; for {record['base']['name']} {record['base']['checksum'][:12]};"
        f" {pack_size(path):.1f} MB"
    )


def _verify(path: Path) -> None:
    from dualasr.packs.folder import pack_size
    from dualasr.packs.format import read_pack

    print(f"{path}: {len(read_pack(path)['files'])} files verified, {pack_size(path):.1f} MB")


def _show(path: Path) -> None:
    from dualasr.packs.format import read_pack

    record = read_pack(path)
    print(f"{record['name']}: {_about(path, record)}")
    shape = {key: record["secondary"][key] for key in ("rank", "alpha", "fork", "decoder")}
    about = {
        **shape,
        "calibrated against negatives": record["calibration"]["negatives"],
        **record["training"],
        **record["scores"],
    }
    print("".join(f"  {key}: {value}\n" for key, value in about.items()), end="")


def _measured(path: Path, reports: Sequence[Path]) -> None:
    from dualasr.evaluation.continual import matrix_of, steps_of, write_matrix
    from dualasr.packs.format import attach_regression

    try:
        found = [json.loads(report.read_text(encoding="utf-8")) for report in reports]
        matrix = matrix_of(found, *steps_of(found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{', '.join(map(str, reports))}: these are not reports of dualasr evaluate ({error})."
        ) from error
    with TemporaryDirectory() as folder:
        write_matrix(
            Path(folder),
            matrix,
            f"dualasr packs measured {path.name} {' '.join(report.name for report in reports)}",
        )
        attach_regression(path, Path(folder, "matrix.md"), Path(folder, "matrix.png"))
    print(f"{path}: {', '.join(matrix.steps)}")


def add_export_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr export`."""
    command.add_argument(
        "pack", type=Path, metavar="PACK", help="language pack to export: its folder or its name"
    )
    command.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="new folder to write to; its README.md explains the files",
    )
    command.add_argument("--base", default="micro", help=BASE_HELP)
    packs_dir_flag(command)


def run_export(args: argparse.Namespace) -> int:
    """Export a pack, and return the exit code."""
    from dualasr.packs.export import export
    from dualasr.packs.folder import find_packs, packs_dir

    packs = find_packs([args.pack], packs_dir(args.packs_dir))
    if len(packs) > 1:
        raise PackError(
            f"{args.pack} holds {len(packs)} packs; name one of them: {', '.join(map(str, packs))}."
        )
    export(packs[0], args.to, args.base)
    print(f"{args.to}: primary, secondary, README.md")
    return 0
