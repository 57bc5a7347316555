"""What a client's request asks of the model: pipeline, language, and how it decodes. The defaults
are the command line's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dualasr.errors import BaseModelError
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback, ladder
from dualasr.model.selector import PRIMARY
from dualasr.transcription.request import TranscribeOptions, TranscribeRequest
from dualasr.transcription.transcribe import check_request

AUTO = "auto"


@dataclass(frozen=True)
class ModelRequest:
    """What is wanted of a sound, and of which model: the one that was loaded when the request was
    admitted.
    """

    model: DualWhisper
    request: TranscribeRequest = TranscribeRequest()

    def same_batch(self, other: "ModelRequest") -> bool:
        """Return whether windows of both can be decoded as one batch."""
        return _same(self.model, other.model) and self.request == other.request


def _same(a: DualWhisper, b: DualWhisper) -> bool:
    """Whether two models answer alike; every request that names candidate languages has one of its
    own.
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
) -> ModelRequest:
    """The request for a sound. Languages are codes or names; `languages` are all that may be heard.
    Translation is the primary's.

    Raises PackError for a route or language that the model lacks, BaseModelError for what the base
    cannot do or a prompt that it cannot take, AlignmentError for words that cannot be had here, and
    ValueError for a temperature below 0.
    """
    if translate and not model.backbone.languages:
        raise BaseModelError("The base knows English alone; there is nothing to translate.")
    if prompt.strip():
        model.backbone.prompt_ids(prompt)
    decode = DecodeOptions(
        beam=beam,
        prompt=prompt,
        timestamps=model.backbone.tells_time,
        fallback=Fallback(ladder(temperature)),
        generate={"task": "translate"} if translate else {},
    )
    code = model.language_code(language) if language else None
    forced = PRIMARY if translate else None if route == AUTO else route
    if languages:
        model = model.among([model.language_code(name) for name in languages])
    request = TranscribeRequest(
        forced, code, TranscribeOptions(decode=decode, words=words, sentences=True)
    )
    check_request(model, request)
    return ModelRequest(model, request)
