"""OpenAI's audio endpoints and list of models, by the routes of the selector.

`model` is `auto`, the base's name or `primary`, or the name of a pack; `whisper-1`, which many tools send, is `auto`.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response, StreamingResponse

from dualasr.audio import SUFFIXES
from dualasr.errors import AudioError, DualasrError
from dualasr.model import DualWhisper
from dualasr.selector import PRIMARY
from dualasr.transcript import Transcription

from .openai_errors import ApiError, api_error
from .openai_formats import Granularity, ResponseFormat, Wanted, delta, event
from .orders import AUTO, Order, order_of
from .scheduler import Scheduler, Ticket

ALIASES = ("whisper-1",)  # what tools send that know no other name
Text = Annotated[str, Form(max_length=4000)]


def models_of(model: DualWhisper) -> dict[str, str]:
    """The names that a request may give as its model, and the route of each."""
    return {AUTO: AUTO, model.backbone.name: PRIMARY} | {name: name for name in model.packs}


def language_names(model: DualWhisper) -> dict[str, str]:
    """English names of the languages that somebody here knows, in lower case, by code."""
    names = {code: name for name, code in reversed(model.backbone.language_names.items())}
    return names | {code: name.lower() for pack in model.packs.values() for code, name in pack.info.languages.items()}


def router(scheduler: Scheduler, uploads: Path) -> APIRouter:
    """The endpoints under /v1; `uploads` is a folder for what is being transcribed."""
    api = APIRouter(prefix="/v1")

    def route_of(name: str) -> str:
        known = models_of(scheduler.model)
        if name in ALIASES:
            return AUTO
        if name == PRIMARY or name in known:
            return known.get(name, PRIMARY)
        message = f"The model {name!r} does not exist here; there is: {', '.join(known)}."
        raise ApiError(404, message, code="model_not_found", param="model")

    @api.get("/models")
    def list_models() -> dict:
        return {"object": "list", "data": [_described(name) for name in models_of(scheduler.model)]}

    @api.get("/models/{name:path}")
    def show_model(name: str) -> dict:
        route_of(name)
        return _described(name)

    @api.post("/audio/transcriptions", response_model=None)
    async def transcriptions(
        request: Request, file: Annotated[UploadFile, File()], model: Text,
        language: Text = "", languages: Annotated[list[str], Form(alias="languages[]")] = [],  # noqa: B006
        prompt: Text = "", response_format: Annotated[ResponseFormat, Form()] = "json",
        temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
        timestamp_granularities: Annotated[list[Granularity], Form(alias="timestamp_granularities[]")] = [],  # noqa: B006
        stream: Annotated[bool, Form()] = False,
    ) -> Response:  # fmt: skip
        granularities = frozenset(timestamp_granularities)
        if granularities and response_format != "verbose_json":
            raise ApiError(400, "timestamp_granularities[] needs response_format verbose_json.", code="invalid_value",
                           param="timestamp_granularities[]")  # fmt: skip
        if language and languages:
            raise ApiError(400, "language says the language, languages[] where to look for it; give one of them.",
                           code="invalid_value", param="languages[]")  # fmt: skip
        order = order_of(
            scheduler.model, route=route_of(model), language=language or None, languages=languages, prompt=prompt,
            temperature=temperature, words="word" in granularities,
        )  # fmt: skip
        wanted = Wanted(response_format, granularities or frozenset({"segment"}), temperature, language_names(scheduler.model))
        return await answered(request, file, order, wanted, stream)

    @api.post("/audio/translations", response_model=None)
    async def translations(
        request: Request, file: Annotated[UploadFile, File()], model: Text, prompt: Text = "",
        response_format: Annotated[ResponseFormat, Form()] = "json", temperature: Annotated[float, Form(ge=0, le=1)] = 0.0,
    ) -> Response:  # fmt: skip
        if route_of(model) not in (AUTO, PRIMARY):
            raise ApiError(400, f"Translation is the primary's; ask {AUTO} or {scheduler.model.backbone.name} for it.",
                           code="invalid_value", param="model")  # fmt: skip
        order = order_of(scheduler.model, prompt=prompt, temperature=temperature, translate=True)
        wanted = Wanted(response_format, frozenset({"segment"}), temperature, {"en": "english"}, "translate")
        return await answered(request, file, order, wanted, stream=False)

    async def answered(request: Request, file: UploadFile, order: Order, wanted: Wanted, stream: bool) -> Response:
        path = await asyncio.to_thread(_keep, file, uploads)
        if stream:
            return await _streamed(scheduler, path, order, wanted, file.filename or "audio")
        try:
            ticket = scheduler.submit(path, order)
            return wanted.response(await _finished(request, ticket))
        except DualasrError as error:
            raise _named(error, path, file.filename or "audio") from error
        finally:
            path.unlink(missing_ok=True)

    return api


def _described(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dualasr"}


def _keep(file: UploadFile, folder: Path) -> Path:
    """An upload as a file of its own. Of its name the suffix alone is kept, where it is one of sound files."""
    suffix = Path(file.filename or "").suffix.lower()
    with tempfile.NamedTemporaryFile(dir=folder, suffix=suffix if suffix in SUFFIXES else "", delete=False) as kept:
        shutil.copyfileobj(file.file, kept)
    return Path(kept.name)


async def _finished(request: Request, ticket: Ticket) -> Transcription:
    """The transcript; a client that hangs up takes its request with it."""
    future = asyncio.wrap_future(ticket.future)
    while not future.done():
        await asyncio.wait([future], timeout=0.5)
        if not future.done() and await request.is_disconnected():
            ticket.cancel()
            raise ApiError(499, "The client hung up.", code="client_closed")
    return await future


async def _streamed(scheduler: Scheduler, path: Path, order: Order, wanted: Wanted, name: str) -> StreamingResponse:
    """Events as the transcript grows. What is refused or wrong before the first word is an error of the response itself."""
    loop, news = asyncio.get_running_loop(), asyncio.Queue()

    def tell(what: Transcription | None) -> None:
        loop.call_soon_threadsafe(news.put_nowait, what)

    try:
        ticket = scheduler.submit(path, order, tell)
        ticket.future.add_done_callback(lambda future: tell(None))
        first = await news.get()
        if first is None:
            ticket.future.result()
    except BaseException as error:
        path.unlink(missing_ok=True)
        raise (_named(error, path, name) if isinstance(error, DualasrError) else error) from None

    async def events() -> AsyncIterator[str]:
        told, so_far = "", first
        try:
            while so_far is not None:
                text = wanted.text(so_far).rstrip()
                if len(text) > len(told):
                    yield event(delta(text[len(told) :]))
                    told = text
                so_far = await news.get()
            transcript = ticket.future.result()
            if rest := wanted.text(transcript)[len(told) :]:
                yield event(delta(rest))
            yield event(wanted.done(transcript))
        except DualasrError as error:
            failed = api_error(_named(error, path, name))
            yield event({"error": {"message": str(failed), "code": failed.code}})
        finally:
            ticket.cancel()
            path.unlink(missing_ok=True)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _named(error: DualasrError, path: Path, name: str) -> DualasrError:
    """An error about an upload, by the name that its sender knows."""
    return AudioError(str(error).replace(str(path), name)) if isinstance(error, AudioError) else error
