"""What is settled before a body is read: who may come in, whether there is room, how large and how
slow an upload may be.
"""

import asyncio
import contextlib
import hmac
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .openai_errors import ApiError, api_error
from .scheduler import Busy, Scheduler

GUARDED = ("/v1/", "/admin/")
QUEUED = "/v1/audio/"
LINGER_S = 10.0  # that a client who was refused may go on sending


@dataclass(frozen=True)
class UploadLimits:
    """body: bytes of a request. grace_s: seconds before an upload is held to `bytes_a_second`, on
    average since its start.
    """

    body: int = 200_000_000
    grace_s: float = 20.0
    bytes_a_second: int = 16_000


class Gate:
    """ASGI middleware; `key` is the bearer key of the endpoints, None for no key."""

    def __init__(self, app: ASGIApp, scheduler: Scheduler, key: str | None, limits: UploadLimits):
        self.app, self.scheduler, self.key, self.limits = app, scheduler, key, limits
        # requests for transcripts: as many as the queue holds, and as many again that still upload
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = self._refusal(scope["path"], Headers(scope=scope), scope["method"])
        if refusal is not None:
            return await self._refuse(refusal, scope["path"], receive, send)
        upload, begun = _Upload(receive, self.limits), False

        async def answer(message: Message) -> None:
            nonlocal begun
            if upload.refused is None or begun:
                begun = True
                await send(message)

        self.inside += scope["path"].startswith(QUEUED)
        try:
            await self.app(scope, upload.receive, answer)
        except ApiError as error:
            if error is not upload.refused:
                raise
        finally:
            self.inside -= scope["path"].startswith(QUEUED)
        if upload.refused is not None and not begun:
            await self._refuse(upload.refused, scope["path"], receive, send)

    async def _refuse(self, refusal: ApiError, path: str, receive: Receive, send: Send) -> None:
        """Answer, then let a client that is still sending come to its end: a connection closed
        under it loses the answer.

        The page shows what it is answered as it is: a sentence.
        """
        refusal.headers["Connection"] = "close"
        response, read, more = refusal.response(), 0, True
        if not path.startswith(GUARDED):
            response = PlainTextResponse(str(refusal), refusal.status, refusal.headers)
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
                what = (
                    "Incorrect API key provided."
                    if given
                    else "No API key was given; send Authorization: Bearer KEY."
                )
                return ApiError(
                    401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
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
    """A body as it comes in; `refused` says why it was cut off."""

    def __init__(self, receive: Receive, limits: UploadLimits):
        self._receive, self._limits = receive, limits
        self._began, self._bytes, self._whole = time.monotonic(), 0, False
        self.refused: ApiError | None = None

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        limits = self._limits
        left = self._began + limits.grace_s + self._bytes / limits.bytes_a_second - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            slow = (
                f"The upload is slower than {limits.bytes_a_second} bytes a second; it was"
                " given up."
            )
            self.refused = ApiError(408, slow, code="upload_too_slow")
            raise self.refused from None
        self._bytes += len(message.get("body", b""))
        self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
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
