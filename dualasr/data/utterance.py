"""A transcribed clip, a query to a corpus, and the checks that the rows of every layout pass."""

import codecs
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeGuard

from dualasr.audio.load import Sound, audio_duration
from dualasr.errors import AudioError

NOT_UTF8 = "is not UTF-8"
_DECIMAL_COMMA = re.compile(r"\s*[-+]?[0-9]+,[0-9]+\s*")
_HEAD = 100_000  # bytes of a file that tell how its lines end
SLACK = 0.1  # seconds by which a segment may end after its recording
_DEV = {"valid", "validation", "val", "dev"}
_NAMED_SPLITS = _DEV | {"train", "test"}


@dataclass(frozen=True)
class Utterance:
    """One clip and its text: a whole file, or a segment of a recording.

    Attributes:
        id: Name of the clip, used once in a corpus.
        text: What is said.
        language: Code of the language.
        audio: The sound file.
        duration: Length in seconds; None where it is not known.
        split: Name of the split.
        speaker: Name of the speaker, if known.
        sentence: FLoRes id of the sentence, which all languages of FLEURS share.
        start: Where a segment begins, in seconds from the beginning of the file; None for a whole
            file.
        end: Where a segment ends, in seconds; None for a whole file, or for the end of the file.
    """

    id: str
    text: str
    language: str
    audio: Path
    duration: float | None
    split: str
    speaker: str | None = None
    sentence: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def sound(self) -> Sound:
        """The sound of the clip, for `load_audio`."""
        return Sound(self.audio, self.start or 0.0, self.end)


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used; `source` is its file:line, `reason` says why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; a column whose name is None is guessed from common names.

    Attributes:
        audio: Column with the path of the sound file.
        text: Column with what is said.
        language: Column with the code of the language.
        split: Column with the name of the split.
        speaker: Column with the name of the speaker.
        id: Column with the id of the clip.
        start: Column with the start of a segment, in seconds.
        end: Column with the end of a segment, in seconds.
    """

    audio: str | None = None
    text: str | None = None
    language: str | None = None
    split: str | None = None
    speaker: str | None = None
    id: str | None = None
    start: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class Query:
    """Which rows a reader gives, and how it reads them.

    Attributes:
        splits: Splits of the rows; None is all of them.
        languages: Languages of the rows; None is all of them.
        default_language: Language of rows that name none.
        require_text: Whether a row must have text.
        columns: Names of a table's columns.
        tier: The only tier of annotations to read; None is all of them.
    """

    splits: tuple[str, ...] | None
    languages: frozenset[str] | None = None
    default_language: str | None = None
    require_text: bool = True
    columns: Columns = Columns()
    tier: str | None = None

    def takes_split(self, split: str | None) -> bool:
        """Whether rows of this split are wanted; a row without a split belongs to every split."""
        if not split or self.splits is None:
            return True
        return any(same_split(split, wanted) for wanted in self.splits)

    def takes_language(self, *names: str | None) -> bool:
        """Whether rows are wanted whose language has one of these names.

        A row without a language is accepted here, and skipped later with a reason.
        """
        return self.languages is None or not any(names) or not self.languages.isdisjoint(names)


@dataclass
class ReadNotes:
    """Notes that a reader makes: the splits that it found, and a sentence for each guess."""

    splits: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def add(self, note: str) -> None:
        """Add a sentence, once."""
        if note not in self.notes:
            self.notes.append(note)


class Annotation(NamedTuple):
    """A segment of a recording.

    Attributes:
        text: What is said.
        start: Start in seconds; None where the file gives no time.
        end: End in seconds; None where the file gives no time.
        tier: Name of its tier; "" in formats without tiers.
        speaker: Name of the speaker, if known.
    """

    text: str
    start: float | None
    end: float | None
    tier: str = ""
    speaker: str | None = None


@dataclass(frozen=True)
class Media:
    """A recording that a transcript names.

    Attributes:
        paths: Its path as it may be written, the best one first.
        origin: Seconds of the recording at which the times of the transcript begin.
    """

    paths: tuple[str, ...]
    origin: float


@dataclass(frozen=True)
class Annotations:
    """What a transcript of a recording holds.

    Attributes:
        segments: The line of each segment, and the segment or the reason why it cannot be used.
        media: The recordings that it names.
        span: First and last second of the recording, as the transcript counts; None if not known.
        points: Number of points, which have a time and no length; they are no segments.
        repeats: Number of cues that only repeat earlier ones; they are no segments.
    """

    segments: tuple[tuple[int, Annotation | str], ...]
    media: tuple[Media, ...] = ()
    span: tuple[float, float] | None = None
    points: int = 0
    repeats: int = 0

    def __iter__(self) -> Iterator[tuple[int, Annotation | str]]:
        return iter(self.segments)


class Row(NamedTuple):
    """A row of a corpus.

    Attributes:
        source: file:line.
        content: The utterance, or why there is none.
        split: The split that it belongs to; None or "" is every split.
    """

    source: str
    content: Utterance | str
    split: str | None


Rows = Iterator[Row]


def canonical_split(split: str) -> str:
    """Return "dev" for valid, validation, val and dev; any other name as it is."""
    return "dev" if split.lower() in _DEV else split


def same_split(one: str, other: str) -> bool:
    """Whether two names mean the same split."""
    return canonical_split(one) == canonical_split(other)


def names_a_split(name: str) -> bool:
    """Whether a file or folder of this name holds a split."""
    return name.lower() in _NAMED_SPLITS


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the lines that are not blank, each with its file:line, in UTF-8 where they are UTF-16.

    They are bytes, so that one line of bad UTF-8 is one skipped row. They end with LF, or with CR
    if no LF is near the file's beginning (older Macs).
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        lines: Iterable[bytes] = file
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = io.TextIOWrapper(file, "utf-16", errors="replace", newline="\n")
            lines = (line.encode() for line in text)
        elif b"\n" not in head and b"\r" in head:
            lines = file.read().replace(b"\r", b"\n").splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{number}", line


def row_of(
    query: Query,
    audio: str | None,
    roots: Sequence[Path],
    text: str | None,
    language: str | None,
    split: str | None,
    *,
    id: str | None = None,
    speaker: str | None = None,
    sentence: str | None = None,
    start: float | str | None = None,
    end: float | str | None = None,
    duration: float | str | None = None,
) -> Utterance | str:
    """Return the utterance of a row's fields, or the reason why there is none.

    Args:
        query: The query to the corpus.
        audio: Path of the sound file.
        roots: Folders in which a relative path is looked for, in this order.
        text: What is said.
        language: Code of the language; else the query's default is taken.
        split: Split of the row.
        id: Name of the clip; else the audio path, followed by the times of a segment.
        speaker: Name of the speaker.
        sentence: FLoRes id of the sentence.
        start: Start of a segment in seconds. A string is refused with a reason, here and below.
        end: End of a segment in seconds.
        duration: Length in seconds; it gives the end of a segment with a start and no end.
    """
    language = language or query.default_language
    if not audio:
        return "has no audio path"
    if "\\" in audio and not any(os.path.isfile(root / audio) for root in roots):
        audio, written = audio.replace("\\", "/"), audio
        id = audio if id == written else id
        if audio.startswith("//"):
            return _of_windows(written)
    if re.match(r"[A-Za-z]:/", audio):
        return _of_windows(audio)
    if not os.path.isabs(audio) and os.path.normpath(audio).split(os.sep)[0] == os.pardir:
        return (
            f"audio path {audio} climbs out of the {'manifest' if len(roots) == 1 else 'corpus'}'s"
            " folder"
        )
    if not language:
        return "has no lang, and no default language was given"
    times: list[float | None] = []
    for name, value in (("start", start), ("end", end), ("duration", duration)):
        if value is None:
            times.append(None)
        elif _is_number(value) and 0 <= value < 1e9:
            times.append(float(value))
        else:
            return f"{name} is {value!r}, not seconds"
    first, last, length = times
    if first is not None and last is None and length is not None:
        last = first + length
    if first is not None or last is not None:
        first = first or 0.0
        if last is not None and last <= first:
            return f"its end, {last:g} s, is not after its start, {first:g} s"
        length = None if last is None else last - first
    found = (
        next((root / audio for root in roots if os.path.isfile(root / audio)), None)
        if len(roots) > 1
        else None
    )
    # the times of a segment as W3C Media Fragments write them
    fragment = "" if first is None else f"#t={first:.3f}" + ("" if last is None else f",{last:.3f}")
    return Utterance(
        id=id or audio + fragment,
        text=(text or "").strip(),
        language=language,
        audio=found or roots[0] / audio,
        duration=length,
        split=split or "",
        speaker=speaker or None,
        sentence=sentence,
        start=first,
        end=last,
    )


def _of_windows(audio: str) -> str:
    return (
        f"audio path {audio} is one of a Windows machine; wanted a path inside the corpus's folder"
    )


def _is_number(value: float | str) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def within_recording(row: Utterance, lengths: dict[Path, float | str]) -> Utterance | str:
    """Return a segment cut to its recording, or the reason why it lies beyond it.

    Args:
        row: An utterance; one that is a whole file is returned as it is.
        lengths: A cache, which this function fills: the length of each recording in seconds, or the
            reason why it cannot be read.
    """
    if row.start is None:
        return row
    if row.audio not in lengths:
        try:
            lengths[row.audio] = audio_duration(row.audio)
        except AudioError as error:
            lengths[row.audio] = str(error)
    total = lengths[row.audio]
    if isinstance(total, str):
        return total
    end = total if row.end is None else row.end
    if row.start >= total or end > total + SLACK:
        return (
            f"{row.start:g} to {'its end' if row.end is None else f'{end:g} s'} is beyond the"
            f" recording's {total:.2f} s"
        )
    end = min(end, total)
    return row if end == row.end else replace(row, end=end, duration=end - row.start)


def number(cell: str | None) -> float | str | None:
    """Return the number in a cell of a table; None for an empty cell.

    A cell that holds no number is returned as it is, and `row_of` refuses it with a reason.
    """
    if cell is None or not cell.strip():
        return None
    try:
        # 1,5 is written in many languages; a table of a spreadsheet has it so
        value = float(cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell)
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell
