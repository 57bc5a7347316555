"""The packs folder: finding packs by path, by their folder or by name; adding and removing them."""

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
    """Return the packs folder; it need not exist.

    Args:
        given: The folder that the user chose; None for that of the environment variable
            DUALASR_PACKS, or else the user's data folder.
    """
    if given is not None:
        return Path(given)
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else Path(user_data_dir("dualasr"), "packs")


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be packs, sorted; hidden ones are unfinished packs.

    Raises:
        PackError: The folder cannot be read.
    """
    try:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise PackError(f"{folder} cannot be read: {error.strerror}.") from error
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]


def packs_in(folder: Path) -> list[Path]:
    """Return the packs in a folder, sorted.

    Raises:
        PackError: A pack has lost its pack.json, or the folder cannot be read.
    """
    found = []
    for path in folders_in(folder):
        if is_pack(path):
            found.append(path)
        elif (path / "decoder.safetensors").is_file():
            raise PackError(
                f"{path} has the files of a pack but no pack.json. It is damaged: fetch it again,"
                " or remove it."
            )
    return found


def find_packs(wanted: Sequence[str | Path], folder: Path, *, empty: bool = False) -> list[Path]:
    """Find packs by path or by name. They are not verified here.

    Args:
        wanted: For each one the path of a pack, the path of a folder that holds packs (which stands
            for all of them, sorted), or the name of a pack in `folder`.
        folder: The packs folder.
        empty: Whether a path may also be a folder that holds no packs yet.

    Returns:
        The folders of the packs, in the order of `wanted`, each once.

    Raises:
        PackError: One of `wanted` is none of these; the message offers the nearest names.
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
    """Return whether this is the name of a pack, not a path."""
    return Path(name).name == str(name) and not str(name).startswith(".")


def _missing(path: Path, folder: Path) -> str:
    """Return the message that there is no such pack, with the nearest names."""
    installed = [pack.name for pack in folders_in(folder) if is_pack(pack)]
    beside = [str(pack) for pack in folders_in(path.parent) if is_pack(pack)]
    near = get_close_matches(str(path), dict.fromkeys([*installed, *beside]), n=3) or installed
    what = f"{path} is no pack and holds none" if path.is_dir() else f"There is no pack at {path}"
    there = (
        f"nearest: {', '.join(near)}" if near else "it is empty; fill it: dualasr packs add PATH"
    )
    return f"{what}, and the packs folder {folder} has none of that name ({there})."


def pack_size(folder: Path) -> float:
    """Return the size of a pack's files, in megabytes (10^6 bytes)."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6


def add_pack(source: str | Path, folder: Path) -> Path:
    """Copy a pack into the packs folder under its own name, whole or not at all.

    The pack is verified before, and the copy after.

    Args:
        source: Folder of the pack.
        folder: The packs folder.

    Returns:
        Path of the copy.

    Raises:
        PackError: `source` is no pack or is damaged, or its name is in use there.
        RunError: The copy cannot be written.
    """
    source = Path(source)
    record = read_pack(source)
    name = record["name"]
    if not _is_name(name):
        raise PackError(
            f"{source} is called {name!r}, which cannot be the name of a folder; train it with"
            " another --name."
        )
    target = folder / name
    if target.exists() or target.is_symlink():
        raise PackError(f"{target} is there already. Remove it first: dualasr packs remove {name}")
    with atomic_folder(
        target, name=f"a copy of {source} to {target}", advice="Nothing was added."
    ) as part:
        for file in ["pack.json", *record["files"]]:
            shutil.copyfile(source / file, part / file)
        read_pack(part)
    return target


def remove_pack(wanted: str | Path, folder: Path) -> Path:
    """Delete a pack, which may be damaged.

    It is renamed first, so that nobody loads a part of it. Of a link, only the link is deleted.

    Args:
        wanted: A pack in the packs folder by its name or path, a pack elsewhere by its absolute
            path.
        folder: The packs folder.

    Returns:
        Absolute path of the deleted pack.

    Raises:
        PackError: It is no pack, it holds files that are not a pack's, or it lies outside the packs
            folder and its path is not absolute.
        RunError: It cannot be deleted.
    """
    path = folder / wanted if _is_name(wanted) else Path(wanted)
    path = Path(os.path.abspath(path))
    if not is_pack(path):
        raise PackError(_missing(Path(wanted), folder) + " Nothing was removed.")
    if path.parent.resolve() != folder.resolve() and not Path(wanted).is_absolute():
        raise PackError(
            f"{wanted} lies outside the packs folder {folder}. To remove it, give its whole path:"
            f" {path}"
        )
    foreign = [
        file.name
        for file in sorted(path.iterdir())
        if not file.is_file() or file.suffix not in DATA_SUFFIXES
    ]
    if foreign and not path.is_symlink():
        raise PackError(
            f"{path} holds more than a pack ({', '.join(foreign[:3])}). Nothing was removed."
        )
    aside = path.with_name(f".{path.name}.removed")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)
    except OSError as error:
        raise RunError(f"Cannot remove {path}: {error.strerror or error}.") from error
    return path
