"""Read Common Voice releases: a table for each split, and the clips beside them."""

import os
import re
from itertools import islice
from pathlib import Path

from dualasr.data.tables import unpacked
from dualasr.data.utterance import (
    NOT_UTF8,
    Query,
    ReadNotes,
    Row,
    Rows,
    names_a_split,
    numbered_lines,
    row_of,
)


def find_common_voice(path: Path) -> list[Path]:
    """Return the tables of a Common Voice release; none if it is none.

    Args:
        path: A folder with clips/ or clips.tar.gz, a folder of such folders, or one table.
    """

    def has_clips(folder: Path) -> bool:
        return (folder / "clips").is_dir() or (folder / "clips.tar.gz").is_file()

    if path.is_file():
        tables = [path] if has_clips(path.parent) else []
    else:
        folders = [path] if has_clips(path) else sorted(filter(has_clips, path.glob("*/")))
        tables = [table for folder in folders for table in sorted(folder.glob("*.tsv"))]
    return [
        table
        for table in tables
        if table.suffix == ".tsv" and {"client_id", "path", "sentence"} <= {*_first(table)}
    ]


def _first(table: Path) -> list[str]:
    """Return the cells of a TSV's first line."""
    with table.open("rb") as file:
        head = file.read(100_000).decode("utf-8-sig", "replace")
    return re.split("[\r\n]", head, maxsplit=1)[0].split("\t")


def common_voice_rows(tables: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of Common Voice's tables. Each table is a split of its own name.

    The clips are in clips/. Where validated.tsv stands without train, dev and test, its rows belong
    to every split.
    """
    notes.splits.update(table.stem for table in tables)
    divided = {table.parent for table in tables if names_a_split(table.stem)}
    # For all splits, read each clip once: train, dev and test are drawn from validated, and other
    # and invalidated are not used.
    if query.splits is None:
        tables = [
            t
            for t in tables
            if (names_a_split(t.stem) if t.parent in divided else t.stem == "validated")
        ] or tables
    for table in tables:
        split = table.stem if table.parent in divided or table.stem != "validated" else None
        if not query.takes_split(split):
            continue
        clips, header = unpacked(table.parent, "clips"), _first(table)
        for source, line in islice(numbered_lines(table), 1, None):
            try:
                # the tables have no quoting: a " is a character of the text
                cells = line.decode().rstrip("\r\n").split("\t")
            except UnicodeDecodeError:
                yield Row(source, NOT_UTF8, split)
                continue
            if len(cells) != len(header):
                yield Row(source, f"has {len(cells)} columns, the header has {len(header)}", split)
                continue
            row = dict(zip(header, cells, strict=True))
            if not query.takes_language(row.get("locale") or query.default_language):
                continue
            if os.path.basename(row["path"]) != row["path"]:
                yield Row(source, f"audio path {row['path']} climbs out of {clips}", split)
                continue
            made = row_of(
                query,
                row["path"],
                [clips],
                row["sentence"],
                row.get("locale"),
                split,
                speaker=row["client_id"],
            )
            yield Row(source, made, split)
