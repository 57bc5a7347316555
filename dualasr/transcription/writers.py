"""Transcripts as files, in the formats of Whisper's command line: txt, WebVTT, SubRip, TSV and
JSON; and their names.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import regex

from dualasr.atomic import atomic_file
from dualasr.transcription.subtitles import SubtitleOptions, cues, one_line, span
from dualasr.transcription.transcript import Segment, Transcription, Word

FORMATS = ("txt", "vtt", "srt", "tsv", "json")

# a file system takes 255; the rest is for the suffix, and for atomic_file while it writes
_NAME_BYTES = 240


def write(
    transcription: Transcription,
    path: str | Path,
    formats: Iterable[str],
    options: SubtitleOptions = SubtitleOptions(),
) -> tuple[Path, ...]:
    """Write `path` + ".srt" and so on, each file whole or not at all, and give their paths. Makes
    the folder.

    `formats` are some of `FORMATS`, or "all". Raises ValueError for another and RunError where
    `options` ask for words that are not there, both before anything is written, and RunError for a
    file that cannot be written.
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
    """The transcript in one of `FORMATS`, as text.

    - txt: a segment a line.
    - vtt, srt: see `dualasr.transcription.subtitles.cues`. "<" and "&" are escaped in vtt; srt has
      no escapes.
    - tsv: start and end in milliseconds, and the text, under a header. Nothing is quoted.
    - json: the fields that Whisper writes, where there are such here, and all else that a
      Transcription holds.

    Times are whole milliseconds, never negative, and no end is before its start. But for JSON,
    segments without text are left out, and line breaks, tabs and other controls in a text become
    spaces. Raises ValueError for another format, and RunError where `options` ask for words that a
    segment lacks.
    """
    [format] = _expand([format])
    return _RENDERERS[format](transcription, options)


def output_paths(
    inputs: Iterable[str | Path], output_dir: str | Path, formats: Iterable[str]
) -> dict[Path, Path]:
    """For each input the path, without suffix, of what is written for it; no two files of different
    inputs are the same.

    That is the input's stem where no other input has it, else its whole name ("a.wav", then
    "a.wav.srt"), else that with the name of its folder before it ("x-a.wav"), else with a numeral.
    The order of the inputs does not matter. Names that differ only in case count as the same, as
    they are on some file systems; names too long for a file system are cut and end in a hash; no
    input is overwritten. The same input twice has one path. Raises ValueError for an unknown
    format.
    """
    inputs, formats = [Path(path) for path in inputs], _expand(formats)
    files = {Path(os.path.abspath(path)) for path in inputs}
    choices = {file: (file.stem, file.name, f"{file.parent.name}-{file.name}") for file in files}
    counts = [Counter(map(_folded, names)) for names in zip(*choices.values(), strict=True)]
    wishes = []
    for file, names in choices.items():
        unique = (level for level, name in enumerate(names) if counts[level][_folded(name)] == 1)
        level = next(unique, len(names))
        wishes.append((level, file, (*names, file.name)[level]))
    folder = os.path.realpath(output_dir)
    taken = {_folded(file.name) for file in files if os.path.realpath(file.parent) == folder}
    paths = {}
    for _, file, wish in sorted(wishes):
        for name in map(_shortened, chain([wish], (f"{wish}-{number}" for number in count(2)))):
            outputs = {_folded(f"{name}.{suffix}") for suffix in formats}
            if not outputs & taken:
                break
        taken |= outputs
        paths[file] = Path(output_dir, name)
    return {path: paths[Path(os.path.abspath(path))] for path in inputs}


def _expand(formats: Iterable[str]) -> list[str]:
    """The formats, each once. Raises ValueError for one that is unknown."""
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
    """The same for names that are one to a file system that looks at neither case nor composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shortened(name: str) -> str:
    """A name of at most _NAME_BYTES bytes: as it is, or cut between two characters, with a hash of
    the whole.
    """
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
    def rounded(item: Segment | Word) -> Segment | Word:
        start, end = span(item)
        return replace(item, start=start / 1000, end=end / 1000)

    segments = (
        rounded(replace(segment, words=tuple(map(rounded, segment.words))))
        for segment in transcription.segments
    )
    plain = [{"id": number} | segment.to_dict() for number, segment in enumerate(segments)]
    return (
        json.dumps(transcription.to_dict() | {"segments": plain}, indent=1, ensure_ascii=False)
        + "\n"
    )


_RENDERERS = {"txt": _txt, "vtt": _vtt, "srt": _srt, "tsv": _tsv, "json": _json}


def _texts(transcription: Transcription) -> Iterator[tuple[Segment, str]]:
    """The segments that have text, each with its text on one line."""
    for segment in transcription.segments:
        if text := one_line(segment.text).strip():
            yield segment, text


def clock(milliseconds: int, hours: bool = False) -> str:
    """[hours:]minutes:seconds.milliseconds; the hours where they are asked for or there are any."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hour, minutes = divmod(minutes, 60)
    return (
        f"{hour:02d}:" if hours or hour else ""
    ) + f"{minutes:02d}:{seconds:02d}.{milliseconds:03d}"
