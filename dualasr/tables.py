"""Corpora whose rows stand in tables: CSV and TSV with a header, Common Voice, FLEURS."""

import csv
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from dualasr.audio import SAMPLE_RATE
from dualasr.errors import CorpusError
from dualasr.languages import code_of
from dualasr.utterance import (
    NOT_UTF8,
    Asked,
    Columns,
    Found,
    Rows,
    Utterance,
    canonical_split,
    names_a_split,
    number,
    numbered_lines,
    row_of,
)

_GUESSES = {  # in order of preference
    "audio": "audio path file filename file_name audio_path audio_file audio_filename audio_filepath filepath file_path wav "
             "wav_path wav_file clip recording",
    "text": "text sentence transcript transcription transcripts transcriptions raw_transcription utterance",
    "language": "lang language locale language_code lang_id",
    "split": "split subset partition",
    "speaker": "speaker speaker_id spk spk_id spkid client_id",
    "id": "id utt_id utterance_id uttid segment_id",
    "start": "start start_time start_s begin onset",
    "end": "end end_time end_s stop",
}  # fmt: skip
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_LONGEST = 10  # lines of one quoted row; more is a quote that was never closed
_SOUND_FOLDERS = ("audio", "clips", "wav", "wavs")


def find_tables(path: Path) -> list[Path]:
    """The tables of a corpus: a file, train/dev/test tables in a folder, or the only table of one. Raises CorpusError."""
    if path.is_file():
        return [path] if path.suffix.lower() in (".csv", ".tsv") else []
    tables = sorted(p for p in path.glob("*.*") if p.suffix.lower() in (".csv", ".tsv") and p.name[0] != "." and p.is_file())
    named = [table for table in tables if names_a_split(table.stem)]
    if len(tables) > 1 and not named:
        raise CorpusError(f"{path}: holds {len(tables)} tables, {', '.join(t.name for t in tables[:5])}; name one of them, "
                          "or call them train, dev and test.")  # fmt: skip
    return named or tables


def table_rows(tables: list[Path], asked: Asked, found: Found) -> Rows:
    """Rows of CSV or TSV files with a header; sound beside the table or in a folder audio, clips, wav or the split's."""
    for table in tables:
        lines = _lines_of(table)
        header, delimiter = _header(table, lines, asked)
        at, guessed = match_columns(asked.columns, header, asked.require_text, str(table))
        if guessed:
            found.say(guessed)
        split = table.stem if names_a_split(table.stem) else None
        found.splits.update({split} - {None})
        if "split" not in at and not asked.takes_split(split):
            continue
        roots = [table.parent, *(folder for name in _SOUND_FOLDERS if (folder := unpacked(table.parent, name)).is_dir())]
        if split:
            roots += [folder for root in tuple(roots) if (folder := unpacked(root, split)).is_dir()]
        records = _records(lines, delimiter)
        next(records)
        for line, record in records:
            if isinstance(record, list) and len(record) != len(header):
                record = f"has {len(record)} columns, the header has {len(header)}"
            if isinstance(record, str):
                yield f"{table}:{line}", record
                continue
            fields = {name: record[i].strip() for name, i in at.items()}
            if (row := row_of_fields(fields, asked, found, roots, split)) is not None:
                yield f"{table}:{line}", row


def row_of_fields(fields: dict, asked: Asked, found: Found, roots: list[Path], split: str | None) -> Utterance | str | None:
    """The row of a table's cells by `Columns` name, where `split` is the table's own; None if it is not asked for."""
    own, language = fields.get("split") or split, fields.get("language")
    found.splits.update({own} - {None})
    if not asked.takes_split(own) or not asked.takes_language(language or asked.default_language):
        return None
    audio = fields["audio"]
    return row_of(
        asked, audio, roots, fields.get("text"), language, own,
        id=fields.get("id") or (f"{split}/{audio}" if split and audio else audio), speaker=fields.get("speaker"),
        start=number(fields.get("start")), end=number(fields.get("end")),
    )  # fmt: skip


