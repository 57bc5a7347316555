"""Transcribed speech on disk as one stream of utterances, from a JSONL manifest or a FLEURS folder.

Only the index is read, never the sound. A row that cannot be used is kept in sight: it is listed with its file, line
and reason, so that utterances and skipped rows add up to the rows asked for.
"""

import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dualasr.audio import SAMPLE_RATE
from dualasr.errors import CorpusError


@dataclass(frozen=True)
class Utterance:
    """One clip and what is said in it; `duration` in seconds, `sentence` the FLoRes id that FLEURS languages share."""

    id: str
    text: str
    language: str
    audio: Path
    duration: float | None
    split: str
    speaker: str | None = None
    sentence: str | None = None


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used; `source` is file:line."""

    source: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """One split of a corpus, as read from `path` in `layout` "jsonl" or "fleurs"."""

    utterances: tuple[Utterance, ...]
    skipped: tuple[SkippedRow, ...]
    path: Path
    layout: str

    @property
    def hours(self) -> float:
        """Hours of sound, over the utterances whose duration is known."""
        return sum(utterance.duration or 0.0 for utterance in self.utterances) / 3600

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted({utterance.language for utterance in self.utterances}))


def load_corpus(
    path: str | Path,
    split: str,
    *,
    languages: Collection[str] | None = None,
    default_language: str | None = None,
    strict: bool = False,
    require_text: bool = True,
) -> Corpus:
    """The utterances of one split, in the order of the files. Two layouts work:

    - jsonl: a .jsonl file, or a folder with manifest.jsonl. Fields: audio (or audio_filepath; absolute, or inside the
      manifest's folder), text, lang (or language; else `default_language`), and if known id (else the audio path),
      split (without one, a row belongs to every split), speaker, duration in seconds, sentence.
    - fleurs: a folder with data/{config}/{split}.tsv or {config}/{split}.tsv, or such a config folder itself. Sound in
      audio/{split}/, or in audio/{split}.tar.gz, which is unpacked there once. The text is the raw transcription, the
      language the config's name up to the first "_" (`cmn_hans_cn` is `cmn`), the id config/split/file stem.

    `languages` keeps only these (FLEURS: languages or configs). A row that is malformed, a duplicate, or without audio
    path, audio file, language or (if `require_text`) text is skipped and listed; with `strict` it raises.
    Raises CorpusError if the path is neither layout, no row is usable, or an archive is damaged or climbs out.
    """
    path = Path(path)
    wanted = None if languages is None else frozenset(languages)
    splits: set[str] = set()  # those found; filled as the rows are read
    manifest = path / "manifest.jsonl" if path.is_dir() else path
    if manifest.is_file() and manifest.suffix == ".jsonl":
        layout, rows = "jsonl", _jsonl_rows(manifest, split, wanted, default_language, splits)
    elif configs := _fleurs_configs(path):
        layout, rows = "fleurs", _fleurs_rows(configs, split, wanted, splits)
    else:
        raise CorpusError(
            f"{path}: {'is no corpus' if path.exists() else 'does not exist'}; wanted JSONL (a .jsonl file or a folder "
            "with manifest.jsonl) or a FLEURS folder (data/{config}/{split}.tsv, {config}/{split}.tsv or {split}.tsv)"
        )

    utterances: dict[str, Utterance] = {}
    skipped: list[SkippedRow] = []
    for source, row in rows:
        if isinstance(row, str):
            reason = row
        elif require_text and not row.text:
            reason = "has no text"
        elif not os.path.isfile(row.audio):
            reason = f"audio file {row.audio} is missing"
        elif row.id in utterances:
            reason = f"id {row.id!r} was used before"
        else:
            utterances[row.id] = row
            continue
        if strict:
            raise CorpusError(f"{source}: {reason}")
        skipped.append(SkippedRow(source, reason))
    if not utterances:
        of = "" if wanted is None else f" for the languages {', '.join(sorted(wanted))}"
        found = f"splits found: {', '.join(sorted(splits)) or 'none'}; {len(skipped)} rows were skipped"
        first = f", the first one at {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise CorpusError(f"{path}: split {split!r} has no usable rows{of}; {found}{first}")
    return Corpus(tuple(utterances.values()), tuple(skipped), path, layout)


def text_file(folder: Path, language: str) -> Path:
    """The sentences of a language in a folder of text, `<code>.txt` or `*_<code>.txt`. Raises CorpusError."""
    found = sorted([*folder.glob(f"*_{language}.txt"), *folder.glob(f"{language}.txt")])
    if not found:
        raise CorpusError(f"{folder} has no file {language}.txt or *_{language}.txt; put one sentence a line there.")
    return found[0]


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a JSONL manifest that `load_corpus` reads back, whole or not at all.

    Audio inside the manifest's folder is named relative to it, so the folder can be moved; other audio absolutely.
    """
    path = Path(path)
    folder = os.path.abspath(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for utterance in utterances:
                audio = Path(os.path.abspath(utterance.audio))
                row = asdict(utterance)
                row["lang"] = row.pop("language")
                row["audio"] = (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix()
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_Rows = Iterator[tuple[str, Utterance | str]]  # file:line, and what it holds or why it holds nothing usable


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:  # bytes, so that one line of bad UTF-8 is one skipped row
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def _jsonl_rows(manifest: Path, split: str, wanted: frozenset | None, default: str | None, splits: set) -> _Rows:
    for source, line in _lines(manifest):
        fields = _json_fields(line)
        if isinstance(fields, str):
            yield source, fields
            continue
        splits.update({fields["split"]} - {None, ""})
        language = fields["lang"] or fields["language"] or default
        if fields["split"] in (None, "", split) and (wanted is None or not language or language in wanted):
            yield source, _json_utterance(fields, manifest.parent, split, language)


def _json_fields(line: bytes) -> dict | str:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error})"
    if not isinstance(fields, dict):
        return "is not a JSON object"
    for name in ("text", "lang", "language", "split", "audio", "audio_filepath"):
        if not isinstance(fields.setdefault(name, None), str | None):
            return f"{name} is {fields[name]!r}, not a string"
    return fields


def _json_utterance(fields: dict, folder: Path, split: str, language: str | None) -> Utterance | str:
    audio, duration = fields["audio"] or fields["audio_filepath"], fields.get("duration")
    if not audio:
        return "has no audio path"
    if not os.path.isabs(audio) and os.path.normpath(audio).split(os.sep)[0] == os.pardir:
        return f"audio path {audio} climbs out of the manifest's folder"
    if not language:
        return "has no lang, and no default language was given"
    if duration is not None and not (type(duration) in (int, float) and 0 <= duration < 1e9):
        return f"duration is {duration!r}, not seconds"
    id, *rest = (None if fields.get(name) is None else str(fields[name]) for name in ("id", "speaker", "sentence"))
    text, duration = (fields["text"] or "").strip(), None if duration is None else float(duration)
    return Utterance(id or audio, text, language, folder / audio, duration, split, *rest)


def _fleurs_configs(path: Path) -> list[Path]:
    for pattern in ("data/*/*.tsv", "*/*.tsv", "*.tsv"):
        if found := sorted({table.parent for table in path.glob(pattern)}):
            return found
    return []


def _fleurs_rows(configs: list[Path], split: str, wanted: frozenset | None, splits: set) -> _Rows:
    for config in configs:
        name = config.resolve().name
        if wanted is not None and not wanted & {name, name.split("_")[0]}:
            continue
        tables = {table.stem: table for table in config.glob("*.tsv")}
        splits.update(tables)
        if split in tables:
            audio = _unpacked(config / "audio", split)
            for source, line in _lines(tables[split]):
                yield source, _fleurs_utterance(line, name, split, audio)


def _fleurs_utterance(line: bytes, config: str, split: str, audio: Path) -> Utterance | str:
    try:
        columns = line.decode("utf-8-sig").rstrip("\r\n").split("\t")  # no quoting: a " is a character of the text
    except UnicodeDecodeError:
        return "is not UTF-8"
    if len(columns) != 7:
        return f"has {len(columns)} columns, not FLEURS' 7"
    sentence, file_name, text, _normalised, _characters, samples, _gender = columns
    if not file_name:
        return "has no audio path"
    if Path(file_name).name != file_name:
        return f"audio path {file_name} climbs out of {audio}"
    if not (samples.isascii() and samples.isdigit() and len(samples) < 12):
        return f"num_samples is {samples!r}, not a count"
    clip, language, duration = Path(file_name).stem, config.split("_")[0], int(samples) / SAMPLE_RATE
    id, audio = f"{config}/{split}/{clip}", audio / file_name
    return Utterance(id, text.strip(), language, audio, duration, split, sentence=sentence)


def _unpacked(audio: Path, split: str) -> Path:
    """The folder audio/{split}, unpacked from audio/{split}.tar.gz if need be; it appears whole or not at all."""
    folder, archive = audio / split, audio / f"{split}.tar.gz"
    if folder.is_dir() or not archive.is_file():
        return folder
    try:
        with tempfile.TemporaryDirectory(dir=audio, prefix=f".{split}-") as temporary:
            flat = Path(temporary, "unpacked")
            with tarfile.open(archive) as tar:
                tar.extractall(flat, filter="data")
            nested = flat / split
            os.rename(nested if nested.is_dir() else flat, folder)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:  # TarError: also a member that climbs out
        if not folder.is_dir():  # else another process was faster
            raise CorpusError(f"{archive}: cannot be unpacked ({error})") from error
    return folder
