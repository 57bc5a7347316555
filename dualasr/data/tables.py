"""Read corpora whose rows are in CSV or TSV files with a header."""

import csv
import io
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

from dualasr.data.encoding import Encodings
from dualasr.data.utterance import (
    NOT_UTF8,
    Columns,
    Query,
    ReadNotes,
    Row,
    Rows,
    Utterance,
    names_a_split,
    number,
    row_of,
)
from dualasr.errors import CorpusError

GUESSES = {  # common names of each column, in order of preference
    "audio": (
        "audio path file filename file_name audio_path audio_file audio_filename audio_filepath"
        " filepath file_path wav wav_path wav_file clip recording"
    ),
    "text": (
        "text sentence transcript transcription transcripts transcriptions raw_transcription"
        " utterance"
    ),
    "language": "lang language locale language_code lang_id",
    "split": "split subset partition",
    "speaker": "speaker speaker_id spk spk_id spkid client_id",
    "id": "id utt_id utterance_id uttid segment_id",
    "start": "start start_time start_s begin onset",
    "end": "end end_time end_s stop",
}
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_LONGEST = 10  # lines of one quoted row; if it has more, its quote was never closed
_SOUND_FOLDERS = ("audio", "clips", "wav", "wavs")


def find_tables(path: Path) -> list[Path]:
    """Return the tables of a corpus; none if there are none.

    Args:
        path: A table, a folder with tables named train, dev and test, or a folder with one table.

    Raises:
        CorpusError: A folder holds several tables, and none has the name of a split.
    """
    if path.is_file():
        return [path] if path.suffix.lower() in (".csv", ".tsv") else []
    tables = sorted(
        p
        for p in path.glob("*.*")
        if p.suffix.lower() in (".csv", ".tsv") and p.name[0] != "." and p.is_file()
    )
    named = [table for table in tables if names_a_split(table.stem)]
    if len(tables) > 1 and not named:
        raise CorpusError(
            f"{path}: holds {len(tables)} tables, {', '.join(t.name for t in tables[:5])}; name one"
            " of them, or call them train, dev and test."
        )
    return named or tables


