"""What /openapi.json says of the answers: shapes, media types and errors."""

from typing import Literal

from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

BEARER = HTTPBearer(
    auto_error=False, description="Where the server has a key; the gate looks at it, not this."
)


class ErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(
        description="The field of the request that is wrong, where it is one."
    )
    code: str | None = Field(description="The same for every error of a kind, as model_not_found.")


class ErrorBody(BaseModel):
    error: ErrorDetail


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Usage(BaseModel):
    type: Literal["duration"]
    seconds: float


class Language(BaseModel):
    code: str


class Transcript(BaseModel):
    """response_format json."""

    text: str
    usage: Usage
    languages: list[Language] = Field(
        description="The one with most of the text; none where there is no text."
    )
    route: str = Field(
        description="The pipeline that wrote most of it: primary, or the name of a pack."
    )


class Word(BaseModel):
    word: str
    start: float
    end: float


class Segment(BaseModel):
    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    route: str
    language: str | None
    reason: str = Field(description="Why it took this route.")


class VerboseTranscript(Transcript):
    """response_format verbose_json; segments and words by timestamp_granularities[]."""

    task: Literal["transcribe", "translate"]
    language: str = Field(
        description="Its English name in lower case; empty where there is no text."
    )
    duration: float
    language_probs: dict[str, float] = Field(description="By code, most likely first.")
    segments: list[Segment] | None = None
    words: list[Word] | None = None


class Health(BaseModel):
    status: Literal["ok"]
    models: list[str]
    queue: int = Field(description="Requests admitted and not answered.")


class Packs(BaseModel):
    """What is loaded now, and what has changed."""

    packs: list[str]
    added: list[str]
    removed: list[str]


EVENTS = "text/event-stream"
_TEXT = {"schema": {"type": "string"}}
_TEXTS = {"text/plain": _TEXT, "application/x-subrip": _TEXT, "text/vtt": _TEXT}
_OF_A_STREAM = {
    EVENTS: {
        "schema": {
            "type": "object",
            "description": "A server-sent event.",
            "required": ["event", "data"],
            "properties": {
                "event": {"enum": ["transcript.text.delta", "transcript.text.done", "error"]},
                "data": {"type": "string", "contentMediaType": "application/json"},
            },
        },
        "example": (
            'event: transcript.text.delta\ndata: {"type": "transcript.text.delta", "delta":'
            ' "Good"}\n\n'
        ),
    }
}
_WRONG = {
    400: "A field, or the sound, that cannot be used; param says which.",
    401: "No key, or a wrong one.",
    404: "No such model; the message lists them.",
    405: "Not by this method.",
    408: "The upload was too slow.",
    413: "The request is too large, or the sound too long.",
    429: "Too many requests wait already; Retry-After says when to ask again.",
    500: "A bug; the server's log says what.",
    503: "The server is stopping.",
    504: "Not done within the time limit.",
}


def errors(*statuses: int) -> dict[int | str, dict]:
    """The responses of an endpoint that are errors."""
    # and not FastAPI's own 422
    other = {"default": {"model": ErrorBody, "description": "Any other error."}}
    return {
        status: {"model": ErrorBody, "description": _WRONG[status]} for status in statuses
    } | other


def transcript(*, streams: bool) -> dict[int | str, dict]:
    """The responses of an endpoint that transcribes."""
    content = _TEXTS | (_OF_A_STREAM if streams else {})
    told = "The transcript, as response_format says" + (
        ", or events as it grows with stream=true." if streams else "."
    )
    return {
        200: {"description": told, "content": content, "model": VerboseTranscript | Transcript}
    } | errors(400, 401, 404, 408, 413, 429, 500, 503, 504)
