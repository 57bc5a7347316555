"""Checks before and while a request body is read: key, room in the queue, size and speed."""

import asyncio
import contextlib
import hmac
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .openai_errors import ApiError, api_error
from .scheduler import Busy, Scheduler

GUARDED = ("/v1/", "/admin/", "/metrics", "/inference")  # paths that need the key
QUEUED = ("/v1/audio/", "/inference")  # paths whose requests wait in the queue
LINGER_S = 10.0  # seconds for which a refused client may go on sending


@dataclass(frozen=True)
class UploadLimits:
    """Limits of a request body.

    Attributes:
        body: Most bytes.
        grace_s: Seconds before the speed of an upload is checked.
        bytes_a_second: Lowest speed after that, on average since the start.
    """

    body: int = 200_000_000
    grace_s: float = 20.0
    bytes_a_second: int = 16_000

    def left_s(self, seconds: float, sent: int) -> float:
        """Return how long an upload may still wait for its next bytes, in seconds.

        Args:
            seconds: Seconds since it began.
            sent: Bytes that have come.
        """
        return self.grace_s + sent / self.bytes_a_second - seconds


class Gate:
    """ASGI middleware that refuses requests before their body is read, or while it is read.

    Args:
        app: The application behind it.
        scheduler: Its queue decides whether there is room.
        key: Bearer key of the endpoints; None for no key.
        limits: Limits of a request body.
    """

    def __init__(self, app: ASGIApp, scheduler: Scheduler, key: str | None, limits: UploadLimits):
        self.app, self.scheduler, self.key, self.limits = app, scheduler, key, limits
        # Requests for transcripts under way: at most twice the queue, as one half may still upload.
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self._refusal(scope["path"], Headers(scope=scope), scope["method"])
        if refusal is not None:
            return await self._refuse(refusal, scope["path"], receive, send)
        upload, responding = _Upload(receive, self.limits), False

        async def respond(message: Message) -> None:
            nonlocal responding
            if upload.refused is None or responding:
                responding = True
                await send(message)

        self.inside += scope["path"].startswith(QUEUED)
        try:
            await self.app(scope, upload.receive, respond)
        except ApiError as error:
            if error is not upload.refused:
                raise
        finally:
            self.inside -= scope["path"].startswith(QUEUED)
        if upload.refused is not None and not responding:
            await self._refuse(upload.refused, scope["path"], receive, send)

    async def _refuse(self, refusal: ApiError, path: str, receive: Receive, send: Send) -> None:
        """Send an error, and go on reading for a while.

        If the connection were closed while the client is still sending, the client would lose the
        error. The API gets JSON, the page a plain sentence, which it shows as it is.
        """
        refusal.headers["Connection"] = "close"
        response: Response = refusal.response()
        if not path.startswith(GUARDED):
            response = PlainTextResponse(str(refusal), refusal.status, refusal.headers)
        read, more = 0, True
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while more and read <= self.limits.body:
                    message = await receive()
                    read, more = (
                        read + len(message.get("body", b"")),
                        message.get("more_body", False),
                    )
        await send({"type": "http.response.body", "body": b""})

    def _refusal(self, path: str, headers: Headers, method: str) -> ApiError | None:
        if self.key is not None and path.startswith(GUARDED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                given.strip().encode("latin-1"), self.key.encode()
            ):
                problem = (
                    "Incorrect API key provided."
                    if given
                    else "No API key was given; send Authorization: Bearer KEY."
                )
                return ApiError(
                    401, problem, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
                )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.limits.body):
            return _too_large(self.limits)
        waiting, room = len(self.scheduler), self.scheduler.limits.queue
        if (
            method == "POST"
            and path.startswith(QUEUED)
            and (waiting >= room or self.inside >= 2 * room)
        ):
            return api_error(Busy(max(waiting, self.inside)))
        return None


class _Upload:
    """A request body that is checked while it is read; `refused` is the error that stopped it."""

    def __init__(self, receive: Receive, limits: UploadLimits):
        self._receive, self._limits = receive, limits
        self._began, self._bytes, self._whole = time.monotonic(), 0, False
        self.refused: ApiError | None = None

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        limits = self._limits
        left = limits.left_s(time.monotonic() - self._began, self._bytes)
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            slow = (
                f"The upload is slower than {limits.bytes_a_second} bytes a second, so it was"
                " stopped."
            )
            self.refused = ApiError(408, slow, code="upload_too_slow")
            raise self.refused from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)  # nor has a disconnect more
        if self._bytes > limits.body:
            self.refused = _too_large(limits)
            raise self.refused
        return message


def _too_large(limits: UploadLimits) -> ApiError:
    allowed = f"{limits.body / 1e6:g} MB"
    return ApiError(
        413,
        f"The request is larger than {allowed}, the limit here.",
        code="request_too_large",
        param="file",
    )
