"""Layout of words as the cues of srt and vtt.

1. Join words into pieces, between places where a line may break (`_pieces`). These are spaces; in
   scripts without spaces, they are the places where Unicode's line breaking rules (UAX #14) allow
   a break. Syllables stay whole as far as this is possible without a dictionary.
2. Fill lines with pieces, and cues with lines (`_laid_out`).
3. Turn each cue into its text, or into one cue for each highlighted word (`cues`).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import regex

from dualasr.errors import RunError
from dualasr.transcription.transcript import Segment, Word, space_between

# A new cue begins if more milliseconds pass from the start of a word to the start of the next.
_PAUSE = 3000
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # with line breaks and tabs

# Letters of scripts without spaces. A line may break before and after each of them, but not before
# _NOT_FIRST and not after _NOT_LAST. lb is the class of UAX #14. \u0f0b stands between Tibetan
# syllables.
_SPACELESS = r"[\p{lb=ID}\p{lb=SA}\p{lb=CJ}\p{lb=NS}\u3000-\u303f\uff00-\uffef\u0f0b]"
_NOT_FIRST = (
    r"[\p{M}\p{lb=CL}\p{lb=CP}\p{lb=EX}\p{lb=IS}\p{lb=SY}\p{lb=IN}\p{lb=NS}\p{lb=CJ}\p{lb=BA}\p{lb=PO}\p{lb=GL}\p{lb=WJ}"
    r"\p{lb=ZW}\p{lb=ZWJ}\p{lb=EM}\p{Pf}\"'ฯะาำๅๆຯະາຳໆ]"
    r"|[\u1000-\u1021]\u1037?[\u1039\u103a]"  # a Burmese consonant that closes its syllable
)
# \u1039 (Burmese) and \u17d2 (Khmer) put the next consonant below the one before them
_NOT_LAST = r"[\p{lb=OP}\p{lb=PR}\p{lb=GL}\p{lb=WJ}\p{lb=ZWJ}\p{Pi}\"'เ-ไເ-ໄ\u1039\u17d2]"
_BREAK = regex.compile(
    rf"(?<!\s)(?:(?=\s)|(?:(?<={_SPACELESS})|(?={_SPACELESS}))(?<!{_NOT_LAST})(?!{_NOT_FIRST}))"
)


@dataclass(frozen=True)
class SubtitleOptions:
    """Layout of srt and vtt. Each option needs segments with words.

    With both limits, a cue may hold words of several segments; it ends where more than 3 s pass
    from the start of a word to the start of the next. Otherwise each segment is a cue.

    Attributes:
        max_line_width: Most characters in a line; None for no limit. A longer word gets a line of
            its own; in a script without spaces it is cut.
        max_line_count: Most lines in a cue; None for no limit. It has no effect without
            max_line_width.
        highlight_words: Whether each word is underlined while it is spoken.

    Raises:
        ValueError: A limit is below 1.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False

    def __post_init__(self):
        for name in ("max_line_width", "max_line_count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Timed(NamedTuple):
    """A cue, or a piece of one.

    Attributes:
        start: In milliseconds.
        end: In milliseconds.
        text: For a piece, the text between two places where a line may break, with the space
            before it.
    """

    start: int
    end: int
    text: str


def span(item: Segment | Word) -> tuple[int, int]:
    """Return start and end in whole milliseconds: no negative ones, and no end before its start."""
    start = max(0, round(1000 * item.start))
    return start, max(start, round(1000 * item.end))


def one_line(text: str) -> str:
    """Replace line breaks, tabs and other control characters by spaces."""
    return _CONTROLS.sub(" ", text)


def cues(
    segments: Iterable[Segment], options: SubtitleOptions, escape: Callable[[str], str] = str
) -> Iterator[Timed]:
    """Lay out segments as cues.

    A cue begins and ends with its words, or with its segment if that has no words. Segments without
    text have no cue. With highlighting, each word has a cue of its own, and so has the time between
    two words. "-->" becomes "->", because it would end the cue.

    Args:
        segments: In order.
        options: The layout.
        escape: Function that escapes text for the format; the tags of highlighting stay as they
            are.

    Yields:
        The cues in order.

    Raises:
        RunError: `options` need words, and a segment has none.
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
    """Yield the pieces of each cue; a piece that begins a new line starts with a line break.

    Lines are filled greedily: a piece goes on the current line if it fits, else it begins a new
    line, and a new cue if the cue has all its lines.
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
    """Yield the words of a segment (or its whole text) as pieces, with the space before each.

    1. Join words where no line may break between them.
    2. Cut a piece that is wider than a line wherever a line may break. Each part gets time in
       proportion to its characters.

    Raises RunError if the options need words, and the segment has none.
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
    offset = 0  # of the word, then of the piece, in the joined text
    for word in spaced:
        apart = not pieces or offset in breaks
        joined = Timed(word.start, word.end, "") if apart else pieces.pop()
        pieces.append(Timed(joined.start, max(joined.end, word.end), joined.text + word.text))
        offset += len(word.text)
    offset = 0
    for start, end, text in pieces:
        wide = options.max_line_width is not None and len(text.lstrip()) > options.max_line_width
        places = [place for place in range(1, len(text)) if wide and offset + place in breaks]
        for first, last in pairwise([0, *places, len(text)]):
            begins, ends = (start + (end - start) * at // len(text) for at in (first, last))
            yield Timed(begins, ends, text[first:last])
        offset += len(text)


def _spaced(words: Iterable[Word]) -> Iterator[Timed]:
    """Yield the words that are not empty, on one line, with space before each but the first."""
    space, first = "", True
    for word in words:
        text = space + one_line(word.word)
        bare = text.rstrip()
        space = text[len(bare) :]
        if bare:
            yield Timed(*span(word), bare.lstrip() if first else bare)
            first = False
