"""Read long recordings with a transcript beside them: ELAN, Praat TextGrid, SRT and WebVTT.

Each segment is an utterance. The parsers are our own, because a segment that cannot be used must be
reported with its line. The readers on the package index drop such a segment, or stop at it.
"""

import html
import re
from bisect import bisect
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from dualasr.audio.load import SUFFIXES
from dualasr.data.utterance import NOT_UTF8, Query, ReadNotes, Row, Rows, names_a_split, row_of
from dualasr.errors import CorpusError


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


# line of each segment, and the segment or the reason why it cannot be used
Annotations = Iterator[tuple[int, Annotation | str]]

_CUE_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_CUE = re.compile(rf"\s*{_CUE_TIME}\s*-->\s*{_CUE_TIME}(?:\s.*)?")
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^}]*\}")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_PRAAT = re.compile(r'"((?:[^"]|"")*+)"|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)|![^\n]*')


def find_segments(path: Path) -> list[Path]:
    """Return the transcripts below a folder, or the file itself if it is one."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [
        file
        for file in files
        if file.suffix.lower() in _PARSERS and not file.name.startswith(".") and file.is_file()
    ]


def segment_rows(root: Path, files: list[Path], query: Query, notes: ReadNotes) -> Rows:
    """Yield the segments of transcripts, each beside a recording with the same stem.

    Files below a folder train, dev or test belong to that split. Empty intervals are no rows.

    Args:
        root: The corpus, a folder or a transcript.
        files: The transcripts in it.
        query: Which rows are wanted; all tiers are read unless it names one.
        notes: Splits, tiers and advice are noted here.

    Raises:
        CorpusError: No file has the tier that the query names.
    """
    tiers: dict[str, int] = {}
    for file in files:
        place = Path(file.name) if file == root else file.relative_to(root)
        split = next((part for part in place.parts[:-1] if names_a_split(part)), None)
        if split is not None:
            notes.splits.add(split)
        if not query.takes_split(split) or not query.takes_language(query.default_language):
            continue
        audio = next(
            (p for suffix in SUFFIXES for p in _beside(file, suffix)), file.with_suffix(SUFFIXES[0])
        )
        if audio.suffix.lower() not in (".wav", ".flac"):
            notes.add(
                "recordings other than wav and flac are decoded from their start for each segment;"
                " convert long ones"
            )
        numbers: dict[str, int] = {}
        try:
            for line, segment in _PARSERS[file.suffix.lower()](_text(file)):
                if isinstance(segment, str):
                    yield Row(f"{file}:{line}", segment, split)
                    continue
                tier, text = segment.tier, " ".join(segment.text.split())
                if not text:
                    continue
                numbers[tier] = numbers.get(tier, 0) + 1
                if tier:
                    tiers[tier] = tiers.get(tier, 0) + 1
                    if query.tier not in (None, tier):
                        continue
                if segment.start is None or segment.end is None:
                    yield Row(f"{file}:{line}", "has no time", split)
                    continue
                id = ":".join(filter(None, (place.as_posix(), tier, str(numbers[tier]))))
                row = row_of(
                    query,
                    audio.name,
                    [file.parent],
                    text,
                    None,
                    split,
                    id=id,
                    speaker=segment.speaker,
                    start=segment.start,
                    end=segment.end,
                )
                yield Row(f"{file}:{line}", row, split)
        except ValueError as error:
            yield Row(str(file), str(error), split)
    if query.tier is not None and tiers and query.tier not in tiers:
        near = get_close_matches(query.tier, tiers, 1)
        raise CorpusError(
            f"{root}: has no tier {query.tier!r} with text; tiers found: {', '.join(sorted(tiers))}"
            + (f"; the nearest is {near[0]!r}." if near else ".")
        )
    if query.tier is None and len(tiers) > 1:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(tiers.items()))
        notes.add(f"read {len(tiers)} tiers: {listed}; choose one with --tier")


def _beside(file: Path, suffix: str) -> list[Path]:
    return [p for p in (file.with_suffix(suffix), file.with_suffix(suffix.upper())) if p.is_file()]


def _text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    Raises ValueError for another encoding.
    """
    data = file.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(
            f"{NOT_UTF8}; if it is Latin-1, convert it: iconv -f LATIN1 -t UTF-8 {file.name} > new"
        ) from None


def parse_subtitles(text: str) -> Annotations:
    """Yield the cues of an SRT or WebVTT file, without markup; a <v> of WebVTT is the speaker.

    1. Cut the text into blocks at blank lines; skip the blocks of WebVTT that are no cues.
    2. Find the times in the first two lines of a block; the first may be a number or a name.
    3. The lines after the times are the text.
    """
    lines = [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]
    is_vtt, first = lines[0].startswith("WEBVTT"), 0
    for i, line in enumerate(lines):
        if line.strip():
            continue
        block, began, first = lines[first:i], first + 1, i + 1
        if not block or (is_vtt and block[0].startswith(("WEBVTT", "NOTE", "STYLE", "REGION"))):
            continue
        at = next((n for n, line in enumerate(block[:2]) if "-->" in line), None)
        if at is None:
            yield began, f"is no cue: {block[0][:60]!r} is not followed by a line with -->"
            continue
        if not (times := _CUE.fullmatch(block[at])):
            yield began + at, f"its times cannot be read: {block[at][:60]!r}"
            continue
        start, end = (
            3600 * int(h or 0) + 60 * int(m) + int(s) + float(f"0.{f}")
            for h, m, s, f in (times.groups()[:4], times.groups()[4:])
        )
        said = " ".join(block[at + 1 :])
        voice = _VOICE.search(said)
        said = _MARKUP.sub("", said)
        if is_vtt:
            said = html.unescape(said)
        speaker = voice[1].strip() if voice else None
        yield began + at, Annotation(said, start, end, speaker=speaker)


def parse_textgrid(text: str) -> Annotations:
    """Yield the intervals of a Praat TextGrid in its long or short format.

    Only quoted strings and numbers that stand alone are read, as Praat does. In these tokens the
    two formats are the same. Points have no length and are left out.

    Args:
        text: The content of the file.

    Raises:
        ValueError: The text is no TextGrid, or is cut short.
    """
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    tokens = (match for match in _PRAAT.finditer(text) if match.lastindex)

    def take(kind: int) -> str:
        token = next(tokens, None)
        if token is None or token[kind] is None:
            line = 0 if token is None else bisect(starts, token.start())
            wanted = "a number" if kind == 2 else "a string"
            raise ValueError(
                f"is cut short or no TextGrid: wanted {wanted} "
                + (f"in line {line}" if line else "at its end")
            )
        return token[kind].replace('""', '"')

    def count() -> int:
        value = float(take(2))
        if not 0 <= value < 1e9:
            raise ValueError(f"is no TextGrid: it counts {value:g} tiers or intervals")
        return int(value)

    if not (take(1).startswith("ooTextFile") and take(1).startswith("TextGrid")):
        raise ValueError('is no TextGrid: wanted "ooTextFile" and "TextGrid" at its start')
    take(2), take(2)
    segments = []
    for _ in range(count()):
        kind, tier = take(1), take(1)
        take(2), take(2)
        for _ in range(count()):
            start = float(take(2))
            end = float(take(2)) if kind == "IntervalTier" else None
            token = next(tokens, None)
            if token is None or token[1] is None:
                raise ValueError("is cut short or no TextGrid: an interval has no text")
            if end is not None:
                segments.append(
                    (
                        bisect(starts, token.start()),
                        Annotation(token[1].replace('""', '"'), start, end, tier),
                    )
                )
    yield from segments


def parse_elan(text: str) -> Annotations:
    """Yield the annotations of an ELAN file.

    An annotation of a dependent tier has the times of the annotation that it depends on. If several
    depend on the same one, they are joined. A file with a DOCTYPE is refused: ELAN writes none, and
    its entities could fill the memory.

    Args:
        text: The content of the file.

    Raises:
        ValueError: The text is no ELAN file, or has a DOCTYPE.
    """
    root = _xml(text)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ValueError(f"is no ELAN file: its root is {root.tag}, not ANNOTATION_DOCUMENT")
    slots = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    spans = {
        a.get("ANNOTATION_ID"): (a.get("TIME_SLOT_REF1"), a.get("TIME_SLOT_REF2"))
        for a in root.iter("ALIGNABLE_ANNOTATION")
    }
    parents = {a.get("ANNOTATION_ID"): a.get("ANNOTATION_REF") for a in root.iter("REF_ANNOTATION")}

    def aligned(id: str | None) -> str | None:
        """Follow the references to the annotation that has times."""
        for _ in range(len(parents) + 1):  # stops at a circle of references
            if id in spans or id not in parents:
                break
            id = parents[id]
        return id

    for tier in root.iter("TIER"):
        said: dict[str | None, list[str]] = {}
        lines: dict[str | None, int] = {}
        for annotation in (
            a for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION") for a in tier.iter(kind)
        ):
            id = aligned(annotation.get("ANNOTATION_ID"))
            id = id if id in spans else annotation.get("ANNOTATION_ID")
            said.setdefault(id, []).append(annotation.findtext("ANNOTATION_VALUE") or "")
            lines.setdefault(id, int(annotation.get("line", "0")))
        for id, texts in said.items():
            times = [slots.get(slot) for slot in spans.get(id, (None, None))]
            if any(
                time is not None and not (time.isascii() and time.isdigit() and len(time) < 13)
                for time in times
            ):
                yield lines[id], f"its times are {times[0]!r} and {times[1]!r}, not milliseconds"
                continue
            start, end = (None if time is None else int(time) / 1000 for time in times)
            yield (
                lines[id],
                Annotation(
                    " ".join(texts),
                    start,
                    end,
                    tier.get("TIER_ID") or "",
                    tier.get("PARTICIPANT") or None,
                ),
            )


def _xml(text: str) -> Element:
    """Return the root of a tree whose elements have their line as the attribute `line`.

    Raises ValueError for a DOCTYPE and for bad XML.
    """

    def refuse(*_) -> None:
        raise ValueError("has a DOCTYPE, which no ELAN file has; it was not read")

    builder, parser = TreeBuilder(), expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, values: builder.start(
        tag, values | {"line": str(parser.CurrentLineNumber)}
    )
    parser.EndElementHandler, parser.CharacterDataHandler = builder.end, builder.data
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise ValueError(f"is no XML ({error})") from error
    return builder.close()


_PARSERS = {
    ".eaf": parse_elan,
    ".textgrid": parse_textgrid,
    ".srt": parse_subtitles,
    ".vtt": parse_subtitles,
}
