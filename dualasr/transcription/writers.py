"""Transcripts as files in the formats of Whisper's command line: txt, vtt, srt, tsv and json."""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

import regex

from dualasr.atomic import atomic_file
from dualasr.transcription.subtitles import SubtitleOptions, cues, one_line, span
from dualasr.transcription.transcript import Segment, Transcription, Word

FORMATS = ("txt", "vtt", "srt", "tsv", "json")
Timespan = TypeVar("Timespan", Segment, Word)

# A file system allows 255 bytes. The rest is for the suffix, and for atomic_file while it writes.
_NAME_BYTES = 240


def write(
    transcription: Transcription,
    path: str | Path,
    formats: Iterable[str],
    options: SubtitleOptions = SubtitleOptions(),
) -> tuple[Path, ...]:
    """Write a transcript to files, each of them whole or not at all.

    Args:
        transcription: The transcript.
        path: Path of the files without suffix; "talk" gives "talk.srt". Its folder is made if it
            is missing.
        formats: Some of `FORMATS`, or "all".
        options: Layout of srt and vtt.

    Returns:
        The paths of the files.

    Raises:
        ValueError: A format is unknown. Nothing is written then.
        RunError: `options` need words that a segment lacks (nothing is written then), or a file
            cannot be written.
    """
    contents = {
        Path(f"{path}.{name}"): render(transcription, name, options) for name in _expand(formats)
    }
    for file, content in contents.items():
        with atomic_file(
            file, name=repr(str(file)), advice="Free some space or choose another folder."
        ) as part:
            part.write_bytes(content.encode())
    return tuple(contents)


def render(
    transcription: Transcription, format: str, options: SubtitleOptions = SubtitleOptions()
) -> str:
    """Write a transcript as text in one format.

    - txt: one line for each segment.
    - vtt, srt: see `dualasr.transcription.subtitles.cues`. "<" and "&" are escaped in vtt; srt has
      no escapes.
    - tsv: start and end in milliseconds and the text, below a header. Nothing is quoted.
    - json: the fields of a Transcription. Those that Whisper writes, too, have Whisper's names.

    Times are whole milliseconds, never negative, and no end is before its start. Except in json,
    segments without text are left out, and line breaks, tabs and other control characters become
    spaces.

    Args:
        transcription: The transcript.
        format: One of `FORMATS`.
        options: Layout of srt and vtt.

    Returns:
        The content of the file.

    Raises:
        ValueError: The format is unknown.
        RunError: `options` need words, and a segment has none.
    """
    [format] = _expand([format])
    return _RENDERERS[format](transcription, options)


def output_paths(
    inputs: Iterable[str | Path], output_dir: str | Path, formats: Iterable[str]
) -> dict[Path, Path]:
    """Choose the paths of the outputs, so that no two inputs write the same file.

    An input gets the first of these names that no other input has:

    1. its stem ("a.wav" gives "a", then "a.srt"),
    2. its whole name ("a.wav", then "a.wav.srt"),
    3. its folder's name and its whole name ("x-a.wav"),
    4. its whole name with a number ("a.wav-2").

    The order of the inputs does not matter. Names that differ only in case count as the same,
    because some file systems do not distinguish them. A name that is too long for a file system is
    cut and ends in a hash. No input is overwritten.

    Args:
        inputs: The files to transcribe; the same file twice has one path.
        output_dir: Folder of the outputs.
        formats: Some of `FORMATS`, or "all".

    Returns:
        For each input the path of its outputs without suffix.

    Raises:
        ValueError: A format is unknown.
    """
    paths, suffixes = [Path(path) for path in inputs], _expand(formats)
    files = {Path(os.path.abspath(path)) for path in paths}
    choices = {file: (file.stem, file.name, f"{file.parent.name}-{file.name}") for file in files}
    counts = [Counter(map(_folded, names)) for names in zip(*choices.values(), strict=True)]
    wishes = []
    for file, names in choices.items():
        unique = (level for level, name in enumerate(names) if counts[level][_folded(name)] == 1)
        level = next(unique, len(names))
        wishes.append((level, file, (*names, file.name)[level]))
    folder = os.path.realpath(output_dir)
    used = {_folded(file.name) for file in files if os.path.realpath(file.parent) == folder}
    chosen = {}
    for _, file, wish in sorted(wishes):
        for name in map(_shortened, chain([wish], (f"{wish}-{number}" for number in count(2)))):
            outputs = {_folded(f"{name}.{suffix}") for suffix in suffixes}
            if not outputs & used:
                break
        used |= outputs
        chosen[file] = Path(output_dir, name)
    return {path: chosen[Path(os.path.abspath(path))] for path in paths}


