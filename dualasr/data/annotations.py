"""Read long recordings with a transcript beside them: ELAN, Praat TextGrid, SRT and WebVTT.

Each segment is an utterance. The parsers are our own, because a segment that cannot be used must be
reported with its line. The readers on the package index drop such a segment, or stop at it; each
parser says what was tried.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from dualasr.audio.load import SUFFIXES, audio_duration
from dualasr.data.captions import parse_subtitles
from dualasr.data.elan import parse_elan
from dualasr.data.encoding import Encodings
from dualasr.data.textgrid import parse_textgrid
from dualasr.data.utterance import (
    SLACK,
    Annotation,
    Annotations,
    Media,
    Query,
    ReadNotes,
    Row,
    Rows,
    names_a_split,
    row_of,
)
from dualasr.errors import AudioError, CorpusError
from dualasr.languages import LANGUAGES, codes_of

__all__ = [
    "Annotation",
    "find_segments",
    "parse_elan",
    "parse_subtitles",
    "parse_textgrid",
    "segment_rows",
]

_PARSERS: dict[str, Callable[[str], Annotations]] = {
    ".eaf": parse_elan,
    ".textgrid": parse_textgrid,
    ".srt": parse_subtitles,
    ".vtt": parse_subtitles,
}
# a part of a name that says of what kind subtitles are: talk.ky.forced.srt
_KINDS = {"auto", "cc", "default", "forced", "orig", "sdh"}
_NAMES = {language.name.lower(): language.code for language in LANGUAGES.values()}


def find_segments(path: Path) -> list[Path]:
    """Return the transcripts below a folder, or the file itself if it is one."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        file
        for file in files
        if file.suffix.lower() in _PARSERS and not file.name.startswith(".") and file.is_file()
    ]


@dataclass
class _Counts:
    """What was met in the files."""

    tiers: Counter = field(default_factory=Counter)
    points: int = 0
    repeats: int = 0