def match_columns(columns: Columns, header: list[str], require_text: bool, where: str) -> tuple[dict[str, int], str]:
    """Where each column stands, by its `Columns` name, and a sentence on what was guessed. Raises CorpusError."""
    names = [name.strip() for name in header]
    lower = [name.lower() for name in names]
    at, guessed = {}, []
    for field, given in asdict(columns).items():
        if given is not None and given not in names:
            raise CorpusError(f"{where}: has no column {given!r} for {field}; {_found(names, [given])}.")
        guesses = _GUESSES[field].split()
        name = given or next((names[lower.index(guess)] for guess in guesses if guess in lower), None)
        if name is not None:
            at[field] = names.index(name)
            if given is None:
                guessed.append(f"{field}={name}")
        elif field == "audio" or (field == "text" and require_text):
            raise CorpusError(f"{where}: has no column that can be guessed to be {field}; {_found(names, guesses)}. Name it "
                              f"with --column {field}=NAME.")  # fmt: skip
    return at, f"guessed the columns {', '.join(guessed)}" if guessed else ""


def _found(names: list[str], wanted: list[str]) -> str:
    lower = {name.lower(): name for name in names}
    near = [match for name in wanted for match in get_close_matches(name.lower(), lower, 1)]
    return f"columns found: {', '.join(names)}" + (f"; the nearest is {lower[near[0]]!r}" if near else "")


