"""Read FLEURS folders: tables without a header, sound in archives."""

from pathlib import Path

from dualasr.audio.load import SAMPLE_RATE
from dualasr.data.common_voice import _first
from dualasr.data.tables import GUESSES, unpacked
from dualasr.data.utterance import (
    NOT_UTF8,
    Query,
    ReadNotes,
    Row,
    Rows,
    Utterance,
    canonical_split,
    numbered_lines,
    row_of,
)
from dualasr.languages import code_of


def find_fleurs(path: Path) -> list[Path]:
    """Return the config folders of a FLEURS folder; none if it is none."""
    for pattern in ("data/*/*.tsv", "*/*.tsv", "*.tsv"):
        if found := sorted({table.parent for table in path.glob(pattern) if _is_fleurs(table)}):
            return found
    return []


def _is_fleurs(table: Path) -> bool:
    cells, audio = _first(table), table.parent / "audio"
    if len(cells) == 7 and cells[5].isdigit():
        return True
    has_header = all(
        {cell.lower() for cell in cells} & {*GUESSES[field].split()} for field in ("audio", "text")
    )
    return not has_header and (
        (audio / table.stem).is_dir() or (audio / f"{table.stem}.tar.gz").is_file()
    )


def fleurs_rows(configs: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the rows of FLEURS' tables, which have no header and no quoting."""
    for config in configs:
        name = config.resolve().name
        if not query.takes_language(name, code_of(name)):
            continue
        for table in sorted(config.glob("*.tsv")):
            notes.splits.add(table.stem)
            if query.takes_split(table.stem):
                audio = unpacked(config / "audio", table.stem)
                for source, line in numbered_lines(table):
                    row = _fleurs_row(line, name, table.stem, audio, query)
                    yield Row(source, row, canonical_split(table.stem))


def _fleurs_row(line: bytes, config: str, split: str, audio: Path, query: Query) -> Utterance | str:
    try:
        # the tables have no quoting: a " is a character of the text
        columns = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        return NOT_UTF8
    if len(columns) != 7:
        return f"has {len(columns)} columns, not FLEURS' 7"
    sentence, file_name, text, _normalised, _characters, samples, _gender = columns
    if Path(file_name).name != file_name:
        return f"audio path {file_name} climbs out of {audio}"
    if not (samples.isascii() and samples.isdigit() and len(samples) < 12):
        return f"num_samples is {samples!r}, not a count"
    return row_of(
        query,
        file_name,
        [audio],
        text,
        code_of(config),
        canonical_split(split),
        sentence=sentence,
        id=f"{config}/{split}/{Path(file_name).stem}",
        duration=int(samples) / SAMPLE_RATE,
    )
