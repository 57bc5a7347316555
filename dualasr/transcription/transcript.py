"""A transcript: the whole, its segments and their words, each with its evidence."""

from dataclasses import asdict, dataclass

from dualasr.text import scoring_unit


@dataclass(frozen=True)
class Word:
    """A word and its time.

    Attributes:
        start: Seconds from the beginning of the file.
        end: Seconds from the beginning of the file.
        word: The text as in the segment, with the space before it if there is one.
        probability: Mean over its tokens or letters; None if it is not known.
        shared: Whether no alignment was possible for it, so that it shares the time between its
            neighbours with other such words.
    """

    start: float
    end: float
    word: str
    probability: float | None
    shared: bool


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a window's text, with the window's evidence.

    Attributes:
        start: Seconds from the beginning of the file.
        end: Seconds from the beginning of the file.
        text: The text.
        language: Code of the language that the window was decoded in; None if it is not known.
        route: "primary" or the name of the pack that wrote the text.
        avg_logprob: Mean log-probability of the window's tokens (natural logarithm), by the
            route's own tokenizer.
        no_speech_prob: The primary's probability that the window holds no speech, whatever the
            route.
        language_probs: Probability of each language by code, most likely first.
        scores: Raw scores of the selector, by "primary" and name of pack.
        reason: Why the selector chose the route.
        words: The words with their times; () if they were not requested.
        seek: Start of the window in hundredths of a second, as Whisper counts.
        tokens: Token ids by the route's own tokenizer; () if the window was cut into sentences by
            the times of its words.
        temperature: Temperature that the window was decoded at; 0 for a search.
        compression_ratio: Bytes of the window's text for each byte that zlib makes of it, as in
            Whisper; high for text that repeats itself.
    """

    start: float
    end: float
    text: str
    language: str | None
    route: str
    avg_logprob: float
    no_speech_prob: float
    language_probs: dict[str, float]
    scores: dict
    reason: str
    words: tuple[Word, ...] = ()
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    compression_ratio: float = 0.0

    def to_dict(self) -> dict:
        """Return the fields as plain values for JSON, without `words` if there are none."""
        plain = asdict(self) | {"tokens": list(self.tokens)}
        words = plain.pop("words")
        return plain | ({"words": list(words)} if words else {})


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """The transcript of a file, with its language, its pipeline and the evidence for them.

    Attributes:
        text: The whole text, on one line.
        language: Code of the language with the most seconds of text; None without text.
        route: The route with the most seconds of text: "primary" or the name of a pack; "primary"
            without text.
        language_probs: Probability of each language by code, most likely first: the mean over all
            windows with sound, weighted by duration. It sums to 1, or is {} for a file without
            sound.
        segments: The parts of the text in order.
        duration: Length of the sound in seconds.
        scores: Under "windows" the number of windows with text, empty, without speech and silent;
            under "route_seconds" and "language_seconds" the seconds of text by route and by
            language.
    """

    text: str
    language: str | None
    route: str
    language_probs: dict[str, float]
    segments: tuple[Segment, ...]
    duration: float
    scores: dict

    def to_dict(self) -> dict:
        """Return the fields as plain values for JSON."""
        return asdict(self) | {"segments": [segment.to_dict() for segment in self.segments]}


def space_between(before: Segment, after: Segment) -> str:
    """Return what separates two segments in a text.

    Args:
        before: The first segment.
        after: The next one.

    Returns:
        A space, or "" if both languages are written without spaces.
    """
    spaceless = all(
        scoring_unit(segment.language or "") == "character" for segment in (before, after)
    )
    return "" if spaceless else " "
