"""Files and folders that appear whole or not at all, and the folder of those made again."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir

from dualasr.errors import RunError

ADVICE = "Free some space or choose another place."


@contextmanager
def atomic_file(path: str | Path, *, name: str = "", advice: str = ADVICE) -> Iterator[Path]:
    """Give a temporary path to write to, and move the file to `path` at the end.

    The folder of `path` is made if it does not exist. If writing fails, an older file at `path` is
    still there, and nothing is left beside it.

    Args:
        path: Where the file is to appear.
        name: What the message calls the file; "" is the path.
        advice: What the message says to do.

    Yields:
        The temporary path, in the same folder and with the same suffix.

    Raises:
        RunError: The disk is full or unwritable.
    """
    path = Path(path)
    # with the same suffix, because some writers choose the format by it
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
    """Give a temporary folder to fill, and move it to `path` at the end.

    If filling it fails, an older folder at `path` is still there, and nothing is left beside it.

    Args:
        path: Where the folder is to appear.
        replace: Whether it may replace another folder that is not empty.
        name: What the message calls the folder; "" is the path.
        advice: What the message says to do.
        errors: Exceptions besides OSError that a writer raises when the disk is full.

    Yields:
        The temporary folder, beside `path`.

    Raises:
        RunError: The disk is full or unwritable, or there is another folder at `path`.
    """
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    path = Path(path)
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in filter(Path.is_file, part.rglob("*")):
            file.chmod(0o644)  # safetensors makes files that only their owner may read
        if replace and path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(part, path)
    except caught as error:
        raise cannot_write(name or path, error, advice) from error
    finally:
        if replace and old.exists():
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(old, path)
        shutil.rmtree(part, ignore_errors=True)


def cannot_write(name: str | Path, error: Exception, advice: str = ADVICE) -> RunError:
    """Return the error to raise where something cannot be written.

    Args:
        name: What cannot be written.
        error: Why.
        advice: What to do.
    """
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    return RunError(f"Cannot write {name}: {reason}. {advice}")


def cache_folder() -> Path:
    """Return the folder of what can be made again, as converted bases; it need not exist.

    The environment variable DUALASR_CACHE names it; else it is in the user's cache folder.
    """
    given = os.environ.get("DUALASR_CACHE")
    return Path(given).expanduser() if given else Path(user_cache_dir("dualasr", False))
