"""One transcribed clip, what is asked of a corpus, and the checks that the rows of every layout
pass.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dualasr.audio.load import Sound, audio_duration
from dualasr.errors import AudioError

NOT_UTF8 = "is not UTF-8"
SLACK = 0.1  # s that a segment may end after its recording
_DEV = {"valid", "validation", "val", "dev"}
_NAMED_SPLITS = _DEV | {"train", "test"}


@dataclass(frozen=True)
class Utterance:
    """One clip and what is said in it; `duration` in seconds, `sentence` the FLoRes id that FLEURS
    languages share.

    A segment of a recording has `start` and `end`, seconds into `audio`; a clip that is the whole
    file has neither.
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
        """What `load_audio` reads."""
        return Sound(self.audio, self.start or 0.0, self.end)


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used; `source` is file:line."""

    source: str
    reason: str


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None is guessed from common names."""

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
    """Which rows a reader is asked for; `split` and `languages` None are all of them."""

    split: str | None
    languages: frozenset[str] | None = None
    default_language: str | None = None
    require_text: bool = True
    columns: Columns = Columns()
    tier: str | None = None

    def takes_split(self, split: str | None) -> bool:
        """A row without a split belongs to every split."""
        return not split or self.split is None or same_split(split, self.split)

    def takes_language(self, *names: str | None) -> bool:
        """A row without a language is taken, and then skipped with a reason."""
        return self.languages is None or not any(names) or not self.languages.isdisjoint(names)


@dataclass
class ReadNotes:
    """What a reader meets on its way: the splits, and what it guessed, as a sentence each."""

    splits: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def add(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


# file:line, and what it holds or why it holds nothing usable
Rows = Iterator[tuple[str, Utterance | str]]


def canonical_split(split: str) -> str:
    """One name for valid, validation, val and dev."""
    return "dev" if split.lower() in _DEV else split


def same_split(one: str, other: str) -> bool:
    return canonical_split(one) == canonical_split(other)


def names_a_split(name: str) -> bool:
    """Whether a file or folder of this name holds a split."""
    return name.lower() in _NAMED_SPLITS


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines that are not blank, each with its file:line."""
    with path.open("rb") as file:  # bytes, so that one line of bad UTF-8 is one skipped row
        for number, line in enumerate(file, 1):
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
    """The utterance of a row's fields, or why there is none. Relative audio is looked for in each
    of `roots`.

    Times are seconds; a `start` with a `duration` and no `end` is a segment, too. A row without id
    has its audio path, and a segment its stretch of it.
    """
    language = language or query.default_language
    if not audio:
        return "has no audio path"
    if not os.path.isabs(audio) and os.path.normpath(audio).split(os.sep)[0] == os.pardir:
        return (
            f"audio path {audio} climbs out of the {'manifest' if len(roots) == 1 else 'corpus'}'s"
            " folder"
        )
    if not language:
        return "has no lang, and no default language was given"
    for name, value in (("start", start), ("end", end), ("duration", duration)):
        if value is not None and not (type(value) in (int, float) and 0 <= value < 1e9):
            return f"{name} is {value!r}, not seconds"
    if start is not None and end is None and duration is not None:
        end = start + duration
    if start is not None or end is not None:
        start, end = float(start or 0), None if end is None else float(end)
        if end is not None and end <= start:
            return f"its end, {end:g} s, is not after its start, {start:g} s"
        duration = None if end is None else end - start
    found = (
        next((root / audio for root in roots if os.path.isfile(root / audio)), None)
        if len(roots) > 1
        else None
    )
    duration = None if duration is None else float(duration)
    split = (split if query.split is None else query.split) or ""
    # W3C Media Fragments
    stretch = "" if start is None else f"#t={start:.3f}" + ("" if end is None else f",{end:.3f}")
    return Utterance(
        id or audio + stretch,
        (text or "").strip(),
        language,
        found or roots[0] / audio,
        duration,
        split,
        speaker or None,
        sentence,
        start,
        end,
    )


def within_recording(row: Utterance, lengths: dict[Path, float | str]) -> Utterance | str:
    """A segment that ends within its recording, or why it does not; a whole clip as it is.

    `lengths` keeps the seconds of each recording asked for, or why it cannot be read.
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
    """A cell's number; a cell that holds none as it is, for `row_of` to refuse; None for an empty
    one.
    """
    if cell is None or not cell.strip():
        return None
    try:
        value = float(cell)
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell
