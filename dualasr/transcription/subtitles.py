"""Words laid out as the cues of srt and vtt.

Words become pieces between places where a line may break: spaces, and in scripts that are written
without spaces the places that Unicode's line breaking (UAX #14) leaves open, syllables kept whole
where they can be told without a dictionary. Pieces fill lines, lines fill cues.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import regex

from dualasr.errors import RunError
from dualasr.transcription.transcript import Segment, Word, space_between

# milliseconds from the start of one word to the start of the next: more begins a new cue
_PAUSE = 3000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # line breaks and tabs among them

# \u0f0b: between Tibetan syllables
_SPACELESS = r"[\p{lb=ID}\p{lb=SA}\p{lb=CJ}\p{lb=NS}\u3000-\u303f\uff00-\uffef\u0f0b]"
_NOT_FIRST = (
    r"[\p{M}\p{lb=CL}\p{lb=CP}\p{lb=EX}\p{lb=IS}\p{lb=SY}\p{lb=IN}\p{lb=NS}\p{lb=CJ}\p{lb=BA}\p{lb=PO}\p{lb=GL}\p{lb=WJ}"
    r"\p{lb=ZW}\p{lb=ZWJ}\p{lb=EM}\p{Pf}\"'ฯะาำๅๆຯະາຳໆ]"
    r"|[\u1000-\u1021]\u1037?[\u1039\u103a]"  # a Burmese consonant that closes its syllable
)
# the last two stack consonants
_NOT_LAST = r"[\p{lb=OP}\p{lb=PR}\p{lb=GL}\p{lb=WJ}\p{lb=ZWJ}\p{Pi}\"'เ-ไເ-ໄ\u1039\u17d2]"
_BREAK = regex.compile(
    rf"(?<!\s)(?:(?=\s)|(?:(?<={_SPACELESS})|(?={_SPACELESS}))(?<!{_NOT_LAST})(?!{_NOT_FIRST}))"
)


@dataclass(frozen=True)
class SubtitleOptions:
    """How the words of srt and vtt are laid out. Each option needs segments with words.

    max_line_width: characters in a line at most; a single longer word stands alone, but in a script
    without spaces it is cut. max_line_count: lines in a cue at most; no effect without
    max_line_width. With both, text flows on over the borders of segments, and a cue ends where more
    than 3 s pass from the start of one word to that of the next; else each segment is a cue.
    highlight_words: each word is underlined while it is said. Raises ValueError for less than 1.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False

    def __post_init__(self):
        for name in ("max_line_width", "max_line_count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Timed(NamedTuple):
    """A cue, or a piece of one: text between two places where a line may break, with the space
    before it. Milliseconds.
    """

    start: int
    end: int
    text: str


def span(item: Segment | Word) -> tuple[int, int]:
    """Start and end in whole milliseconds, none negative, the end not before the start."""
    start = max(0, round(1000 * item.start))
    return start, max(start, round(1000 * item.end))


def one_line(text: str) -> str:
    """The text with a space in place of line breaks, tabs and other control characters."""
    return _CONTROLS.sub(" ", text)


def cues(
    segments: Iterable[Segment], options: SubtitleOptions, escape: Callable[[str], str] = str
) -> Iterator[Timed]:
    """What is shown from when to when; `escape` is applied to the text but not to the marks of
    highlighting.

    A cue begins and ends with its words where there are any, else with its segment; segments
    without text have none. A highlighted word has a cue of its own, and so has the time between two
    of them. "-->" becomes "->". Raises RunError where `options` ask for words that a segment lacks.
    """

    def shown(pieces: list[Timed], underlined: Timed | None = None) -> str:
        texts = (
            _underlined(piece.text, escape) if piece is underlined else escape(piece.text)
            for piece in pieces
        )
        return re.sub("--+>", "->", "".join(texts))

    for pieces in _laid_out(segments, options):
        now, end = pieces[0].start, max(pieces[0].start, pieces[-1].end)
        if not options.highlight_words:
            yield Timed(now, end, shown(pieces))
            continue
        for piece in pieces:
            if now < piece.start:
                yield Timed(now, piece.start, shown(pieces))
            yield Timed(piece.start, piece.end, shown(pieces, piece))
            now = piece.end


def _underlined(text: str, escape: Callable[[str], str]) -> str:
    word = text.lstrip()
    return f"{text[: len(text) - len(word)]}<u>{escape(word)}</u>"


def _laid_out(segments: Iterable[Segment], options: SubtitleOptions) -> Iterator[list[Timed]]:
    """The pieces of each cue. Where a line begins, but for the first, its first piece begins with a
    line break.
    """
    width, most = options.max_line_width, options.max_line_count
    flows = width is not None and most is not None
    cue: list[Timed] = []
    length, lines, before = 0, 0, None
    for segment in segments:
        for number, piece in enumerate(_pieces(segment, options)):
            if number == 0 and before is not None:
                piece = piece._replace(text=space_between(before, segment) + piece.text)
            before = segment
            ended = bool(cue) and (piece.start - cue[-1].start > _PAUSE if flows else number == 0)
            if cue and not ended and (width is None or length + len(piece.text) <= width):
                cue.append(piece)
                length += len(piece.text)
                continue
            if ended or (most is not None and lines >= most):
                yield cue
                cue, lines = [], 0
            text = piece.text.lstrip()
            cue.append(piece._replace(text=f"\n{text}" if cue else text))
            length, lines = len(text), lines + 1
    if cue:
        yield cue


def _pieces(segment: Segment, options: SubtitleOptions) -> Iterator[Timed]:
    """The words of a segment, or its text as one, each with the space before it, the first with
    none. What no line may break is joined; what is wider than a line is cut wherever a line may
    break, its time shared by its characters. Raises RunError where words are needed.
    """
    words = segment.words
    if not words and segment.text.strip():
        if options != SubtitleOptions():
            raise RunError(
                f"The segment from {segment.start:.2f} to {segment.end:.2f} s has no words, which"
                " max_line_width, max_line_count and highlight_words need; ask for word"
                " timestamps, or leave these out."
            )
        words = (Word(segment.start, segment.end, segment.text, None, True),)
    spaced = list(_spaced(words))
    breaks = {match.start() for match in _BREAK.finditer("".join(word.text for word in spaced))}
    pieces: list[Timed] = []
    at = 0
    for word in spaced:
        joined = pieces.pop() if pieces and at not in breaks else Timed(word.start, word.end, "")
        pieces.append(Timed(joined.start, max(joined.end, word.end), joined.text + word.text))
        at += len(word.text)
    at = 0
    for start, end, text in pieces:
        wide = options.max_line_width is not None and len(text.lstrip()) > options.max_line_width
        places = [place for place in range(1, len(text)) if wide and at + place in breaks]
        for first, last in pairwise([0, *places, len(text)]):
            yield Timed(
                *(start + (end - start) * place // len(text) for place in (first, last)),
                text[first:last],
            )
        at += len(text)


def _spaced(words: Iterable[Word]) -> Iterator[Timed]:
    """The words that are not empty, on one line; space stands before a word, not after, and not
    before the first.
    """
    space, first = "", True
    for word in words:
        text = space + one_line(word.word)
        bare = text.rstrip()
        space = text[len(bare) :]
        if bare:
            yield Timed(*span(word), bare.lstrip() if first else bare)
            first = False
