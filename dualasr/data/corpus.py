"""Transcribed speech on disk as one stream of utterances, whatever its layout.

Only the index is read, never the sound. A row that cannot be used is kept in sight: it is listed
with its file, line and reason, so that utterances and skipped rows add up to the rows asked for.
"""

import json
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dualasr.atomic import atomic_file
from dualasr.audio.load import SUFFIXES, Sound
from dualasr.data.annotations import find_segments, segment_rows
from dualasr.data.audiofolder import audiofolder_rows, find_audiofolder
from dualasr.data.common_voice import common_voice_rows, find_common_voice
from dualasr.data.fleurs import find_fleurs, fleurs_rows
from dualasr.data.huggingface import (
    dataset_rows,
    find_parquet,
    hub_rows,
    is_hub_id,
    is_saved,
    parquet_rows,
)
from dualasr.data.kaldi import find_kaldi, kaldi_rows
from dualasr.data.tables import find_tables, table_rows
from dualasr.data.utterance import (
    NOT_UTF8,
    Columns,
    Query,
    ReadNotes,
    Row,
    Rows,
    SkippedRow,
    Utterance,
    numbered_lines,
    row_of,
    same_split,
    within_recording,
)
from dualasr.errors import CorpusError
from dualasr.text import invisible, one_form

__all__ = [
    "Columns",
    "Corpus",
    "SkippedRow",
    "Utterance",
    "load_corpus",
    "load_splits",
    "text_file",
    "write_manifest",
]


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus, or all of it.

    Attributes:
        utterances: Its utterances, in the order of the files.
        skipped: Rows that cannot be used, with their reasons.
        path: Where it was read from.
        layout: How it is laid out, as "jsonl" or "fleurs".
        splits: The names of all splits that were seen.
        notes: What was guessed or changed, a sentence each.
        changed: What `text.one_form` changed in the texts, and the ids of the clips of each kind.
    """

    utterances: tuple[Utterance, ...]
    skipped: tuple[SkippedRow, ...]
    path: Path
    layout: str
    splits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def hours(self) -> float:
        """Hours of sound of the utterances whose duration is known."""
        return sum(utterance.duration or 0.0 for utterance in self.utterances) / 3600

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages of its utterances, sorted."""
        return tuple(sorted({utterance.language for utterance in self.utterances}))


def load_corpus(
    path: str | Path,
    split: str | None,
    *,
    languages: Collection[str] | None = None,
    default_language: str | None = None,
    strict: bool = False,
    require_text: bool = True,
    columns: Columns = Columns(),
    tier: str | None = None,
) -> Corpus:
    """Read one split of a corpus. The layout is known by what is there:

    - jsonl: a .jsonl file, or a folder with manifest.jsonl. Fields: audio (or audio_filepath;
      absolute, or inside the manifest's folder), text, lang (or language; else `default_language`),
      and if known id (else the audio path), split, speaker, duration in seconds, sentence; of a
      segment start and end in seconds, or NeMo's offset and duration.
    - datasets: a folder that `datasets` saved, or `datasets:owner/name[:config]`,
      `hf://datasets/owner/name[:config]`.
    - audiofolder: what `datasets` calls an AudioFolder: metadata.jsonl, .csv or .parquet with a
      column file_name, in a folder, or in one for each split.
    - parquet: a .parquet file, or a folder with such files, as data/train-00000-of-00002.parquet.
    - kaldi: a folder with wav.scp and text, or a folder of such folders, each a split of its name.
    - common-voice: a folder with the release's .tsv files and clips/, or clips.tar.gz.
    - fleurs: a folder with data/{config}/{split}.tsv or {config}/{split}.tsv, or such a config
      folder itself. Sound in audio/{split}/, or in audio/{split}.tar.gz, which is unpacked there
      once. The text is the raw transcription, the language the config's name up to the first "_"
      (`cmn_hans_cn` is `cmn`), the id config/split/file stem.
    - table: a .csv or .tsv file with a header, or a folder with one, or with train, dev and test
      tables. Sound beside it, or in audio/, clips/ or wav/.
    - segments: .eaf, .TextGrid, .srt or .vtt beside recordings of the same stem, or of the stem
      before a language: talk.ky.srt and talk.wav.

    A row that is malformed, a duplicate, a segment that ends more than 0.1 s after its recording,
    or without audio path, audio file, language or text is skipped and listed. Texts are put into
    the one form of `text.one_form`.

    Args:
        path: The corpus.
        split: The split's name; None for all. valid, validation, val and dev are one split; a row
            without a split belongs to every split.
        languages: The only languages to keep (FLEURS: languages or configs); None for all.
        default_language: Of rows that name none.
        strict: Whether a row that would be skipped raises an error.
        require_text: Whether a row without text is skipped.
        columns: Names of a table's columns; the others are guessed, as `notes` say.
        tier: Name of the tier of ELAN files and TextGrids; None for all.

    Returns:
        The utterances in the order of the files, what was skipped, and what was guessed.

    Raises:
        CorpusError: The path is in no layout, lacks a column or tier, no row is usable, most rows
            are not UTF-8, or an archive is damaged or climbs out of its folder.
        MissingExtraError: The layout needs the package `datasets`, which is not installed.
    """
    wanted = None if languages is None else frozenset(languages)
    splits = None if split is None else (split,)
    query = Query(splits, wanted, default_language, require_text, columns, tier)
    collected, _ = _collect(Path(path), query, splits or (None,), strict)
    [found] = collected.values()
    if isinstance(found, CorpusError):
        raise found
    return found


