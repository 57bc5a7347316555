"""The wall between the visitors of the page and the files of the server.

Gradio lets an event name a file by its path on the server, and fetches URLs for a visitor. This
middleware stands before the page, and refuses what the page itself never sends:

- Only the addresses that the page uses are open (`_OPEN`, `_PREFIXES`).
- A file that an event names, or that an address fetches, must have been uploaded by this visitor,
  or made for this visitor. It must be a plain file in the page's folder, and no link.
- An event is sent on with its known fields alone, and files with their path alone.

A visitor is known by a random cookie, whatever key or session the browser sends.
"""

import json
import os
import re
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .openai_errors import ApiError

COOKIE = "dualasr_visitor"
MOST_BYTES = 1_000_000  # of an event, which names its sound and does not hold it
MOST_SESSIONS = 10_000
FILE_META = {"_type": "gradio.FileData"}

_API = "/gradio_api"
_UPLOAD, _JOIN, _EVENTS = f"{_API}/upload", f"{_API}/queue/join", f"{_API}/queue/data"
_FILE = f"{_API}/file="
_OPEN = {
    "POST": {
        "/login",
        "/login/",
        _UPLOAD,
        _JOIN,
        *(f"{_API}/{name}" for name in ("cancel", "reset", "reset/")),
    },
    "GET": {
        *("/", "/config", "/config/", "/logout", "/theme.css", "/favicon.ico", "/robots.txt"),
        *("/manifest.json", "/pwa_icon", _EVENTS),
        *(f"{_API}/{name}" for name in ("upload_progress", "startup-events", "theme.css")),
        *(f"{_API}/{name}" for name in ("info", "info/", "app_id", "app_id/")),
        *(f"{_API}/{name}" for name in ("user", "user/", "login_check", "login_check/")),
    },
}
_PREFIXES = ("/assets/", "/static/", "/svelte/", f"{_API}/heartbeat/", _FILE)


class Refusal(ApiError):
    """An error whose sentence the page shows, too: gradio's script looks for it under "detail"."""

    def body(self) -> dict:
        """Return the error in OpenAI's form, and in gradio's."""
        return super().body() | {"detail": str(self)}


