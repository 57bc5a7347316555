"""A request for a transcript: pipeline, language, and how to transcribe."""

from dataclasses import dataclass

from dualasr.audio.vad import VadOptions
from dualasr.errors import PackError
from dualasr.languages import tag_among
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback
from dualasr.model.selector import PRIMARY

NO_FALLBACK = Fallback((0.0,))  # Whisper's thresholds, without decoding failures again


@dataclass(frozen=True)
class TranscribeOptions:
    """How to decode a file, and which of its windows give no text.

    A window counts as no speech if Whisper's two thresholds say so (`Fallback.is_silence`). They
    are those of `decode.fallback`, or Whisper's defaults if that is None.

    Attributes:
        decode: How windows are decoded. Its prompt is text from before the file, so only the first
            window gets it.
        batch: Number of windows that are decoded together, at least 1.
        words: Whether to find the times of words.
        sentences: Whether to cut a window without timestamps into sentences, by the times of its
            words.
        carry_prompt: Whether all windows get the prompt.
        condition_on_previous_text: Whether the prompt of the next window is what the primary wrote
            of the file so far, unless that looks like a failure. Windows are then decoded one by
            one.
        detect_only: Whether to find only route and language, those with the most seconds of
            speech, and no text.
        silence_peak: A window is silence, and is not decoded, if no sample reaches this (full
            scale is 1).
        vad: Settings of voice activity detection, after which windows hold only speech. None for
            no detection.
        stretches: The parts of the file to use, as start and end in seconds; an end of None is the
            end of the file. () for the whole file.
        smoothing: A window takes the route of its two neighbours if they agree, its own lead is
            below this many log-odds, and all three are speech.

    Raises:
        ValueError: batch is below 1.
    """

    decode: DecodeOptions = DecodeOptions()
    batch: int = 8
    words: bool = False
    sentences: bool = False
    carry_prompt: bool = False
    condition_on_previous_text: bool = False
    detect_only: bool = False
    silence_peak: float = 1e-4
    vad: VadOptions | None = None
    stretches: tuple[tuple[float, float | None], ...] = ()
    smoothing: float = 2.0

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it must be at least 1 window")

    @property
    def thresholds(self) -> Fallback:
        """The thresholds that decide which windows are failures, and which are no speech."""
        return self.decode.fallback or NO_FALLBACK


@dataclass(frozen=True)
class TranscribeRequest:
    """What one caller requests for a sound.

    Attributes:
        route: "primary" or the name of a pack; None lets the selector choose.
        language: Code of the language; None lets the pipeline choose. Without a route, the
            pipeline that knows the language is used.
        options: How to transcribe.
    """

    route: str | None = None
    language: str | None = None
    options: TranscribeOptions = TranscribeOptions()

    def check(self, model: DualWhisper) -> None:
        """Check that the model can serve the request.

        Args:
            model: The model that will transcribe.

        Raises:
            PackError: The model has no such route or language, or the route knows none of the
                allowed languages.
        """
        route, language = self.route, self.language
        if route is None:
            if language is not None:
                model.route_of(language)
            return
        known = model.backbone.codes if route == PRIMARY else list(model.pack(route).info.languages)
        if model.languages is not None and not model.languages & set(known):
            allowed = ", ".join(sorted(model.languages))
            raise PackError(
                f"Route {route!r} knows none of {allowed}; it knows: {', '.join(known)}."
            )
        if language is not None and not (
            tag_among(language, known) if route == PRIMARY else language in known
        ):
            raise PackError(
                f"Route {route!r} does not know {language!r}; it knows: {', '.join(known)}."
            )
