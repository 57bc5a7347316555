"""Files that appear whole or not at all."""

import os
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