def segment_rows(root: Path, files: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the segments of transcripts, each beside its recording.

    The recording has the same stem, without the language that the name of subtitles may end in:
    `talk.ky.srt` belongs to `talk.wav`. An ELAN file may name another one. Where a recording has
    subtitles in several languages, each row has the language of its file. Files below a folder
    train, dev or test belong to that split. Empty intervals are no rows.

    Args:
        root: The corpus, a folder or a transcript.
        files: The transcripts in it.
        query: Which rows are wanted; all tiers are read unless it names one.
        notes: Splits, tiers and advice are noted here.

    Raises:
        CorpusError: No file has the tier that the query names.
    """
    counts, encodings = _Counts(), Encodings(query.default_language)
    for file, language in _languages(root, files, query).items():
        place = Path(file.name) if file == root else file.relative_to(root)
        split = next((part for part in place.parts[:-1] if names_a_split(part)), None)
        if split is not None:
            notes.splits.add(split)
        if not query.takes_split(split) or not query.takes_language(language):
            continue
        try:
            read = _PARSERS[file.suffix.lower()](encodings.decode(file.read_bytes(), file.name))
        except (ValueError, OSError) as error:
            yield Row(str(file), str(error), split)
            continue
        yield from _rows_of(root, file, read, language, split, query, notes, counts)
    tiers = counts.tiers
    encodings.note(notes)
    if counts.points:
        notes.add(f"points of TextGrids have no length and were left out: {counts.points}")
    if counts.repeats:
        notes.add(f"cues of rolling captions that say nothing new were left out: {counts.repeats}")
    if query.tier is not None and tiers and query.tier not in tiers:
        near = get_close_matches(query.tier, tiers, 1)
        raise CorpusError(
            f"{root}: has no tier {query.tier!r} with text; tiers found: {', '.join(sorted(tiers))}"
            + (f"; the nearest is {near[0]!r}." if near else ".")
        )
    if query.tier is None and len(tiers) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(tiers.items()))
        notes.add(f"read {len(tiers)} tiers: {listed}; choose one with --tier")


def _rows_of(
    root: Path,
    file: Path,
    read: Annotations,
    language: str | None,
    split: str | None,
    query: Query,
    notes: ReadNotes,
    counts: _Counts,
) -> Iterator[Row]:
    """The rows of one transcript."""
    place = Path(file.name) if file == root else file.relative_to(root)
    audio, shift = _recording(root, file, read)
    if audio.suffix.lower() not in (".wav", ".flac"):
        notes.add(
            "recordings other than wav and flac are decoded from their start for each segment;"
            " convert long ones"
        )
    counts.points += read.points
    counts.repeats += read.repeats
    numbers: Counter[str] = Counter()
    for line, segment in read:
        if isinstance(segment, str):
            yield Row(f"{file}:{line}", segment, split)
            continue
        tier, text = segment.tier, " ".join(segment.text.split())
        if not text:
            continue
        numbers[tier] += 1
        if tier:
            counts.tiers[tier] += 1
            if query.tier not in (None, tier):
                continue
        if segment.start is None or segment.end is None:
            yield Row(f"{file}:{line}", "has no time", split)
            continue
        row = row_of(
            query,
            str(audio.absolute()) if audio.parent != file.parent else audio.name,
            [file.parent],
            text,
            language,
            split,
            id=":".join(filter(None, (place.as_posix(), tier, str(numbers[tier])))),
            speaker=segment.speaker,
            start=round(segment.start + shift, 6),
            end=round(segment.end + shift, 6),
        )
        yield Row(f"{file}:{line}", row, split)


def _languages(root: Path, files: list[Path], query: Query) -> dict[Path, str | None]:
    """Return the language of each file.

    It is the query's default. Where several files of one recording have different languages in
    their names, or there is no default, it is the one in the name.
    """
    found = {file: _beside(file) for file in files}
    named: dict[Path | None, set[str]] = {}
    for audio, language in found.values():
        named.setdefault(audio, set()).add(language or "")
    default = query.default_language
    return {
        file: (
            default
            if language is None
            or (default and (audio is None or len(named[audio]) == 1))
            or _is_same(language, default)
            else language
        )
        for file, (audio, language) in found.items()
    }


def _is_same(one: str, other: str | None) -> bool:
    """Whether two codes are of one language, as `ky` and `ky-KG`."""
    return other is not None and not set(codes_of(one)).isdisjoint(codes_of(other))


def _beside(file: Path) -> tuple[Path | None, str | None]:
    """Return the recording that a transcript belongs to by its name, and the language in it."""
    name, language = file.name[: -len(file.suffix)], None
    while name:
        if (sound := _sound(file.parent, name)) is not None:
            return sound, language
        name, _, part = name.rpartition(".")
        if (code := _language_in(part)) is not None:
            language = code
        elif part.lower() not in _KINDS:
            break
    return None, None


def _language_in(part: str) -> str | None:
    """Return the code of a language in a part of a name: `ky`, `pt-BR`, `Kyrgyz`."""
    part = part.lower()
    if part in _NAMES:
        return _NAMES[part]
    is_code = re.fullmatch(r"[a-z]{2,3}([-_][a-z0-9]{2,8})*", part) and part not in _KINDS
    return part.replace("_", "-") if is_code else None


def _sound(folder: Path, name: str) -> Path | None:
    """Return the sound file of a name, which may have its suffix; None if there is none."""
    names = [name] if name.lower().endswith(SUFFIXES) else []
    names += [name + ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _recording(root: Path, file: Path, read: Annotations) -> tuple[Path, float]:
    """Return the recording of a transcript, and the seconds to add to the transcript's times.

    ELAN's TIME_ORIGIN is where a medium is when the transcript is at 0. A TextGrid that begins at
    another time than 0 belongs to a part of a recording. That part is the file, unless the file is
    as long as the whole.
    """
    beside = _beside(file)[0]
    named = [(path, m) for m in read.media for path in _places(root, file, m) if path.is_file()]
    named.sort(key=lambda item: item[0].suffix.lower() not in (".wav", ".flac"))
    if named:
        return named[0][0], named[0][1].origin
    audio = beside or file.with_suffix(SUFFIXES[0])
    if read.media:
        same = [m for m in read.media for path in m.paths if Path(path).stem == audio.stem]
        return audio, (same or list(read.media))[0].origin
    first, last = read.span or (0.0, 0.0)
    if not first:
        return audio, 0.0
    try:
        seconds = audio_duration(audio)
    except AudioError:
        return audio, -first
    is_whole = abs(seconds - last) <= SLACK < abs(seconds - (last - first))
    return audio, 0.0 if is_whole else -first


def _places(root: Path, file: Path, media: Media) -> Iterator[Path]:
    """Yield where a recording may be that a transcript names: beside it, inside the corpus, or at
    its absolute path. A relative path out of the corpus is not followed.
    """
    top = (root.parent if root.is_file() else root).resolve()
    for path in media.paths:
        try:
            if not path.startswith("/") and not re.match(r"[A-Za-z]:", path):
                whole = (file.parent / path).resolve()
                if whole.is_relative_to(top):
                    yield Path(os.path.normpath(file.parent / path))
            if name := path.rpartition("/")[2]:
                yield file.parent / name
            if path.startswith("/"):
                yield Path(path)
        except (OSError, ValueError, RuntimeError):  # no path of this system
            continue
