"""OpenAI's audio endpoints and list of models, by the routes of the selector.

`model` is `auto`, the base's name or `primary`, or the name of a pack; `whisper-1`, which many
tools send, is `auto`.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
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

from .openai_errors import ApiError, api_error
from .openai_formats import Granularity, ResponseFormat, Wanted, delta, event
from .request import AUTO, ModelRequest, request_for
from .routes import base_name
from .scheduler import Scheduler
from .schemas import BEARER, EVENTS, Model, Models, errors, transcript
from .streaming import grow

log = logging.getLogger(__name__)

LOOK_S = 0.1  # between two looks whether a client is still there
ALIASES = ("whisper-1",)  # what tools send that know no other name

SoundFile = Annotated[
    UploadFile, File(description=f"Any of {', '.join(SUFFIXES)}, and what else libsndfile reads.")
]
Name = Annotated[
    str,
    Form(
        max_length=4000,
        description="auto, the base's name or primary, or a pack's; whisper-1 is auto.",
    ),
]
Spoken = Annotated[
    str,
    Form(
        max_length=4000, description="The language, by code or English name; without, it is told."
    ),
]
Languages = Annotated[
    list[str], Form(alias="languages[]", description="All that may be heard; instead of language.")
]
Prompt = Annotated[
    str, Form(max_length=4000, description="What was said before, for the base alone.")
]
Temperature = Annotated[
    float,
    Form(ge=0, le=1, description="Of the base; 0 is a beam. Failures are tried again above it."),
]
Granularities = Annotated[
    list[Granularity], Form(alias="timestamp_granularities[]", description="With verbose_json.")
]
Stream = Annotated[bool, Form(description="Events as the transcript grows.")]


def models_of(model: DualWhisper) -> dict[str, str]:
    """The names that a request may give as its model, and the route of each."""
    return {AUTO: AUTO, base_name(model.backbone): PRIMARY} | {name: name for name in model.packs}


def language_names(model: DualWhisper) -> dict[str, str]:
    """English names of the languages that somebody here knows, in lower case, by code."""
    names = {code: name for name, code in reversed(model.backbone.language_names.items())}
    return names | {
        code: name.lower()
        for pack in model.packs.values()
        for code, name in pack.info.languages.items()
    }


def router(scheduler: Scheduler, uploads: Path) -> APIRouter:
    """The endpoints under /v1; `uploads` is a folder for what is being transcribed."""
    api = APIRouter(prefix="/v1", dependencies=[Depends(BEARER)])

    def route_of(name: str) -> str:
        known = models_of(scheduler.model)
        if name in ALIASES:
            return AUTO
        if name in (PRIMARY, scheduler.model.backbone.name) or name in known:
            return known.get(name, PRIMARY)
        message = f"The model {name!r} does not exist here; there is: {', '.join(known)}."
        raise ApiError(404, message, code="model_not_found", param="model")

    @api.get("/models", response_model=Models, responses=errors(401, 500))
    def list_models() -> dict:
        """What a request may give as its model: auto, which lets the selector choose, the base, and
        the packs.
        """
        return {"object": "list", "data": [_described(name) for name in models_of(scheduler.model)]}

    @api.get("/models/{name:path}", response_model=Model, responses=errors(400, 401, 404, 500))
    def show_model(name: str) -> dict:
        """One of them."""
        route_of(name)
        return _described(name)

    @api.post("/audio/transcriptions", response_model=None, responses=transcript(streams=True))
    async def transcriptions(
        request: Request,
        file: SoundFile,
        model: Name,
        language: Spoken = "",
        languages: Languages = [],  # noqa: B006
        prompt: Prompt = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Temperature = 0.0,
        timestamp_granularities: Granularities = [],
        stream: Stream = False,  # noqa: B006
    ) -> Response:
        """What is said in a sound file, by the pipeline that knows its language."""
        granularities = frozenset(timestamp_granularities)
        if granularities and response_format != "verbose_json":
            raise ApiError(
                400,
                "timestamp_granularities[] needs response_format verbose_json.",
                code="invalid_value",
                param="timestamp_granularities[]",
            )
        if language and languages:
            raise ApiError(
                400,
                "language says the language, languages[] where to look for it; give one of them.",
                code="invalid_value",
                param="languages[]",
            )
        model_request = request_for(
            scheduler.model,
            route=route_of(model),
            language=language or None,
            languages=languages,
            prompt=prompt,
            temperature=temperature,
            words="word" in granularities,
        )
        wanted = Wanted(
            response_format,
            granularities or frozenset({"segment"}),
            language_names(scheduler.model),
        )
        return await answered(request, file, model_request, wanted, stream)

    @api.post("/audio/translations", response_model=None, responses=transcript(streams=False))
    async def translations(
        request: Request,
        file: SoundFile,
        model: Name,
        prompt: Prompt = "",
        response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Temperature = 0.0,
    ) -> Response:
        """What is said in a sound file, in English, as far as the base can translate."""
        if route_of(model) not in (AUTO, PRIMARY):
            raise ApiError(
                400,
                f"Translation is the primary's; ask {AUTO} or {base_name(scheduler.model.backbone)}"
                " for it.",
                code="invalid_value",
                param="model",
            )
        model_request = request_for(
            scheduler.model, prompt=prompt, temperature=temperature, translate=True
        )
        wanted = Wanted(response_format, frozenset({"segment"}), {}, "translate")
        return await answered(request, file, model_request, wanted, stream=False)

    async def answered(
        request: Request,
        file: UploadFile,
        model_request: ModelRequest,
        wanted: Wanted,
        stream: bool,
    ) -> Response:
        path = await asyncio.to_thread(_keep, file, uploads)
        transcripts = _growing(request, scheduler, path, model_request, file.filename or "audio")
        if stream:
            # what goes wrong before the first word is an error of the response itself
            first = await anext(transcripts)
            events = _events(first, transcripts, wanted)
            return StreamingResponse(
                events, media_type=EVENTS, headers={"Cache-Control": "no-store"}
            )
        async for so_far in transcripts:
            whole = so_far
        return wanted.response(whole)

    return api


def _described(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dualasr"}


def _keep(file: UploadFile, folder: Path) -> Path:
    """An upload as a file of its own. Of its name the suffix alone is kept, where it is one of
    sound files.
    """
    suffix = Path(file.filename or "").suffix.lower()
    with tempfile.NamedTemporaryFile(
        dir=folder, suffix=suffix if suffix in SUFFIXES else "", delete=False
    ) as kept:
        try:
            shutil.copyfileobj(file.file, kept)
        except OSError:  # the disk is full
            Path(kept.name).unlink()
            raise
    return Path(kept.name)


async def _growing(
    request: Request, scheduler: Scheduler, path: Path, model_request: ModelRequest, name: str
) -> AsyncIterator[Transcription]:
    """The transcript as it grows, the whole last. A client that hangs up takes its request with it;
    the file goes at last.
    """
    try:
        _, transcripts = grow(scheduler, path, model_request, LOOK_S)
        async with aclosing(transcripts):
            async for so_far, _ in transcripts:
                if so_far is not None:
                    yield so_far
                elif await request.is_disconnected():
                    raise ApiError(499, "The client hung up.", code="client_closed")
    except AudioError as error:
        # by the name that its sender knows
        raise AudioError(str(error).replace(str(path), name)) from None
    finally:
        path.unlink(missing_ok=True)


async def _events(
    first: Transcription, more: AsyncIterator[Transcription], wanted: Wanted
) -> AsyncIterator[str]:
    """Events as a transcript grows; `more` is closed with them."""
    told, transcript = "", first

    def news(text: str) -> Iterator[str]:
        nonlocal told
        if len(text) > len(told):
            yield event(delta(text[len(told) :]))
            told = text

    try:
        async with aclosing(more):
            for new in news(wanted.text(first).rstrip()):
                yield new
            async for transcript in more:
                for new in news(wanted.text(transcript).rstrip()):
                    yield new
        for new in news(wanted.text(transcript)):
            yield new
        yield event(wanted.done(transcript))
    except Exception as error:
        if not isinstance(error, (ApiError, DualasrError)):
            log.exception("a stream broke")
        failed = api_error(error)
        yield event({"error": {"message": str(failed), "code": failed.code}})
