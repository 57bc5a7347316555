"""Read folders of `datasets`' AudioFolder: sounds, and a metadata file with their names.

A split is a folder of its name, above the metadata or above the sounds, or a word in the names of
the sounds: train_01.wav, test_01.wav.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dualasr.data.encoding import Encodings
from dualasr.data.tables import match_columns, read_table, row_of_fields
from dualasr.data.utterance import NOT_UTF8, Query, ReadNotes, Row, Rows, numbered_lines
from dualasr.errors import CorpusError, MissingExtraError

_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_COLUMN = "file_name"
_PLACES = ("", "*/", "data/*/")
# the words by which `datasets` knows a split
_SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def split_in(names: tuple[str, ...]) -> str | None:
    """Return the split of a path: a folder of its name, else a word in the name of the file.

    Args:
        names: The parts of the path; the last one is the file.
    """
    for folder in reversed(names[:-1]):
        if folder.lower() in _SPLITS:
            return _SPLITS[folder.lower()]
    words = re.split(r"[^a-z]+", PurePosixPath(names[-1]).stem.lower()) if names else []
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def find_audiofolder(path: Path) -> list[Path]:
    """Return the metadata files of a folder, or the file itself; none if it is no AudioFolder."""
    if path.is_file():
        files = [path] if path.name in _FILES else []
    else:
        files = sorted(f for place in _PLACES for name in _FILES for f in path.glob(place + name))
    return [file for file in files if file.is_file() and _names_sounds(file)]


def _names_sounds(file: Path) -> bool:
    """Whether a metadata file has a column file_name."""
    if file.suffix == ".parquet":
        with file.open("rb") as opened:
            return opened.read(4) == b"PAR1"
    with file.open("rb") as opened:
        start = opened.read(100_000)
    return _COLUMN.encode() in start.replace(b"\0", b"")


def audiofolder_rows(root: Path, files: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of metadata files.

    Args:
        root: The corpus.
        files: The metadata files in it.
        query: Which rows are wanted.
        notes: Splits and guesses are noted here.

    Raises:
        CorpusError: A file cannot be read, or has no column with text.
        MissingExtraError: A file is parquet, and `datasets` is not installed.
    """
    top = root if root.is_dir() else root.parent
    encodings = Encodings(query.default_language)
    for file in files:
        rows = list(_READERS[file.suffix](file, query, encodings))
        names = list(dict.fromkeys(n for _, row in rows if isinstance(row, dict) for n in row))
        at, guessed = match_columns(query.columns, names, query.require_text, str(file))
        if guessed:
            notes.add(guessed)
        above = file.relative_to(top).parts[:-1]
        sounds = [row.get(names[at["audio"]]) for _, row in rows if isinstance(row, dict)]
        words = [split_in(PurePosixPath(s).parts[-1:]) for s in sounds if isinstance(s, str)]
        by_name = bool(words) and None not in words  # only where every sound names one
        for source, row in rows:
            if isinstance(row, str):
                yield Row(source, row, split_in((*above, "")))
                continue
            fields = {field: _cell(row.get(names[i])) for field, i in at.items()}
            if bad := [names[at[field]] for field, cell in fields.items() if cell is _NO_CELL]:
                yield Row(source, f"{bad[0]} is no text or number", split_in((*above, "")))
                continue
            parts = (fields["audio"] or "").replace("\\", "/").split("/")
            split = split_in((*above, *parts[:-1], parts[-1] if by_name else ""))
            made = row_of_fields(fields, query, notes, [file.parent], split)
            if made is not None:
                yield Row(source, made, fields.get("split") or split)
    encodings.note(notes)


_NO_CELL = "\0"


def _cell(value: object) -> str | None:
    """Return a value as the cell of a table; `_NO_CELL` for a list and the like."""
    if value is None or isinstance(value, str):
        return value.strip() if value else None
    return str(value) if isinstance(value, int | float) else _NO_CELL


Read = Iterator[tuple[str, dict | str]]  # file:line, and the row or why there is none


def _jsonl(file: Path, query: Query, encodings: Encodings) -> Read:
    for source, line in numbered_lines(file):
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield source, f"is not JSON: {NOT_UTF8}"
        except (ValueError, RecursionError) as error:
            yield source, f"is not JSON ({error})"
        else:
            yield source, row if isinstance(row, dict) else "is not a JSON object"


def _csv(file: Path, query: Query, encodings: Encodings) -> Read:
    header, records = read_table(file, query, encodings)
    for line, record in records:
        row = record if isinstance(record, str) else dict(zip(header, record, strict=True))
        yield f"{file}:{line}", row


def _parquet(file: Path, query: Query, encodings: Encodings) -> Read:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "datasets") from error
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{file}: cannot be read as parquet ({error})") from error
    for i, row in enumerate(rows):
        yield f"{file}:{i}", row


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
