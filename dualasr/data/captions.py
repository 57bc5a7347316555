"""Read SRT and WebVTT files as people have them.

The parser is our own. pysubs2, webvtt-py and srt were tried on the files of the tests: each drops
cues that it cannot read without a word, and none tells the line of a cue, knows all voices of a
cue, leaves out the readings of ruby, or takes rolling captions apart. srt stops at the first fault.
"""

import html
import re
from dataclasses import dataclass
from itertools import pairwise

from dualasr.data.utterance import Annotation, Annotations

# hours may be missing, and the fraction of a second
_TIME = r"(?:(\d{1,6})\s*:\s*)?(\d{1,2})\s*:\s*(\d{1,2})(?:\s*[.,:]\s*(\d{1,9}))?"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s+(.*))?")
_LIKE_TIME = re.compile(r"\s*\S*\d:")
# what may follow the times: settings of WebVTT, and coordinates of SRT
_SETTING = re.compile(r"[A-Za-z]+\d?:\S+")
_ASIDE = re.compile(r"(NOTE)(?:[ \t].*)?|(STYLE|REGION)\s*")
_BREAK = re.compile(r"\\[Nn]|<br\s*/?>", re.IGNORECASE)
_READING = re.compile(r"<r[tp]\b[^<>]*>.*?(?:</r[tp]>|(?=</?r(?:t|p|uby)\b)|\Z)", re.S | re.I)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}|\{/?[ibu]\}")
_INLINE_TIME = re.compile(r"<\d+:[\d:.]+>")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")

_TOUCH_S = 0.1  # a cue that begins at most this long after another one's end follows it at once
_FLASH_S = 0.05  # a cue that is this short is no speech


@dataclass(frozen=True)
class _Cue:
    """A cue: the line of its times, start and end in seconds, its lines without markup."""

    line: int
    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str | None
    has_word_times: bool

    @property
    def words(self) -> list[str]:
        return " ".join(self.lines).split(" ")


def parse_subtitles(text: str) -> Annotations:
    """Read the cues of an SRT or WebVTT file, without markup; a <v> of WebVTT is the speaker.

    1. Find the lines with times. A number above one, or in WebVTT the first line of its block, is
       the cue's name.
    2. What stands between them is the text, over blank lines, too: some programs write a blank
       line inside a text. Blocks of WebVTT that are no cues are left out, and a block that begins
       with the next number but has no times is a broken cue.
    3. In rolling captions, where a cue shows the line before it again, take what is new.

    Args:
        text: The content of the file.
    """
    lines = re.sub(r"\r\r\n|\r\n|\r", "\n", text.removeprefix("\ufeff")).split("\n")
    is_vtt = re.match(r"WEBVTT(?:\s|$)", lines[0]) is not None
    arrows = [i for i in range(len(lines)) if _has_times(lines, i, is_vtt)]
    above = [_filled_above(lines, i) for i in arrows]
    numbers = [j for j in above if j is not None and lines[j].strip().isdecimal()]
    is_numbered = 2 * len(numbers) >= len(arrows)
    found: list[tuple[int, _Cue | str]] = []
    names = [
        _name_above(lines, i, j, is_vtt, is_numbered) for i, j in zip(arrows, above, strict=True)
    ]
    ends = [i if name is None else name for i, name in zip(arrows, names, strict=True)]
    header = _header(lines, ends[0] if ends else len(lines)) if is_vtt else 0
    for first, block in _blocks(lines, header, ends[0] if ends else len(lines)):
        if not (is_vtt and _ASIDE.fullmatch(block[0])):
            found.append((first + 1, _no_cue(block)))
    for at, name, stop in zip(arrows, names, [*ends[1:], len(lines)], strict=True):
        times = _CUE.fullmatch(lines[at])
        if times is None:
            found.append((at + 1, f"its times cannot be read: {lines[at][:60]!r}"))
            continue
        rest = times[9] or ""
        said = [] if all(map(_SETTING.fullmatch, rest.split())) else [rest]
        following = None if name is None else _following(lines[name])
        broken = []
        for first, block in _blocks(lines, at + 1, stop):
            if is_vtt and first > at + 1 and _ASIDE.fullmatch(block[0]):
                continue
            if first > at + 1 and following is not None and block[0].strip() == following:
                broken.append((first + 1, _no_cue(block)))
                following = _following(block[0])
                continue
            said += block
        found += [(at + 1, _cue(at + 1, times, "\n".join(said))), *broken]
    return _annotations(found)


def _has_times(lines: list[str], i: int, is_vtt: bool) -> bool:
    """Whether this is the line of a cue's times, readable or not, and no text with an arrow."""
    left, arrow, right = lines[i].partition("-->")
    if not arrow or (is_vtt and _ASIDE.fullmatch(lines[i])):
        return False
    is_like = any(_LIKE_TIME.match(side[:40]) for side in (left, right))
    is_like = is_like or _CUE.fullmatch(lines[i]) is not None
    return is_vtt or is_like or (i > 0 and lines[i - 1].strip().isdecimal())