class Files:
    """The files of the page, and who may use them.

    Args:
        folder: The page's folder; no file outside of it is anybody's.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self._owners: dict[str, set[str]] = {}

    def give(self, path: str, visitor: str) -> None:
        """Note that a visitor uploaded a file, or that it was made for them."""
        self._owners.setdefault(path, set()).add(visitor)

    def is_of(self, path: str, visitor: str) -> bool:
        """Whether a visitor may use a file, which must be a plain file in the folder."""
        if visitor not in self._owners.get(path, ()):
            return False
        try:
            real = Path(path).resolve(strict=True)
            plain = stat.S_ISREG(os.lstat(path).st_mode)
        except (OSError, ValueError, RuntimeError):
            return False
        return plain and str(real) == path and real.is_relative_to(self.folder)

    def forget_deleted(self) -> None:
        """Forget the files that are no longer there."""
        for path in [path for path in self._owners if not os.path.lexists(path)]:
            del self._owners[path]


class Wall:
    """ASGI middleware before the page; see the top of this module.

    Args:
        app: Gradio's application.
        page: Its components and events.
        folder: The folder in which gradio keeps its files.
    """

    def __init__(self, app: ASGIApp, page: gr.Blocks, folder: Path):
        self.app, self.page, self.files = app, page, Files(folder)
        # Who began each of gradio's sessions: only they may read its answers.
        self._sessions: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on to the page.

        Raises:
            ApiError: The request is refused.
        """
        path, method = scope["path"], scope.get("method", "")
        if scope["type"] != "http" or not _is_open(path, method):
            raise ApiError(
                404, "There is no such endpoint; /openapi.json lists them.", code="not_found"
            )
        visitor = _visitor(Headers(scope=scope))
        if visitor is None:
            visitor = secrets.token_urlsafe(32)
            send = _with_cookie(send, visitor)
        if path == _UPLOAD:
            scope, send = _uncompressed(scope), self._note_upload(send, visitor)
        elif path == _JOIN:
            scope, receive = await self._check_event(scope, receive, visitor)
        elif path == _EVENTS:
            session = _query(scope, "session_hash")
            self._check_session(session, visitor)
            if session not in self.page._queue.pending_messages_per_session:
                raise Refusal(404, "Nothing was asked in this session.", code="not_found")
            scope, send = _uncompressed(scope), self._note_answers(send, visitor)
        elif path.startswith(_FILE):
            self._check_file(path.removeprefix(_FILE), visitor)
        await self.app(scope, receive, send)

    def _check_file(self, path: str, visitor: str) -> str:
        """Return the path of a file that the visitor may use, which is kept a while longer then."""
        if not self.files.is_of(path, visitor):
            raise Refusal(
                403,
                "This file was neither uploaded by you nor made for you, or it was deleted because"
                " of its age; upload it again.",
                code="not_your_file",
            )
        with suppress(OSError):
            os.utime(path)  # the age of a file counts from its last use
        return path

    def _check_session(self, session: object, visitor: str) -> None:
        """Check that a session is this visitor's; the first visitor to name it has it."""
        if not isinstance(session, str) or not 0 < len(session) <= 100:
            raise _malformed("session_hash must be a text of at most 100 characters")
        if self._sessions.setdefault(session, visitor) != visitor:
            raise Refusal(403, "This session is somebody else's.", code="not_your_session")
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)

    async def _check_event(
        self, scope: Scope, receive: Receive, visitor: str
    ) -> tuple[Scope, Receive]:
        """Check an event; return a request with what is known of it and nothing else."""
        try:
            event = json.loads(await _body(receive))
        except (ValueError, RecursionError):
            raise _malformed("it is no JSON") from None
        if not isinstance(event, dict) or not isinstance(event.get("data"), list):
            raise _malformed("it needs fn_index, session_hash and a list data")
        function = self.page.fns.get(_number(event.get("fn_index")))
        if function is None or len(function.inputs) != len(event["data"]):
            raise _malformed("the page has no event with this fn_index and so many inputs")
        self._check_session(event.get("session_hash"), visitor)
        values = zip(function.inputs, event["data"], strict=True)
        known = {
            "fn_index": function._id,
            "session_hash": event["session_hash"],
            "trigger_id": _number(event.get("trigger_id")),
            "data": [self._checked(block, value, visitor) for block, value in values],
        }
        body = json.dumps(known).encode()
        headers = [
            (name, str(len(body)).encode() if name == b"content-length" else value)
            for name, value in scope["headers"]
        ]
        return {**scope, "headers": headers}, _once(body, receive)

    def _checked(self, block: Any, value: Any, visitor: str) -> Any:
        """Return the value of an input if it is one that the page may send."""
        if isinstance(block, gr.State) or value is None:
            return None  # gradio keeps states itself
        if isinstance(block, gr.Audio):
            path = value.get("path") if isinstance(value, dict) else None
            if not isinstance(path, str):
                raise _malformed("a sound must be an uploaded file")
            return {"path": self._check_file(path, visitor), "meta": FILE_META}
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str | int | float) for text in texts):
            raise _malformed(f"a {block.get_block_name()} must be a text or a list of texts")
        return value

    def _note_upload(self, send: Send, visitor: str) -> Send:
        """Note the paths in the answer to an upload as the visitor's."""
        said = b""

        def note(message: Message) -> None:
            nonlocal said
            said += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                paths = _json(said)
                for path in paths if isinstance(paths, list) else ():
                    if isinstance(path, str):
                        self.files.give(path, visitor)

        return _watched(send, note)

    def _note_answers(self, send: Send, visitor: str) -> Send:
        """Note the files in the answers to a visitor's events as the visitor's."""

        def note(message: Message) -> None:
            for line in message.get("body", b"").split(b"\n"):
                if line.startswith(b"data: ") and FILE_META["_type"].encode() in line:
                    for path in _paths(_json(line.removeprefix(b"data: "))):
                        self.files.give(path, visitor)

        return _watched(send, note)


def _is_open(path: str, method: str) -> bool:
    method = "GET" if method == "HEAD" else method
    return path in _OPEN.get(method, ()) or (method == "GET" and path.startswith(_PREFIXES))


def _visitor(headers: Headers) -> str | None:
    """Return the visitor's cookie; None without one, or if it is none of ours."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie and re.fullmatch(r"[\w-]{43}", cookie.value, re.A) else None


def _with_cookie(send: Send, visitor: str) -> Send:
    def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append(
                "Set-Cookie", f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Lax"
            )

    return _watched(send, add)


def _watched(send: Send, look: Callable[[Message], None]) -> Send:
    """Return a `send` that first shows each message to a function, which may change it."""

    async def watched(message: Message) -> None:
        look(message)
        await send(message)

    return watched


def _uncompressed(scope: Scope) -> Scope:
    """Return a request that asks for an answer without compression, as it is read here."""
    kept = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
    return {**scope, "headers": kept}


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise Refusal(413, "The event is larger than 1 MB.", code="request_too_large")
    return body


def _once(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body, and then what follows the true one."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def once() -> Message:
        return messages.pop() if messages else await receive()

    return once


def _query(scope: Scope, name: str) -> str | None:
    values = parse_qs(scope["query_string"].decode("latin-1")).get(name, [])
    return values[0] if len(values) == 1 else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _paths(value: Any) -> Iterator[str]:
    """Yield the paths of all files in an answer of gradio."""
    if isinstance(value, dict):
        if value.get("meta") == FILE_META and isinstance(value.get("path"), str):
            yield value["path"]
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)


def _malformed(problem: str) -> Refusal:
    return Refusal(400, f"The page never sends such an event: {problem}.", code="invalid_event")