@dataclass(frozen=True)
class CorpusSplits:
    """Several splits of a corpus, from one reading.

    Attributes:
        found: By the split's name, what was read, or why there is nothing usable.
        names: The names of all splits that were seen.
    """

    found: Mapping[str, Corpus | CorpusError]
    names: tuple[str, ...]

    def split(self, name: str) -> Corpus:
        """Return one of these splits. Raises CorpusError if it has no usable row."""
        found = self.found[name]
        if isinstance(found, CorpusError):
            raise found
        return found


def load_splits(
    path: str | Path,
    splits: Sequence[str],
    *,
    languages: Collection[str] | None = None,
    default_language: str | None = None,
    strict: bool = False,
    require_text: bool = True,
    columns: Columns = Columns(),
    tier: str | None = None,
) -> CorpusSplits:
    """Read several splits of a corpus at once. Each is what `load_corpus` gives for it.

    Args:
        path: The corpus.
        splits: The splits' names.
        languages: As in `load_corpus`, like all that follow.
        default_language: Of rows that name none.
        strict: Whether a row that would be skipped is an error of its split.
        require_text: Whether a row without text is skipped.
        columns: Names of a table's columns.
        tier: Name of the tier of ELAN files and TextGrids.

    Returns:
        The splits.

    Raises:
        CorpusError: The corpus as a whole cannot be read.
        MissingExtraError: The layout needs the package `datasets`, which is not installed.
    """
    wanted = None if languages is None else frozenset(languages)
    query = Query(tuple(splits), wanted, default_language, require_text, columns, tier)
    collected, notes = _collect(Path(path), query, splits, strict)
    found = {name: corpus for name, corpus in collected.items() if name is not None}
    return CorpusSplits(found, tuple(sorted(notes.splits)))


def _collect(
    path: Path, query: Query, splits: Sequence[str | None], strict: bool
) -> tuple[dict[str | None, Corpus | CorpusError], ReadNotes]:
    """Read the rows once, and give each to the splits that it belongs to; the split None is all."""
    notes = ReadNotes()
    lengths: dict[Path, float | str] = {}  # seconds of recordings, or why there are none
    layout, rows = _read(path, query, notes)
    collectors = [_Collector(split, query, strict, lengths) for split in splits]
    for row in rows:
        for collector in collectors:
            collector.add(row)
    return {
        collector.split: collector.finish(path, layout, notes) for collector in collectors
    }, notes


