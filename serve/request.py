"""A client's request to the model: pipeline, language and decoding, with the command line's
defaults.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dualasr.audio.vad import VadOptions
from dualasr.errors import BaseModelError
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback, ladder
from dualasr.model.selector import PRIMARY
from dualasr.transcription.request import TranscribeOptions, TranscribeRequest
from dualasr.transcription.transcribe import check_request

AUTO = "auto"


@dataclass(frozen=True)
class ModelRequest:
    """A request for a transcript, with its model.

    Attributes:
        model: The model that was loaded when the request was admitted.
        request: Pipeline, language and options.
    """

    model: DualWhisper
    request: TranscribeRequest = TranscribeRequest()

    def same_batch(self, other: "ModelRequest") -> bool:
        """Return whether windows of both requests can be decoded as one batch."""
        return _same(self.model, other.model) and self.request == other.request


def _same(a: DualWhisper, b: DualWhisper) -> bool:
    """Whether two models give the same results.

    They may be different objects, because each request with a list of languages gets its own.
    """
    return (
        a.backbone is b.backbone
        and (a.selector, a.languages, list(a.packs)) == (b.selector, b.languages, list(b.packs))
        and all(pack is b.packs[name] for name, pack in a.packs.items())
    )


def request_for(
    model: DualWhisper,
    *,
    route: str = AUTO,
    language: str | None = None,
    languages: Sequence[str] = (),
    prompt: str = "",
    temperature: float = 0.0,
    words: bool = False,
    translate: bool = False,
    beam: int = 5,
    carry_prompt: bool = False,
    step: float = 0.2,
    vad: VadOptions | None = None,
) -> ModelRequest:
    """Build and check a request.

    Args:
        model: The loaded model.
        route: "auto", "primary" or the name of a pack.
        language: Code or name of the language; None to detect it.
        languages: Codes or names of the only languages to choose from; () for all.
        prompt: Text from before the sound, for the primary.
        temperature: First temperature of the primary; 0 is beam search.
        words: Whether to find the times of words.
        translate: Whether to translate to English, which the primary does.
        beam: Beam width.
        carry_prompt: Whether all windows get the prompt, not the first alone.
        step: Difference between two temperatures of the primary; 0 for the first one alone.
        vad: Settings of voice activity detection; None for none.

    Returns:
        The request, with a model that is limited to `languages`.

    Raises:
        PackError: The model has no such route or language.
        BaseModelError: The base cannot translate, or cannot take the prompt.
        AlignmentError: Words of a pack are requested, and torchaudio cannot be loaded.
        ValueError: The temperature is below 0.
    """
    if translate and not model.backbone.languages:
        raise BaseModelError("The base knows only English, so it cannot translate.")
    if prompt.strip():
        model.backbone.prompt_ids(prompt)
    decode = DecodeOptions(
        beam=beam,
        prompt=prompt,
        timestamps=model.backbone.tells_time,
        fallback=Fallback(ladder(temperature, step)),
        generate={"task": "translate"} if translate else {},
    )
    code = model.language_code(language) if language else None
    forced = PRIMARY if translate else None if route == AUTO else route
    if languages:
        model = model.among([model.language_code(name) for name in languages])
    options = TranscribeOptions(
        decode=decode, words=words, sentences=True, carry_prompt=carry_prompt, vad=vad
    )
    request = TranscribeRequest(forced, code, options)
    check_request(model, request)
    return ModelRequest(model, request)
