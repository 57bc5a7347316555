"""The responses as /openapi.json describes them: JSON schemas, media types and errors."""

from typing import Literal

from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

BEARER = HTTPBearer(
    auto_error=False, description="The key of the server, if it has one."
)  # it is for the description only; `limits.Gate` checks the key


class ErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(
        description="The field of the request that is wrong; null if it is none."
    )
    code: str | None = Field(
        description="Identifier of the kind of error, such as model_not_found."
    )


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
        description="The language with most of the text; none if there is no text."
    )
    route: str = Field(
        description="The pipeline that wrote most of the text: primary, or the name of a pack."
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
    reason: str = Field(description="Why the selector chose the route.")


class VerboseTranscript(Transcript):
    """response_format verbose_json, with segments and words as in timestamp_granularities[]."""

    task: Literal["transcribe", "translate"]
    language: str = Field(
        description="English name of the language in lower case; empty if there is no text."
    )
    duration: float
    language_probs: dict[str, float] = Field(
        description="Probability of each language by code, most likely first."
    )
    segments: list[Segment] | None = None
    words: list[Word] | None = None


class Health(BaseModel):
    status: Literal["ok"]
    models: list[str]
    queue: int = Field(description="Number of requests that are waiting or under way.")


class Packs(BaseModel):
    """The packs that are loaded now, and the changes."""

    packs: list[str]
    added: list[str]
    removed: list[str]


EVENTS = "text/event-stream"
_TEXT = {"schema": {"type": "string"}}
_TEXTS = {"text/plain": _TEXT, "application/x-subrip": _TEXT, "text/vtt": _TEXT}
_STREAM = {
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
_MEANINGS = {
    400: "A field or the sound cannot be used; param names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model; the message lists those that there are.",
    405: "The endpoint does not allow this method.",
    408: "The upload was too slow.",
    413: "The request is too large, or the sound too long.",
    429: "Too many requests are waiting; Retry-After says when to try again.",
    500: "A bug; the server's log says what went wrong.",
    503: "The server is stopping.",
    504: "The request was not done within the time limit.",
}


def errors(*statuses: int) -> dict[int | str, dict]:
    """Describe the error responses of an endpoint, for FastAPI."""
    # with "default", FastAPI does not add its own 422
    found: dict[int | str, dict] = {
        status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses
    }
    return found | {"default": {"model": ErrorBody, "description": "Any other error."}}


def transcript(*, streams: bool) -> dict[int | str, dict]:
    """Describe the responses of an endpoint that transcribes, for FastAPI.

    Args:
        streams: Whether it can send events.
    """
    content = _TEXTS | (_STREAM if streams else {})
    description = "The transcript in the format of response_format" + (
        "; with stream=true, as events while it grows." if streams else "."
    )
    success = {
        "description": description,
        "content": content,
        "model": VerboseTranscript | Transcript,
    }
    return {200: success} | errors(400, 401, 404, 408, 413, 429, 500, 503, 504)
