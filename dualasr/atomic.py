"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end; its folder is made.

    Where writing fails, what stood at `path` still stands, and nothing is left beside it.
    """
    path = Path(path)
    part = path.with_name(f".{os.getpid()}-{path.name}")  # of the same suffix: some writers go by it
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder beside `path` to fill, which takes its place at the end; nothing, or an empty folder, may stand there.

    Where filling it fails, nothing is left beside it.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in filter(Path.is_file, part.rglob("*")):
            file.chmod(0o644)  # safetensors makes files that their owner alone may read
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