def table_rows(tables: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of CSV or TSV files with a header.

    Sound is looked for beside the table, in the folders audio, clips, wav and wavs beside it, and
    in folders of the split's name in each of these.
    """
    encodings = Encodings(query.default_language)
    for table in tables:
        header, records = read_table(table, query, encodings)
        encodings.note(notes)
        at, guessed = match_columns(query.columns, header, query.require_text, str(table))
        if guessed:
            notes.add(guessed)
        split = table.stem if names_a_split(table.stem) else None
        if split is not None:
            notes.splits.add(split)
        if "split" not in at and not query.takes_split(split):
            continue
        roots = [
            table.parent,
            *(
                folder
                for name in _SOUND_FOLDERS
                if (folder := unpacked(table.parent, name)).is_dir()
            ),
        ]
        if split:
            roots += [folder for root in tuple(roots) if (folder := unpacked(root, split)).is_dir()]
        for line, record in records:
            if isinstance(record, str):
                yield Row(f"{table}:{line}", record, split)
                continue
            fields = {name: record[i].strip() for name, i in at.items()}
            if (row := row_of_fields(fields, query, notes, roots, split)) is not None:
                yield Row(f"{table}:{line}", row, fields.get("split") or split)


def row_of_fields(
    fields: dict, query: Query, notes: ReadNotes, roots: list[Path], split: str | None
) -> Utterance | str | None:
    """Return the utterance of a table's row, the reason why there is none, or None.

    Args:
        fields: The cells of the row by their names in `Columns`.
        query: Which rows are wanted; another row gives None.
        notes: The split of the row is noted here.
        roots: Folders in which the sound is looked for.
        split: Split of the table, for a row that names none.
    """
    own, language = fields.get("split") or split, fields.get("language")
    if own is not None:
        notes.splits.add(own)
    if not query.takes_split(own) or not query.takes_language(language or query.default_language):
        return None
    audio = fields["audio"]
    return row_of(
        query,
        audio,
        roots,
        fields.get("text"),
        language,
        own,
        id=fields.get("id") or (f"{split}/{audio}" if split and audio else audio),
        speaker=fields.get("speaker"),
        start=number(fields.get("start")),
        end=number(fields.get("end")),
    )


def match_columns(
    columns: Columns, header: list[str], require_text: bool, where: str
) -> tuple[dict[str, int], str]:
    """Find the columns of a table.

    Args:
        columns: The names that the user gave.
        header: The names in the table.
        require_text: Whether a table without text is refused.
        where: What a message calls the table.

    Returns:
        The position of each column by its name in `Columns`, and a sentence on what was guessed
        ("" if nothing was).

    Raises:
        CorpusError: A named column is missing, or none can be guessed to hold audio or text.
    """
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    at, guessed = {}, []
    for field, given in asdict(columns).items():
        if given is not None and given not in names:
            raise CorpusError(
                f"{where}: has no column {given!r} for {field}; {_found(names, [given])}."
            )
        guesses = GUESSES[field].split()
        name = given or next(
            (names[lower.index(guess)] for guess in guesses if guess in lower), None
        )
        if name is not None:
            at[field] = names.index(name)
            if given is None:
                guessed.append(f"{field}={name}")
        elif field == "audio" or (field == "text" and require_text):
            raise CorpusError(
                f"{where}: has no column that can be guessed to be {field};"
                f" {_found(names, guesses)}. Name it with --column {field}=NAME."
            )
    return at, f"guessed the columns {', '.join(guessed)}" if guessed else ""


def _found(names: list[str], wanted: list[str]) -> str:
    lower = {name.lower(): name for name in names}
    near = [match for name in wanted for match in get_close_matches(name.lower(), lower, 1)]
    return f"columns found: {', '.join(names)}" + (
        f"; the nearest is {lower[near[0]]!r}" if near else ""
    )


def read_table(
    table: Path, query: Query, encodings: Encodings
) -> tuple[list[str], Iterator[tuple[int, list[str] | str]]]:
    """Read a CSV or TSV file.

    Args:
        table: The file. Its first line may be Excel's `sep=;`, which names the delimiter.
        query: The columns that are wanted; they help to find the delimiter.
        encodings: Decodes the file.

    Returns:
        The names of the columns; and of each row its line number, and its cells or the reason why
        it has none.

    Raises:
        CorpusError: The file has no header.
    """
    lines = _lines_of(table, encodings)
    told = re.fullmatch(rb"\s*\"?sep=(\\t|[^\"\r\n])\"?\s*", lines[0], re.I) if lines else None
    if told:
        lines[0] = b"\n"  # the lines after it keep their numbers
    delimiter = told[1].decode("utf-8", "replace").replace("\\t", "\t") if told else None
    header, delimiter = _header(table, lines, query, delimiter)
    records = _records(lines, delimiter)
    next(records)
    return header, (
        (
            (line, f"has {len(record)} columns, the header has {len(header)}")
            if isinstance(record, list) and len(record) != len(header)
            else (line, record)
        )
        for line, record in records
    )


def _lines_of(table: Path, encodings: Encodings) -> list[bytes]:
    """Return the lines of a file in UTF-8; those of older Macs end with CR."""
    data = encodings.as_utf8(table.read_bytes(), table.name)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return io.BytesIO(data.replace(b"\r\r\n", b"\r\n")).readlines()


def _records(lines: list[bytes], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line number of each row, and its cells or the reason why it has none.

    1. Parse a row from at most ten lines, since a quoted cell may hold line breaks.
    2. If that fails, skip only one line: a quote that is never closed does not cost the rows after
       it. In a TSV such a quote is a character of the text, and the line is cut at its tabs.
    """
    i = 0
    record: list[str] | str
    while i < len(lines):
        used = 1
        if lines[i].strip():
            reader = csv.reader(
                (line.decode() for line in lines[i : i + _LONGEST]),
                delimiter=delimiter,
                strict=True,
            )
            try:
                record, used = next(reader), reader.line_num
            except UnicodeDecodeError:
                record = NOT_UTF8
            except csv.Error as error:
                record = f"is no row of a table ({error})"
                if delimiter == "\t":
                    record = lines[i].decode().rstrip("\r\n").split("\t")
            yield i + 1, record
        i += used


def _header(
    table: Path, lines: list[bytes], query: Query, told: str | None = None
) -> tuple[list[str], str]:
    """Return the header of a table and its delimiter. Raises CorpusError.

    A delimiter that the file tells is taken if it gives columns. Else it is the one that gives most
    known columns; of equal ones, the one that gives most columns, then the usual one for the file's
    suffix.
    """
    known = {name for field in asdict(query.columns) for name in GUESSES[field].split()}
    wanted = {name for name in asdict(query.columns).values() if name}
    best: tuple[tuple[int, int, bool], list[str], str] | None = None
    for delimiter in dict.fromkeys([*([told] if told else []), *_DELIMITERS]):
        _, header = next(_records(lines, delimiter), (0, []))
        if isinstance(header, str):
            continue
        names = [name.strip() for name in header]
        if delimiter == told and len(names) > 1:
            return names, delimiter
        hits = sum(name in wanted or name.lower() in known for name in names)
        usual = delimiter == ("\t" if table.suffix.lower() == ".tsv" else ",")
        if best is None or (hits, len(names), usual) > best[0]:
            best = (hits, len(names), usual), names, delimiter
    if best is None:
        raise CorpusError(
            f"{table}: its header is no row of a table in UTF-8, or in another encoding that can be"
            " guessed; wanted names of columns. Save it as UTF-8."
        )
    _, header, delimiter = best
    if not header:
        raise CorpusError(f"{table}: is empty; wanted a header with columns for audio and text.")
    if len(header) == 1:
        cut = _DELIMITERS.get(delimiter, repr(delimiter))
        raise CorpusError(
            f"{table}: has one column, {header[0][:80]!r}, when cut at {cut};"
            f" wanted columns for audio and text, separated by {', '.join(_DELIMITERS.values())}."
        )
    return header, delimiter


def unpacked(folder: Path, name: str) -> Path:
    """Return folder/{name}, unpacked from folder/{name}.tar.gz if it is not there yet.

    It appears whole or not at all.

    Args:
        folder: Where the archive is.
        name: Name of the folder in it.

    Raises:
        CorpusError: The archive cannot be unpacked, or has a file outside its folder.
    """
    target, archive = folder / name, folder / f"{name}.tar.gz"
    if target.is_dir() or not archive.is_file():
        return target
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
            flat = Path(temporary, "unpacked")
            with tarfile.open(archive) as tar:
                tar.extractall(flat, filter="data")
            nested = flat / name
            os.rename(nested if nested.is_dir() else flat, target)
    # TarError is raised for a member outside the folder, too
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if not target.is_dir():  # otherwise another process was faster
            raise CorpusError(f"{archive}: cannot be unpacked ({error})") from error
    return target
