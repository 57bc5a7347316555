"""What is asked of a sound: pipeline, language, and how it is transcribed."""

from dataclasses import dataclass

from dualasr.audio.vad import VadOptions
from dualasr.errors import PackError
from dualasr.languages import tag_among
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback
from dualasr.model.selector import PRIMARY

NO_FALLBACK = Fallback((0.0,))  # Whisper's thresholds, and no second try


@dataclass(frozen=True)
class TranscribeOptions:
    """How a file is decoded, and which of its windows give no text.

    A window is no speech where Whisper's two thresholds say so (`Fallback.is_silence`): those of
    `decode.fallback`, or Whisper's own where that is None.

    Attributes:
        decode: How windows are decoded. Its prompt is what was said before the file, so that only
            the first window gets it.
        batch: Windows decoded at once. words: Whether the times of words are wanted. sentences:
        Whether a window without timestamps is cut into its sentences, by the times of its words.
        carry_prompt: Whether all windows get the prompt. condition_on_previous_text: Whether the
        next window is told what the primary wrote of the file so far, unless that looks like a
        failure. Windows are then decoded one by one. detect_only: Whether only route and language
        are wanted: those of the most seconds of speech. There is no text. silence_peak: A window
        where no sample reaches this is silence, and is not decoded (full scale is 1). vad: Voice
        activity detection: windows hold speech alone. None for none. stretches: Start and end, in
        seconds (None: the end of the file), of the only parts that are used; () for the whole.
        smoothing: A window whose neighbours both go another way goes with them if its lead, in
        log-odds, is below this, and none of the three is no speech.

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
        """The thresholds that say which windows are failures, and which are no speech."""
        return self.decode.fallback or NO_FALLBACK


@dataclass(frozen=True)
class TranscribeRequest:
    """What one caller wants of a sound.

    Attributes:
        route: "primary" or a pack's name; None for the selector's choice.
        language: A language's code; None for the pipeline's own choice. Without a route, the
        pipeline that knows it is taken. options: How it is transcribed.
    """

    route: str | None = None
    language: str | None = None
    options: TranscribeOptions = TranscribeOptions()

    def check(self, model: DualWhisper) -> None:
        """Raise PackError for a route or language that the model lacks, or where the route knows no
        allowed language.
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