def _lines_of(table: Path) -> list[bytes]:
    with table.open("rb") as file:
        lines = file.readlines()
    if lines and lines[0][:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CorpusError(f"{table}: is UTF-16, wanted UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {table.name} > new.csv")
    if lines and lines[0].startswith(b"\xef\xbb\xbf"):
        lines[0] = lines[0][3:]
    return lines


def _records(lines: list[bytes], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line number and cells of each row, or why it has none.

    A row that does not parse costs one line, so that a quote which is never closed does not swallow the rows after it. In
    a TSV such a quote is a character of the text.
    """
    i = 0
    while i < len(lines):
        used = 1
        if lines[i].strip():
            reader = csv.reader((line.decode() for line in lines[i : i + _LONGEST]), delimiter=delimiter, strict=True)
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


def _header(table: Path, lines: list[bytes], asked: Asked) -> tuple[list[str], str]:
    """The header and its delimiter: the one by which most of the wanted columns are there, of those the most columns."""
    known = {name for field in asdict(asked.columns) for name in _GUESSES[field].split()}
    wanted = {name for name in asdict(asked.columns).values() if name}
    best: tuple[tuple[int, int, bool], list[str], str] | None = None
    for delimiter in _DELIMITERS:
        _, header = next(_records(lines, delimiter), (0, []))
        if isinstance(header, str):
            continue
        names = [name.strip() for name in header]
        hits = sum(name in wanted or name.lower() in known for name in names)
        usual = delimiter == ("\t" if table.suffix.lower() == ".tsv" else ",")
        if best is None or (hits, len(names), usual) > best[0]:
            best = (hits, len(names), usual), names, delimiter
    if best is None:
        raise CorpusError(f"{table}: its header is no row of a UTF-8 table; wanted names of columns. If it is Latin-1, convert "
                          f"it: iconv -f LATIN1 -t UTF-8 {table.name} > new.csv")  # fmt: skip
    _, header, delimiter = best
    if not header:
        raise CorpusError(f"{table}: is empty; wanted a header with columns for audio and text.")
    if len(header) == 1:
        raise CorpusError(f"{table}: has one column, {header[0][:80]!r}, when cut at {_DELIMITERS[delimiter]}; wanted columns "
                          f"for audio and text, separated by {', '.join(_DELIMITERS.values())}.")  # fmt: skip
    return header, delimiter


def find_common_voice(path: Path) -> list[Path]:
    """The tables of a Common Voice folder, which has clips/ or clips.tar.gz, of a folder of such, or such a table itself."""

    def has_clips(folder: Path) -> bool:
        return (folder / "clips").is_dir() or (folder / "clips.tar.gz").is_file()

    if path.is_file():
        tables = [path] if has_clips(path.parent) else []
    else:
        folders = [path] if has_clips(path) else sorted(filter(has_clips, path.glob("*/")))
        tables = [table for folder in folders for table in sorted(folder.glob("*.tsv"))]
    return [table for table in tables if table.suffix == ".tsv" and {"client_id", "path", "sentence"} <= {*_first(table)}]


def _first(table: Path) -> list[str]:
    """The cells of a TSV's first line."""
    with table.open("rb") as file:
        return file.readline(100_000).decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")


def common_voice_rows(tables: list[Path], asked: Asked, found: Found) -> Rows:
    """Rows of Common Voice's tables, clips in clips/; no quoting. Each table is a split of its own name.

    Where validated.tsv stands without train, dev and test, its rows belong to every split.
    """
    found.splits.update(table.stem for table in tables)
    divided = {table.parent for table in tables if names_a_split(table.stem)}
    if asked.split is None:  # each clip once: train, dev and test are drawn from validated; other and invalidated are neither
        tables = [t for t in tables if (names_a_split(t.stem) if t.parent in divided else t.stem == "validated")] or tables
    for table in tables:
        split = table.stem if table.parent in divided or table.stem != "validated" else None
        if not asked.takes_split(split):
            continue
        clips, header = unpacked(table.parent, "clips"), _first(table)
        for source, line in islice(numbered_lines(table), 1, None):
            try:
                cells = line.decode().rstrip("\r\n").split("\t")  # no quoting: a " is a character of the text
            except UnicodeDecodeError:
                yield source, NOT_UTF8
                continue
            if len(cells) != len(header):
                yield source, f"has {len(cells)} columns, the header has {len(header)}"
                continue
            row = dict(zip(header, cells, strict=True))
            if not asked.takes_language(row.get("locale") or asked.default_language):
                continue
            if os.path.basename(row["path"]) != row["path"]:
                yield source, f"audio path {row['path']} climbs out of {clips}"
                continue
            yield source, row_of(asked, row["path"], [clips], row["sentence"], row.get("locale"), split,
                                 speaker=row["client_id"])  # fmt: skip


def find_fleurs(path: Path) -> list[Path]:
    """The config folders of a FLEURS folder."""
    for pattern in ("data/*/*.tsv", "*/*.tsv", "*.tsv"):
        if found := sorted({table.parent for table in path.glob(pattern) if _is_fleurs(table)}):
            return found
    return []


def _is_fleurs(table: Path) -> bool:
    cells, audio = _first(table), table.parent / "audio"
    if len(cells) == 7 and cells[5].isdigit():
        return True
    has_header = all({cell.lower() for cell in cells} & {*_GUESSES[field].split()} for field in ("audio", "text"))
    return not has_header and ((audio / table.stem).is_dir() or (audio / f"{table.stem}.tar.gz").is_file())


def fleurs_rows(configs: list[Path], asked: Asked, found: Found) -> Rows:
    """Rows of FLEURS' tables, which have no header and no quoting."""
    for config in configs:
        name = config.resolve().name
        if not asked.takes_language(name, code_of(name)):
            continue
        for table in sorted(config.glob("*.tsv")):
            found.splits.add(table.stem)
            if asked.takes_split(table.stem):
                audio = unpacked(config / "audio", table.stem)
                for source, line in numbered_lines(table):
                    yield source, _fleurs_row(line, name, table.stem, audio, asked)


def _fleurs_row(line: bytes, config: str, split: str, audio: Path, asked: Asked) -> Utterance | str:
    try:
        columns = line.decode("utf-8-sig").rstrip("\r\n").split("\t")  # no quoting: a " is a character of the text
    except UnicodeDecodeError:
        return NOT_UTF8
    if len(columns) != 7:
        return f"has {len(columns)} columns, not FLEURS' 7"
    sentence, file_name, text, _normalised, _characters, samples, _gender = columns
    if Path(file_name).name != file_name:
        return f"audio path {file_name} climbs out of {audio}"
    if not (samples.isascii() and samples.isdigit() and len(samples) < 12):
        return f"num_samples is {samples!r}, not a count"
    return row_of(asked, file_name, [audio], text, code_of(config), canonical_split(split), sentence=sentence,
                  id=f"{config}/{split}/{Path(file_name).stem}", duration=int(samples) / SAMPLE_RATE)  # fmt: skip


def unpacked(folder: Path, name: str) -> Path:
    """folder/{name}, unpacked from folder/{name}.tar.gz if need be; it appears whole or not at all. Raises CorpusError."""
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
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:  # TarError: also a member that climbs out
        if not target.is_dir():  # else another process was faster
            raise CorpusError(f"{archive}: cannot be unpacked ({error})") from error
    return target