def _expand(formats: Iterable[str]) -> list[str]:
    """Replace "all" by `FORMATS`, and drop repeats. Raises ValueError for an unknown format."""
    expanded = list(
        dict.fromkeys(
            name for given in formats for name in (FORMATS if given == "all" else (given,))
        )
    )
    for name in expanded:
        if name not in FORMATS:
            raise ValueError(
                f"format {name!r} is unknown; choose one of {', '.join(FORMATS)} or all"
            )
    return expanded


def _folded(name: str) -> str:
    """Return the same string for names that differ only in case or in Unicode composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shortened(name: str) -> str:
    """Cut a name that is longer than _NAME_BYTES between two characters, and add its hash."""
    data = os.fsencode(name)
    if len(data) <= _NAME_BYTES:
        return name
    end = f"-{hashlib.sha256(data).hexdigest()[:8]}"
    characters = regex.findall(r"\X", name)
    while len(os.fsencode("".join(characters))) + len(end) > _NAME_BYTES:
        characters.pop()
    return "".join(characters) + end


def _txt(transcription: Transcription, options: SubtitleOptions) -> str:
    return "".join(f"{text}\n" for _, text in _texts(transcription))


def _tsv(transcription: Transcription, options: SubtitleOptions) -> str:
    rows = ((*map(str, span(segment)), text) for segment, text in _texts(transcription))
    return "".join("\t".join(row) + "\n" for row in (("start", "end", "text"), *rows))


def _vtt(transcription: Transcription, options: SubtitleOptions) -> str:
    def escape(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;")

    blocks = (
        f"{clock(cue.start)} --> {clock(cue.end)}\n{cue.text}\n\n"
        for cue in cues(transcription.segments, options, escape)
    )
    return "WEBVTT\n\n" + "".join(blocks)


def _srt(transcription: Transcription, options: SubtitleOptions) -> str:
    def stamp(milliseconds: int) -> str:
        return clock(milliseconds, hours=True).replace(".", ",")

    numbered = enumerate(cues(transcription.segments, options), 1)
    return "".join(
        f"{number}\n{stamp(cue.start)} --> {stamp(cue.end)}\n{cue.text}\n\n"
        for number, cue in numbered
    )


def _json(transcription: Transcription, options: SubtitleOptions) -> str:
    def rounded(item: Timespan) -> Timespan:
        start, end = span(item)
        return replace(item, start=start / 1000, end=end / 1000)

    segments = (
        rounded(replace(segment, words=tuple(rounded(word) for word in segment.words)))
        for segment in transcription.segments
    )
    plain = [{"id": number} | segment.to_dict() for number, segment in enumerate(segments)]
    return (
        json.dumps(transcription.to_dict() | {"segments": plain}, indent=1, ensure_ascii=False)
        + "\n"
    )


_RENDERERS = {"txt": _txt, "vtt": _vtt, "srt": _srt, "tsv": _tsv, "json": _json}


def _texts(transcription: Transcription) -> Iterator[tuple[Segment, str]]:
    """Yield the segments that have text, each with its text on one line."""
    for segment in transcription.segments:
        if text := one_line(segment.text).strip():
            yield segment, text


def clock(milliseconds: int, hours: bool = False) -> str:
    """Write a time as [hours:]minutes:seconds.milliseconds.

    Args:
        milliseconds: The time.
        hours: Whether to write the hours even if they are 0.

    Returns:
        For example "01:02.345" or "10:00:00.000".
    """
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hour, minutes = divmod(minutes, 60)
    return (
        f"{hour:02d}:" if hours or hour else ""
    ) + f"{minutes:02d}:{seconds:02d}.{milliseconds:03d}"
