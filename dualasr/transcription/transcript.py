"""What was said in a file: the whole, its segments, their words, each with its evidence."""

from dataclasses import asdict, dataclass

from dualasr.text import scoring_unit


@dataclass(frozen=True)
class Word:
    """A word and when it is said. start and end are seconds in the file.

    word is the text as it stands in the segment, with the space before it where there is one.
    probability is None where it is not known. shared: no alignment was possible, and the words
    share the time of their segment evenly.
    """

    start: float
    end: float
    word: str
    probability: float | None
    shared: bool


@dataclass(frozen=True)
class Segment:
    """A part of what a window holds, with the window's evidence.

    start and end are seconds in the file, seek is where the window starts in hundredths of a
    second, as Whisper counts. words is () where not asked for; tokens is () where the window was
    cut into sentences by the times of its words.
    """

    start: float
    end: float
    text: str
    language: str | None
    route: str
    avg_logprob: float  # mean per token of the route's own tokenizer, natural logarithm
    no_speech_prob: float  # the primary's opinion, whatever the route
    language_probs: dict[str, float]
    scores: dict
    reason: str
    words: tuple[Word, ...] = ()
    seek: int = 0
    tokens: tuple[int, ...] = ()  # of the route's own tokenizer
    temperature: float = 0.0
    compression_ratio: float = 0.0

    def to_dict(self) -> dict:
        """The same as plain dicts, lists, strings and numbers, ready for JSON; without `words`
        where there are none.
        """
        plain = asdict(self) | {"tokens": list(self.tokens)}
        words = plain.pop("words")
        return plain | ({"words": list(words)} if words else {})


@dataclass(frozen=True)
class Transcription:
    """What was said in a file, in which language, and through which pipeline.

    route and language are those with the most seconds of text; "primary" and None where there is no
    text. language_probs is the mean over all windows with sound, weighted by duration, most likely
    first: it sums to 1, or is {} for a file with no sound. segments has one entry for each window
    with text. duration is in seconds. scores counts the windows by what became of them, and the
    seconds of text by route and by language.
    """

    text: str
    language: str | None
    route: str
    language_probs: dict[str, float]
    segments: tuple[Segment, ...]
    duration: float
    scores: dict

    def to_dict(self) -> dict:
        """The same as plain dicts, lists, strings and numbers, ready for JSON."""
        return asdict(self) | {"segments": [segment.to_dict() for segment in self.segments]}


def space_between(before: Segment, after: Segment) -> str:
    """What stands between the texts of two segments: a space, or nothing if both languages are
    written without.
    """
    spaceless = all(
        scoring_unit(segment.language or "") == "character" for segment in (before, after)
    )
    return "" if spaceless else " "
