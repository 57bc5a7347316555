"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualasr.errors import RunError

ADVICE = "Free some space or choose another place."


@contextmanager
def atomic_file(path: str | Path, *, name: str = "", advice: str = ADVICE) -> Iterator[Path]:
    """Give a path beside `path` to write to, which takes its place at the end; its folder is made.

    Where writing fails, what stood at `path` still stands, and nothing is left beside it.

    Args:
        path: Where the file is to appear.
        name: What the message calls the file; the path if it is "".
        advice: What the message tells to do.

    Raises:
        RunError: The disk is full or unwritable.
    """
    path = Path(path)
    # of the same suffix: some writers go by it
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(name or path, error, advice) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    path: str | Path,
    *,
    replace: bool = False,
    name: str = "",
    advice: str = ADVICE,
    errors: tuple[type[Exception], ...] = (),
) -> Iterator[Path]:
    """Give a folder beside `path` to fill, which takes its place at the end.

    Where filling it fails, what stood at `path` still stands, and nothing is left beside it.

    Args:
        path: Where the folder is to appear.
        replace: Whether it may take the place of another folder that is not empty.
        name: What the message calls the folder; the path if it is "".
        advice: What the message tells to do.
        errors: Exceptions besides OSError by which a writer says that the disk is full.

    Raises:
        RunError: The disk is full or unwritable, or another folder stands there.
    """
    path = Path(path)
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in filter(Path.is_file, part.rglob("*")):
            file.chmod(0o644)  # safetensors makes files that their owner alone may read
        if replace and path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(part, path)
    except (OSError, *errors) as error:
        raise cannot_write(name or path, error, advice) from error
    finally:
        if replace and old.exists():
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(old, path)
        shutil.rmtree(part, ignore_errors=True)


def cannot_write(name: str | Path, error: Exception, advice: str = ADVICE) -> RunError:
    """Return the error to raise where something cannot be written: what, why, and what to do."""
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    return RunError(f"Cannot write {name}: {reason}. {advice}")
