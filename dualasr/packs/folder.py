"""Packs as people name them: by path, by the folder they lie in, or by name in the packs folder."""

import os
import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from platformdirs import user_data_dir

from dualasr.atomic import atomic_folder
from dualasr.errors import PackError, RunError
from dualasr.packs.format import DATA_SUFFIXES, is_pack, read_pack

VARIABLE = "DUALASR_PACKS"


def packs_dir(given: str | Path | None = None) -> Path:
    """The packs folder: the one given, that of the environment variable DUALASR_PACKS, or the
    user's own; it need not exist.
    """
    if given is not None:
        return Path(given)
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path(user_data_dir("dualasr"), "packs")


def folders_in(folder: Path) -> list[Path]:
    """What may be packs in a folder, sorted; hidden folders are unfinished ones. Raises PackError
    if it cannot be read.
    """
    try:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise PackError(f"{folder} cannot be read: {error.strerror}.") from error
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def packs_in(folder: Path) -> list[Path]:
    """The packs in a folder, sorted. Raises PackError for one that has lost its pack.json."""
    found = []
    for path in folders_in(folder):
        if is_pack(path):
            found.append(path)
        elif (path / "decoder.safetensors").is_file():
            raise PackError(
                f"{path} has the files of a pack but no pack.json; it is damaged, fetch it again or"
                " remove it."
            )
    return found


def find_packs(wanted: Sequence[str | Path], folder: Path, *, empty: bool = False) -> list[Path]:
    """The pack folders that each of `wanted` stands for, in order, each once.

    It is the path of a pack, the path of a folder of packs (all of them, sorted; none yet, if it
    may be `empty`), or the name of a pack in `folder`. Packs are found here, not verified. Raises
    PackError where it is none of these, with the nearest names.
    """
    found: dict[Path, Path] = {}
    for name in wanted:
        path = Path(name)
        here = [path] if is_pack(path) else packs_in(path)
        if not here and _is_name(name) and is_pack(folder / name):
            here = [folder / name]
        if not here and not (empty and path.is_dir()):
            raise PackError(_missing(path, folder))
        for pack in here:
            found.setdefault(pack.resolve(), pack)
    return list(found.values())


def _is_name(name: str | Path) -> bool:
    return Path(name).name == str(name) and not str(name).startswith(".")


def _missing(path: Path, folder: Path) -> str:
    installed = [pack.name for pack in folders_in(folder) if is_pack(pack)]
    beside = [str(pack) for pack in folders_in(path.parent) if is_pack(pack)]
    near = get_close_matches(str(path), dict.fromkeys([*installed, *beside]), n=3) or installed
    what = f"{path} is no pack and holds none" if path.is_dir() else f"There is no pack at {path}"
    there = (
        f"nearest: {', '.join(near)}" if near else "it is empty; dualasr packs add PATH fills it"
    )
    return f"{what}, and the packs folder {folder} has none of that name ({there})."


def pack_size(folder: Path) -> float:
    """Megabytes of a pack's files."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6


def add_pack(source: str | Path, folder: Path) -> Path:
    """Copy a verified pack into the packs folder under its own name, whole or not at all; the copy
    is verified, too.

    Raises PackError for what is no sound pack or whose name is taken, RunError where it cannot be
    written.
    """
    source = Path(source)
    record = read_pack(source)
    name = record["name"]
    if not _is_name(name):
        raise PackError(
            f"{source} calls itself {name!r}, which cannot be the name of a folder; train it with"
            " another --name."
        )
    target = folder / name
    if target.exists() or target.is_symlink():
        raise PackError(f"{target} is there already; remove it first: dualasr packs remove {name}")
    with atomic_folder(
        target, name=f"a copy of {source} to {target}", advice="Nothing was added."
    ) as part:
        for file in ["pack.json", *record["files"]]:
            shutil.copyfile(source / file, part / file)
        read_pack(part)
    return target


def remove_pack(wanted: str | Path, folder: Path) -> Path:
    """Delete a pack: one in the packs folder by name or path, one elsewhere by its absolute path;
    that path comes back.

    It is renamed aside first, so that no half of it is ever loaded; of a link the link alone goes.
    A damaged pack can be removed, too. Raises PackError for what is no pack, holds other things, or
    lies elsewhere; RunError if it cannot be deleted.
    """
    path = folder / wanted if _is_name(wanted) else Path(wanted)
    path = Path(os.path.abspath(path))
    if not is_pack(path):
        raise PackError(_missing(Path(wanted), folder) + " Nothing was removed.")
    if path.parent.resolve() != folder.resolve() and not Path(wanted).is_absolute():
        raise PackError(
            f"{wanted} lies outside the packs folder {folder}; to remove it give its whole path:"
            f" {path}"
        )
    foreign = [
        file.name
        for file in sorted(path.iterdir())
        if not file.is_file() or file.suffix not in DATA_SUFFIXES
    ]
    if foreign and not path.is_symlink():
        raise PackError(
            f"{path} holds more than a pack ({', '.join(foreign[:3])}); nothing was removed."
        )
    aside = path.with_name(f".{path.name}.removed")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)
    except OSError as error:
        raise RunError(f"Cannot remove {path}: {error.strerror or error}.") from error
    return path