def _filled_above(lines: list[str], i: int) -> int | None:
    """The nearest line above that is not blank; None if there is none."""
    return next((j for j in range(i - 1, max(-1, i - 4), -1) if lines[j].strip()), None)


def _name_above(
    lines: list[str], at: int, above: int | None, is_vtt: bool, is_numbered: bool
) -> int | None:
    """The line with the name of the cue whose times are at a line; None if it has none."""
    if above is None or (is_vtt and above == 0):
        return None
    if lines[above].strip().isdecimal():
        return above if is_numbered else None
    begins = above == 0 or not lines[above - 1].strip()
    is_name = begins and above == at - 1 and "-->" not in lines[above]
    # in SRT, names are numbers: other text is a name only where no cue has a number
    return above if is_name and (is_vtt or not is_numbered) else None


def _following(name: str) -> str | None:
    """The number after a name that is a number."""
    name = name.strip()
    return str(int(name) + 1) if name.isdecimal() and len(name) < 10 else None


def _header(lines: list[str], stop: int) -> int:
    """The line after the header of a WebVTT file, which ends at a blank line or at a cue."""
    return next((i for i in range(stop) if not lines[i].strip()), stop)


def _blocks(lines: list[str], start: int, stop: int) -> list[tuple[int, list[str]]]:
    """The blocks of lines between blank lines, each with the number of its first line."""
    blocks: list[tuple[int, list[str]]] = []
    is_open = False
    for i in range(start, stop):
        if not lines[i].strip():
            is_open = False
        elif is_open:
            blocks[-1][1].append(lines[i])
        else:
            blocks.append((i, [lines[i]]))
            is_open = True
    return blocks


def _no_cue(block: list[str]) -> str:
    return f"is no cue: {block[0][:60]!r} is not followed by a line with -->"


def _cue(line: int, times: re.Match, said: str) -> _Cue:
    start, end = (
        3600 * int(h or 0) + 60 * int(m) + int(s) + float(f"0.{f or 0}")
        for h, m, s, f in (times.groups()[:4], times.groups()[4:8])
    )
    voices = list(dict.fromkeys(html.unescape(name).strip() for name in _VOICE.findall(said)))
    plain = _BREAK.sub("\n", _READING.sub("", said)).replace(r"\h", " ")
    plain = _ENTITY.sub(lambda match: html.unescape(match[0]), _MARKUP.sub("", plain))
    lines = tuple(" ".join(part.split()) for part in plain.split("\n") if part.strip())
    speaker = voices[0] if len(voices) == 1 else None
    return _Cue(line, start, end, lines, speaker, bool(_INLINE_TIME.search(said)))


def _annotations(found: list[tuple[int, _Cue | str]]) -> Annotations:
    """The cues as annotations, those of rolling captions without what was shown before."""
    cues = [cue for _, cue in found if isinstance(cue, _Cue) and cue.lines]
    rolls = _are_rolling(cues)
    before: _Cue | None = None
    segments: list[tuple[int, Annotation | str]] = []
    repeats = 0
    for line, cue in found:
        if isinstance(cue, str):
            segments.append((line, cue))
            continue
        words = cue.words[_shown(before, cue) :] if rolls and before else cue.words
        if words:
            said = " ".join(words)
            segments.append((line, Annotation(said, cue.start, cue.end, speaker=cue.speaker)))
        else:
            repeats += 1
        before = cue if cue.lines else before
    return Annotations(tuple(segments), repeats=repeats)


def _are_rolling(cues: list[_Cue]) -> bool:
    """Whether a file has rolling captions, as YouTube makes them, or television.

    A sign is a cue that repeats the one before it and is too short for speech, or that repeats and
    has times of words. Without such a sign, half of the cues must repeat and go on.
    """
    goes_on = 0
    for before, cue in pairwise(cues):
        shown = _shown(before, cue)
        is_flash = any(0 <= c.end - c.start <= _FLASH_S for c in (before, cue))
        if shown and (is_flash or cue.has_word_times):
            return True
        goes_on += 0 < shown < len(cue.words)
    return goes_on >= 2 and 2 * goes_on >= len(cues) - 1


def _shown(before: _Cue, cue: _Cue) -> int:
    """The number of words at the start of a cue that the cue before it shows from a line on."""
    if not before.start <= cue.start <= before.end + _TOUCH_S:
        return 0
    words = cue.words
    for i in range(len(before.lines)):
        last = " ".join(before.lines[i:]).split(" ")
        if words[: len(last)] == last:
            return len(last)
    return 0
