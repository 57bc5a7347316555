"""Errors in OpenAI's JSON form, which its clients turn into their own exceptions."""

from collections.abc import Mapping

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dualasr.errors import AlignmentError, AudioError, BaseModelError, PackError

from .scheduler import Busy, Stopping, TookTooLong, TooLong

RETRY_AFTER = {"Retry-After": "2"}


class ApiError(Exception):
    """An error response.

    Args:
        status: The HTTP status.
        message: Sentence for a person.
        code: Identifier of the kind of error, such as "model_not_found".
        param: Field of the request that is wrong; None if it is none.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    def body(self) -> dict:
        """Return the error in OpenAI's form."""
        kind = {429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        message = str(self).encode(errors="replace").decode()  # quoted input may hold surrogates
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """Return the error as a response."""
        return JSONResponse(self.body(), self.status, self.headers)


def api_error(error: Exception) -> ApiError:
    """Return the error response for an exception.

    An exception that is not raised on purpose is a bug; its message stays on the server.
    """
    message = str(error)
    match error:
        case ApiError():
            return error
        case Busy():
            return ApiError(429, message, code="rate_limit_exceeded", headers=RETRY_AFTER)
        case Stopping():
            return ApiError(503, message, code="stopping", headers=RETRY_AFTER)
        case TookTooLong():
            return ApiError(504, message, code="timeout")
        case TooLong():
            return ApiError(413, message, code="audio_too_long", param="file")
        case AudioError():
            return ApiError(400, message, code="invalid_audio", param="file")
        case AlignmentError():  # its own message would show clients what is installed here
            sentence = (
                "This server has no word times for packs; request only segments, or set model to"
                " the base."
            )
            return ApiError(400, sentence, code="invalid_value", param="timestamp_granularities[]")
        case PackError() | BaseModelError():
            return ApiError(400, message, code="invalid_value")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case RequestValidationError():
            first = error.errors()[0]
            place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
            param = place[0] if place else None
            return ApiError(
                400, f"{param or 'The request'}: {first['msg']}.", code=first["type"], param=param
            )
    return ApiError(
        500,
        "Something went wrong in the server; its log says what.",
        code="internal_error",
        headers={"Connection": "close"},  # as uvicorn does after an error
    )


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """Handle an exception for FastAPI."""
    return api_error(error).response()
