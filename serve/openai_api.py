"""OpenAI's audio endpoints and list of models, and the one endpoint of whisper.cpp's server.

The field `model` of a request is `auto` (the selector chooses), the name of the base or `primary`,
or the name of a pack. Names that clients of other servers send, and no name, mean `auto`.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import Response, StreamingResponse

from dualasr.audio.load import SUFFIXES
from dualasr.errors import AudioError, DualasrError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.transcription.transcript import Transcription

from .fields import (
    check_names,
    granularities,
    hints,
    is_name_of_others,
    list_of,
    named_languages,
    refuse_include,
    vad_of,
)
from .openai_errors import ApiError, api_error
from .openai_formats import ResponseFormat, ResponseOptions, delta, event
from .request import AUTO, ModelRequest, request_for
from .routes import base_name
from .scheduler import Scheduler
from .schemas import BEARER, EVENTS, Model, Models, errors, transcript
from .streaming import stream_transcript

log = logging.getLogger(__name__)

POLL_S = 0.1  # seconds between two checks whether the client is still connected

SoundFile = Annotated[
    UploadFile,
    File(description=f"A sound file: {', '.join(SUFFIXES)}, or another that libsndfile reads."),
]
Name = Annotated[
    str,
    Form(
        max_length=4000,
        description=(
            "auto (the selector chooses), the name of the base or primary, or the name of a pack."
            " Nothing, whisper-1, gpt-4o-transcribe and the like mean auto."
        ),
    ),
]
Spoken = Annotated[
    str,
    Form(
        max_length=4000,
        description=(
            "Code or English name of the language spoken; en-US means en where only that is known."
            " Empty or auto: it is detected."
        ),
    ),
]
Languages = Annotated[
    list[str],
    Form(
        alias="languages[]",
        description="The only languages to choose from, by code or name; not with language.",
    ),
]
Prompt = Annotated[
    str, Form(max_length=4000, description="Text from before the sound; only the base uses it.")
]
Temperature = Annotated[
    float,
    Form(
        ge=0,
        le=1,
        description=(
            "Temperature of the base; 0 is beam search. Failures are decoded again at higher ones."
        ),
    ),
]
Granularities = Annotated[
    list[str],
    Form(
        alias="timestamp_granularities[]",
        description="segment, word or both: what verbose_json holds; other formats ignore it.",
    ),
]
Stream = Annotated[bool, Form(description="Whether to send the transcript as events.")]
Include = Annotated[
    list[str], Form(alias="include[]", description="Is refused: no token's logprob is kept.")
]
Chunking = Annotated[
    str,
    Form(
        description=(
            "auto: windows end in pauses. Or settings of voice activity detection as JSON, of type"
            " server_vad; it needs the extra vad."
        )
    ),
]
VadFilter = Annotated[
    bool, Form(description="Whether to transcribe only what is speech; needs the extra vad.")
]
Hotwords = Annotated[
    str, Form(max_length=4000, description="Words to expect; put before the prompt. For the base.")
]
Keywords = Annotated[
    list[str],
    Form(alias="keywords[]", description="Words to expect; put before the prompt. For the base."),
]
# what a handler reads from the form itself, besides its own arguments
TRANSCRIPTION_FIELDS = (
    *("file", "model", "language", "languages", "prompt", "response_format", "temperature"),
    *("timestamp_granularities", "stream", "include", "chunking_strategy", "vad_filter"),
    *("hotwords", "keywords"),
)
TRANSLATION_FIELDS = ("file", "model", "prompt", "response_format", "temperature")
INFERENCE_FIELDS = (
    *("file", "language", "prompt", "response_format", "temperature", "temperature_inc"),
    "translate",
)


def models_of(model: DualWhisper) -> dict[str, str]:
    """Return the names that a request may give as its model, with the route of each."""
    return {AUTO: AUTO, base_name(model.backbone): PRIMARY} | {name: name for name in model.packs}


def language_names(model: DualWhisper) -> dict[str, str]:
    """Return the English names of all languages of base and packs, in lower case, by code."""
    names = {code: name for name, code in reversed(model.backbone.language_names.items())}
    return names | {
        code: name.lower()
        for pack in model.packs.values()
        for code, name in pack.info.languages.items()
    }


def endpoints(scheduler: Scheduler, folder: Path, *, strict: bool = False) -> APIRouter:
    """Build the endpoints under /v1, and /inference.

    Args:
        scheduler: The scheduler, with its model.
        folder: Folder for sound files while they are transcribed.
        strict: Whether a request must name a model that is here.

    Returns:
        The router.
    """
    api = APIRouter(dependencies=[Depends(BEARER)])

    def route_of(name: str) -> str:
        known = models_of(scheduler.model)
        if name in (PRIMARY, scheduler.model.backbone.name) or name in known:
            return known.get(name, PRIMARY)
        if not strict and (not name or is_name_of_others(name)):
            return AUTO
        if not name:
            message = f"Give a model; the models are: {', '.join(known)}."
            raise ApiError(400, message, code="missing", param="model")
        message = f"The model {name!r} does not exist here; the models are: {', '.join(known)}."
        raise ApiError(404, message, code="model_not_found", param="model")

    @api.get("/v1/models", response_model=Models, responses=errors(401, 500))
    def list_models() -> dict:
        """List the models: auto, which lets the selector choose, the base, and the packs."""
        names = models_of(scheduler.model)
        return {"object": "list", "data": [_description(name) for name in names]}

    @api.get("/v1/models/{name:path}", response_model=Model, responses=errors(400, 401, 404, 500))
    def show_model(name: str) -> dict:
        """Describe one model."""
        route_of(name)
        return _description(name)

    @api.post("/v1/audio/transcriptions", response_model=None, responses=transcript(streams=True))
    async def transcriptions(
        request: Request,
        file: SoundFile,
        model: Name = "",
        language: Spoken = "",
        languages: Languages = [],  # noqa: B006
        prompt: Prompt = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Temperature = 0.0,
        timestamp_granularities: Granularities = [],  # noqa: B006
        stream: Stream = False,
        include: Include = [],  # noqa: B006
        chunking_strategy: Chunking = "",
        vad_filter: VadFilter = False,
        hotwords: Hotwords = "",
        keywords: Keywords = [],  # noqa: B006
    ) -> Response:
        """Transcribe a sound file by the pipeline that knows its language."""
        form = await request.form()
        check_names(form, TRANSCRIPTION_FIELDS)
        refuse_include(form)
        route, wanted = route_of(model), granularities(form, response_format)
        spoken, allowed = named_languages([language]), named_languages(list_of(form, "languages"))
        expected = hints(form)
        if expected and route not in (AUTO, PRIMARY):
            raise ApiError(
                400,
                "hotwords and keywords[] are for the base alone; leave them out, or set model to"
                f" {AUTO}.",
                code="invalid_value",
                param="hotwords" if hotwords else "keywords[]",
            )
        if spoken and allowed:
            raise ApiError(
                400,
                "language names the language spoken, languages[] those to choose from; give one of"
                " them.",
                code="invalid_value",
                param="languages[]",
            )
        model_request = request_for(
            scheduler.model,
            route=route,
            language=spoken[0] if spoken else None,
            languages=allowed,
            prompt=f"{expected} {prompt}".strip(),
            carry_prompt=bool(expected),
            temperature=temperature,
            words="word" in wanted,
            vad=vad_of(form, vad_filter),
        )
        options = ResponseOptions(
            response_format,
            wanted or frozenset({"segment"}),
            language_names(scheduler.model),
        )
        return await respond(request, file, model_request, options, stream)

    @api.post("/v1/audio/translations", response_model=None, responses=transcript(streams=False))
    async def translations(
        request: Request,
        file: SoundFile,
        model: Name = "",
        prompt: Prompt = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Temperature = 0.0,
    ) -> Response:
        """Translate a sound file to English, by the base."""
        check_names(await request.form(), TRANSLATION_FIELDS)
        if route_of(model) not in (AUTO, PRIMARY):
            raise ApiError(
                400,
                f"Translation is the primary's (the base's); set model to {AUTO} or"
                f" {base_name(scheduler.model.backbone)}.",
                code="invalid_value",
                param="model",
            )
        model_request = request_for(
            scheduler.model, prompt=prompt, temperature=temperature, translate=True
        )
        options = ResponseOptions(response_format, frozenset({"segment"}), {}, "translate")
        return await respond(request, file, model_request, options, stream=False)

    @api.post("/inference", response_model=None, responses=transcript(streams=False))
    async def inference(
        request: Request,
        file: SoundFile,
        language: Spoken = "",
        prompt: Prompt = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Temperature = 0.0,
        temperature_inc: Annotated[
            float, Form(ge=0, le=1, description="Step to the temperature of the next try; 0: none.")
        ] = 0.2,
        translate: Annotated[bool, Form(description="Whether to translate to English.")] = False,
    ) -> Response:
        """Transcribe a sound file, as the server of whisper.cpp does."""
        check_names(await request.form(), INFERENCE_FIELDS)
        spoken = named_languages([language])
        model_request = request_for(
            scheduler.model,
            language=spoken[0] if spoken and not translate else None,
            prompt=prompt,
            temperature=temperature,
            step=temperature_inc,
            translate=translate,
        )
        names, task = language_names(scheduler.model), "translate" if translate else "transcribe"
        options = ResponseOptions(response_format, frozenset({"segment"}), names, task)
        return await respond(request, file, model_request, options, stream=False)

    async def respond(
        request: Request,
        file: UploadFile,
        model_request: ModelRequest,
        options: ResponseOptions,
        stream: bool,
    ) -> Response:
        path = await asyncio.to_thread(_save, file, folder)
        transcripts = _transcripts(
            request, scheduler, path, model_request, file.filename or "audio"
        )
        if stream:
            # An error before the first text still becomes an HTTP error, not an event.
            first = await anext(transcripts)
            events = _events(first, transcripts, options)
            return StreamingResponse(
                events, media_type=EVENTS, headers={"Cache-Control": "no-store"}
            )
        async for so_far in transcripts:
            whole = so_far
        return options.response(whole)

    return api


def _description(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dualasr"}


def _save(file: UploadFile, folder: Path) -> Path:
    """Save an upload under a new name, with the suffix of the old one if that is known."""
    suffix = Path(file.filename or "").suffix.lower()
    with tempfile.NamedTemporaryFile(
        dir=folder, suffix=suffix if suffix in SUFFIXES else "", delete=False
    ) as saved:
        try:
            shutil.copyfileobj(file.file, saved)
        except OSError:  # the disk is full
            Path(saved.name).unlink()
            raise
    return Path(saved.name)


async def _transcripts(
    request: Request, scheduler: Scheduler, path: Path, model_request: ModelRequest, name: str
) -> AsyncGenerator[Transcription, None]:
    """Yield the transcript while it grows, and the whole one last; then delete the sound file.

    If the client disconnects, the request is cancelled.
    """
    try:
        _, transcripts = stream_transcript(scheduler, path, model_request, POLL_S)
        async with aclosing(transcripts):
            async for so_far, _ in transcripts:
                if so_far is not None:
                    yield so_far
                elif await request.is_disconnected():
                    raise ApiError(499, "The client disconnected.", code="client_closed")
    except AudioError as error:
        # show the name that the client sent, not the path on the server
        raise AudioError(str(error).replace(str(path), name)) from None
    finally:
        path.unlink(missing_ok=True)


async def _events(
    first: Transcription, more: AsyncGenerator[Transcription, None], options: ResponseOptions
) -> AsyncIterator[str]:
    """Yield events with the new text of each transcript, then the last event; closes `more`."""
    sent, transcript = "", first

    def new_events(text: str) -> Iterator[str]:
        nonlocal sent
        if len(text) > len(sent):
            yield event(delta(text[len(sent) :]))
            sent = text

    try:
        async with aclosing(more):
            for new in new_events(options.text(first).rstrip()):
                yield new
            async for transcript in more:
                for new in new_events(options.text(transcript).rstrip()):
                    yield new
        for new in new_events(options.text(transcript)):
            yield new
        yield event(options.done(transcript))
    except Exception as error:
        if not isinstance(error, (ApiError, DualasrError)):
            log.exception("a stream broke")
        failed = api_error(error)
        yield event({"error": {"message": str(failed), "code": failed.code}})