@dataclass
class _Collector:
    """The usable rows of one split, and why others are not usable."""

    split: str | None
    query: Query
    strict: bool
    lengths: dict[Path, float | str]
    utterances: dict[str, Utterance] = field(default_factory=dict)
    skipped: list[SkippedRow] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    garbled: int = 0  # rows that are not UTF-8
    error: CorpusError | None = None

    def add(self, row: Row) -> None:
        """Take a row if it belongs to the split."""
        if self.error or (self.split and row.split and not same_split(row.split, self.split)):
            return
        usable = self._usable(row.content)
        if not isinstance(usable, str):
            self.utterances[usable.id] = self._in_one_form(usable)
            return
        self.garbled += NOT_UTF8 in usable
        self.skipped.append(SkippedRow(row.source, usable))
        if self.strict:
            self.error = CorpusError(f"{row.source}: {usable}")

    def _usable(self, row: Utterance | str) -> Utterance | str:
        """The utterance under the split's own name, or why it cannot be used."""
        if isinstance(row, str):
            return row
        if self.query.require_text and not one_form(row.text).strip():
            return "has no text"
        if not os.path.isfile(row.audio):
            return f"audio file {row.audio} is missing"
        if row.id in self.utterances:
            return f"id {row.id!r} was used before"
        bounded = within_recording(row, self.lengths)
        if isinstance(bounded, str) or self.split is None:
            return bounded
        return replace(bounded, split=self.split)

    def _in_one_form(self, row: Utterance) -> Utterance:
        """The utterance with its text in the one form; all texts of all layouts pass here."""
        text = one_form(row.text).strip()
        if text == row.text:
            return row
        kinds = [
            f"invisible characters: U+{ord(char):04X} {unicodedata.name(char, '')}".rstrip()
            for char in invisible(row.text)
        ]
        if not unicodedata.is_normalized("NFC", row.text):
            kinds.append("texts in another Unicode form than NFC")
        for kind in kinds:
            self.changed.setdefault(kind, []).append(row.id)
        return replace(row, text=text)

    def finish(self, path: Path, layout: str, notes: ReadNotes) -> Corpus | CorpusError:
        """The split as a corpus, or why there is none."""
        utterances, skipped, query = self.utterances, self.skipped, self.query
        if self.error:
            return self.error
        if 2 * self.garbled > len(utterances) + len(skipped):
            return CorpusError(
                f"{path}: {self.garbled} of {len(utterances) + len(skipped)} rows are not UTF-8; if"
                " it is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 OLD > NEW"
            )
        if not utterances:
            languages = ", ".join(sorted(query.languages or ()))
            of = "" if query.languages is None else f" for the languages {languages}"
            names = ", ".join(sorted(notes.splits)) or "none"
            splits = f"splits found: {names}; {len(skipped)} rows were skipped"
            first = (
                f", the first one at {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            )
            which = "" if self.split is None else f"split {self.split!r} "
            return CorpusError(f"{path}: {which}has no usable rows{of}; {splits}{first}")
        changed = tuple((kind, tuple(ids)) for kind, ids in sorted(self.changed.items()))
        said = [f"{kind} ({len(ids)})" for kind, ids in changed]
        return Corpus(
            tuple(utterances.values()),
            tuple(skipped),
            path,
            layout,
            tuple(sorted(notes.splits)),
            (*notes.notes, *([f"put into one form: {'; '.join(said)}"] if said else [])),
            changed,
        )


def _read(path: Path, query: Query, notes: ReadNotes) -> tuple[str, Rows]:
    """The layout of a path, and its rows. Raises CorpusError if it is in none."""
    manifest = path / "manifest.jsonl" if path.is_dir() else path
    has_manifest = manifest.is_file() and manifest.suffix == ".jsonl"
    if is_hub_id(path) and not path.exists():
        return "datasets", hub_rows(path, query, notes)
    is_plain = not has_manifest or path.is_file()
    if is_plain and not is_saved(path) and (files := find_audiofolder(path)):
        return "audiofolder", audiofolder_rows(path, files, query, notes)
    if has_manifest:
        return "jsonl", _jsonl_rows(manifest, query, notes)
    if is_saved(path):
        return "datasets", dataset_rows(path, query, notes)
    if folders := find_kaldi(path):
        return "kaldi", kaldi_rows(path, folders, query, notes)
    if query.columns == Columns():  # named columns are a table's
        if tables := find_common_voice(path):
            return "common-voice", common_voice_rows(tables, query, notes)
        if configs := find_fleurs(path):
            return "fleurs", fleurs_rows(configs, query, notes)
    if tables := find_tables(path):
        return "table", table_rows(tables, query, notes)
    if files := find_parquet(path):
        return "parquet", parquet_rows(path, files, query, notes)
    if files := find_segments(path):
        return "segments", segment_rows(path, files, query, notes)
    raise CorpusError(
        f"{path}: {'is no corpus' if path.exists() else 'does not exist'}; wanted JSONL (a .jsonl"
        " file or a folder with manifest.jsonl), a .csv or .tsv table with audio beside it, a"
        " folder of Common Voice, Kaldi or `datasets` (saved, parquet, or an AudioFolder with a"
        " metadata file that has a column file_name), recordings with .eaf, .TextGrid, .srt or"
        " .vtt beside them, or a FLEURS folder (data/{config}/{split}.tsv,"
        " {config}/{split}.tsv or {split}.tsv)"
    )


def text_file(folder: Path, language: str) -> Path:
    """Find the sentences of a language in a folder of text files.

    Args:
        folder: Holds `<code>.txt` or `*_<code>.txt`.
        language: The language's code.

    Returns:
        The file; one sentence a line.

    Raises:
        CorpusError: There is no such file.
    """
    found = sorted([*folder.glob(f"*_{language}.txt"), *folder.glob(f"{language}.txt")])
    if not found:
        raise CorpusError(
            f"{folder} has no file {language}.txt or *_{language}.txt; put one sentence a line"
            " there."
        )
    return found[0]


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a JSONL manifest that `load_corpus` reads back, whole or not at all.

    Audio inside the manifest's folder is named relative to it, so that the folder can be moved;
    other audio absolutely.

    Args:
        path: The manifest.
        utterances: Its rows.

    Raises:
        RunError: It cannot be written.
    """
    path = Path(path)
    folder = os.path.abspath(path.parent)
    with atomic_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        for utterance in utterances:
            audio = Path(os.path.abspath(utterance.audio))
            row = asdict(utterance)
            row["lang"] = row.pop("language")
            row["audio"] = (
                audio.relative_to(folder) if audio.is_relative_to(folder) else audio
            ).as_posix()
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _jsonl_rows(manifest: Path, query: Query, notes: ReadNotes) -> Rows:
    for source, line in numbered_lines(manifest):
        fields = _json_fields(line)
        if isinstance(fields, str):
            yield Row(source, fields, None)
            continue
        split, language = fields["split"], fields["lang"] or fields["language"]
        notes.splits.update({split} - {None, ""})
        if not query.takes_split(split):
            continue
        if not query.takes_language(language or query.default_language):
            continue
        id, speaker, sentence = (
            None if fields.get(name) is None else str(fields[name])
            for name in ("id", "speaker", "sentence")
        )
        start = fields.get("start") if fields.get("start") is not None else fields.get("offset")
        row = row_of(
            query,
            fields["audio"] or fields["audio_filepath"],
            [manifest.parent],
            fields["text"],
            language,
            split,
            id=id,
            speaker=speaker,
            sentence=sentence,
            start=start,
            end=fields.get("end"),
            duration=fields.get("duration"),
        )
        yield Row(source, row, split)


def _json_fields(line: bytes) -> dict | str:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return f"is not JSON: {NOT_UTF8}"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    if not isinstance(fields, dict):
        return "is not a JSON object"
    for name in ("text", "lang", "language", "split", "audio", "audio_filepath"):
        if not isinstance(fields.setdefault(name, None), str | None):
            return f"{name} is {fields[name]!r}, not a string"
    return fields


def sounds_below(path: Path) -> list[Sound]:
    """Return every sound file below a folder, sorted; none for what is no folder."""
    return (
        [Sound(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
        if path.is_dir()
        else []
    )
