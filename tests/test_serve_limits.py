"""What stands before the endpoints: slow uploads, too many of them, and those that nobody wants, on
bare sockets. What does not need a connection is asked of the gate itself.
"""

import asyncio
import json
import socket
import time
from collections import deque

import pytest
from serving import QUICK, held, serving, small_model, until, write_sound

from dualasr.transcription.request import TranscribeRequest

pytest.importorskip("fastapi")

from dualasr_serve import limits
from dualasr_serve.app import Settings, create_app
from dualasr_serve.limits import Gate, UploadLimits
from dualasr_serve.request import ModelRequest
from dualasr_serve.scheduler import Limits, Scheduler

PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
END = b"\r\n--B--\r\n"


@pytest.fixture(scope="module")
def port(tiny_folder, make_secondary, tmp_path_factory):
    """Of a server that takes 100 kB, at 10 kB a second at least after 0.5 s, and one request at
    once.
    """
    scheduler = Scheduler(held(small_model(tiny_folder, make_secondary)), Limits(queue=1))
    uploads = tmp_path_factory.mktemp("uploads")
    settings = Settings(
        uploads=UploadLimits(body=100_000, grace_s=0.5, bytes_a_second=10_000), page=False
    )
    with serving(create_app(scheduler, lambda: scheduler.model, uploads, settings)) as url:
        yield int(url.rpartition(":")[2])
    scheduler.close(drop=True)
    assert not list(uploads.iterdir())


def begin(port: int, headers: bytes = b"Content-Length: 90000") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    form = b"Host: x\r\nContent-Type: multipart/form-data; boundary=B"
    connection.sendall(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\n%s\r\n%s\r\n\r\n" % (form, headers)
    )
    return connection


def answer_on(connection: socket.socket) -> tuple[int, str]:
    """Status and code of the error on a connection."""
    lines = connection.makefile("rb")
    status, length = int(lines.readline().split()[1]), 0
    for line in iter(lines.readline, b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split()[1])
    return status, json.loads(lines.read(length))["error"]["code"]


@pytest.mark.parametrize("sent", [b"", PART, PART + bytes(4_000)])
def test_an_upload_that_stops_is_given_up(port, sent):
    with begin(port) as connection:
        connection.sendall(sent)
        assert answer_on(connection) == (408, "upload_too_slow")


def test_an_upload_that_trickles_is_given_up(port):
    with begin(port, b"Transfer-Encoding: chunked") as connection:
        connection.sendall(b"%x\r\n%s\r\n" % (len(PART), PART))
        connection.settimeout(0.02)
        for _ in range(1_000):
            connection.sendall(b"1\r\n-\r\n")
            try:
                assert connection.recv(12) == b"HTTP/1.1 408"
                return
            except TimeoutError:
                pass
    pytest.fail("20 s at 50 bytes a second are too much")


def test_what_was_sent_buys_time():
    limits = UploadLimits(grace_s=20.0, bytes_a_second=16_000)
    assert limits.left_s(0.0, 0) == 20.0 and limits.left_s(20.0, 0) == 0.0
    assert limits.left_s(25.0, 160_000) == 5.0 and limits.left_s(31.0, 160_000) == -1.0


def test_an_upload_that_takes_longer_than_the_grace_is_read_to_its_end(
    tiny_folder, make_secondary, tmp_path
):
    scheduler = Scheduler(small_model(tiny_folder, make_secondary))
    limits = UploadLimits(grace_s=5.0, bytes_a_second=1)  # 3,000 bytes buy most of an hour
    app = create_app(
        scheduler, lambda: scheduler.model, tmp_path, Settings(uploads=limits, page=False)
    )
    with serving(app) as url:
        length = b"Content-Length: %d" % (len(PART) + 3_000 + len(END))
        with begin(int(url.rpartition(":")[2]), length) as connection:
            began = time.monotonic()
            connection.sendall(PART + bytes(3_000))
            while time.monotonic() <= began + limits.grace_s + 0.1:
                time.sleep(0.1)
            connection.sendall(END)
            assert answer_on(connection) == (400, "invalid_audio")
    scheduler.close(drop=True)


def test_too_many_uploads_at_once_are_refused_and_make_room(port):
    with begin(port), begin(port):
        deadline = time.monotonic() + 30
        while True:
            with begin(port) as third:
                if (answer := answer_on(third)) == (429, "rate_limit_exceeded"):
                    break
                assert answer[0] == 408 and time.monotonic() < deadline
    while True:
        with begin(port, b"Content-Length: 3") as connection:
            connection.sendall(b"abc")
            if (answer := answer_on(connection))[0] == 400:
                break
            assert answer[0] == 429 and time.monotonic() < deadline


def test_a_client_that_waits_for_permission_to_send_is_refused(port):
    with begin(port, b"Expect: 100-continue\r\nContent-Length: 200000") as connection:
        assert answer_on(connection) == (413, "request_too_large")


def test_it_goes_on_reading_from_who_is_refused_and_closes_then(port):
    with begin(port, b"Content-Length: 101000") as connection:
        connection.sendall(bytes(101_000))
        assert answer_on(connection) == (413, "request_too_large")
        assert connection.recv(1) == b""


@pytest.fixture(scope="module")
def queue(tiny_folder, make_secondary):
    """An empty queue for two requests, whose model is held up."""
    scheduler = Scheduler(held(small_model(tiny_folder, make_secondary)), Limits(queue=2))
    yield scheduler
    scheduler.model.free.set()
    scheduler.close(drop=True)


async def length_of_body(scope, receive, send):
    """The application behind a gate: it reads the whole body, and answers with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await begin_answer(send)
    await send({"type": "http.response.body", "body": b"%d" % size})


async def begin_answer(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(gate: Gate, path: str, method="POST", headers=(), body=()) -> tuple[int, list[dict], int]:
    """Status and messages of the answer, and how many messages of the body were not read.

    The last message of the body has no `more_body`, as ASGI allows.
    """
    messages, sent = (
        deque({"type": "http.request", "body": part, "more_body": True} for part in body),
        [],
    )
    messages.append({"type": "http.request"})

    async def receive():
        return messages.popleft()  # an IndexError after the end

    async def send(message):
        sent.append(message)

    lines = [(name.lower().encode(), value.encode()) for name, value in dict(headers).items()]
    scope = {"type": "http", "path": path, "method": method, "headers": lines}
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], sent, len(messages)


def headers_in(sent: list[dict]) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


API = ("/v1/models", "/admin/packs/reload", "/metrics", "/inference")


@pytest.mark.parametrize(
    "authorization, problem",
    [
        (None, "No API key was given; send Authorization: Bearer KEY."),
        ("Bearer", "No API key was given; send Authorization: Bearer KEY."),
        ("Bearer other", "Incorrect API key provided."),
        ("Basic my key", "Incorrect API key provided."),
    ],
)
@pytest.mark.parametrize("path", API)
def test_who_has_no_key_gets_the_whole_error_and_may_finish_sending(
    queue, path, authorization, problem
):
    gate = Gate(length_of_body, queue, "my key", UploadLimits())
    headers = {"Authorization": authorization} if authorization else {}
    status, sent, unread = ask(gate, path, headers=headers, body=[b"abc", b"abc"])
    error = {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert json.loads(sent[1].pop("body")) == {"error": {"message": problem, **error}}
    assert status == 401 and headers_in(sent) | {"content-length": "any"} == {
        "content-type": "application/json",
        "content-length": "any",
        "connection": "close",
        "www-authenticate": "Bearer",
    }
    assert sent[0]["type"] == "http.response.start" and unread == 0
    assert sent[1:] == [
        {"type": "http.response.body", "more_body": True},
        {"type": "http.response.body", "body": b""},
    ]


@pytest.mark.parametrize("authorization", ["Bearer my key", "bearer  my key "])
def test_who_has_the_key_comes_in_and_other_paths_need_none(queue, authorization):
    gate = Gate(length_of_body, queue, "my key", UploadLimits())
    for path in API:
        assert ask(gate, path, headers={"Authorization": authorization})[0] == 200
    assert ask(gate, "/health")[0] == ask(gate, "/")[0] == 200
    assert ask(Gate(length_of_body, queue, None, UploadLimits()), API[0])[0] == 200


@pytest.mark.parametrize("parts", [[10], [4, 6], [0, 9, 1]])
def test_a_body_may_have_just_the_most_bytes_and_not_one_more(queue, parts):
    gate = Gate(length_of_body, queue, None, UploadLimits(body=10))
    body = [bytes(part) for part in parts]
    for headers in ({}, {"Content-Length": "10"}):
        assert ask(gate, "/v1/audio/x", headers=headers, body=body)[1][1]["body"] == b"10"
    for declared in ("11", "9" * 5_000):
        status, sent, _ = ask(gate, "/v1/audio/x", headers={"Content-Length": declared})
        assert status == 413
    for path in ("/v1/audio/x", "/gradio_api/upload"):
        status, sent, _ = ask(gate, path, body=[*body, b"1"])
        assert status == 413 and headers_in(sent)["connection"] == "close"
        problem = "The request is larger than 1e-05 MB, the limit here."
        if path.startswith("/v1/"):
            error = {"type": "invalid_request_error", "param": "file", "code": "request_too_large"}
            assert json.loads(sent[1]["body"]) == {"error": {"message": problem, **error}}
        else:  # the page shows it as it is
            assert sent[1]["body"].decode() == problem
            assert headers_in(sent)["content-type"].startswith("text/plain")


def test_of_who_is_refused_no_more_is_read_than_the_most_bytes_and_a_message(queue):
    gate = Gate(length_of_body, queue, "key", UploadLimits(body=10))
    body = [b"abcd", b"abcdef", b"a", b"b", b"c"]
    assert ask(gate, "/v1/models", body=body)[2] == 3  # two of the body, and its end


def test_who_is_refused_and_sends_nothing_is_left_after_a_while(queue, monkeypatch):
    monkeypatch.setattr(limits, "LINGER_S", limits.LINGER_S / 1_000)
    gate, sent = Gate(length_of_body, queue, "key", UploadLimits()), []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/models", "method": "POST", "headers": []}
    asyncio.run(asyncio.wait_for(gate(scope, asyncio.Event().wait, send), 60))
    assert sent[-1] == {"type": "http.response.body", "body": b""}


def test_an_answer_that_has_begun_is_not_followed_by_another(queue):
    async def in_a_hurry(scope, receive, send):
        await begin_answer(send)
        try:
            await length_of_body(scope, receive, send)
        finally:
            await send({"type": "http.response.body", "body": b"begun"})

    sent = ask(Gate(in_a_hurry, queue, None, UploadLimits(body=2)), "/v1/x", body=[b"abc"])[1]
    assert [message.get("body") for message in sent] == [None, b"begun"]


def test_the_answer_of_who_does_not_know_that_the_upload_was_refused_is_not_sent(queue):
    async def forgiving(scope, receive, send):
        try:
            await length_of_body(scope, receive, send)
        except Exception:
            await begin_answer(send)
            await send({"type": "http.response.body", "body": b"all is well"})

    status, sent, _ = ask(Gate(forgiving, queue, None, UploadLimits(body=2)), "/", body=[b"abc"])
    assert status == 413 and all(b"well" not in message.get("body", b"") for message in sent)


def test_errors_of_the_application_pass_the_gate(queue):
    async def broken(scope, receive, send):
        raise limits.ApiError(418, "of its own")

    with pytest.raises(limits.ApiError, match="of its own"):
        ask(Gate(broken, queue, None, UploadLimits()), "/v1/models")


def test_what_is_no_request_passes_untouched(queue):
    async def note(*given):
        seen.append(given)

    given, seen = ({"type": "lifespan"}, object(), object()), []
    asyncio.run(Gate(note, queue, "key", UploadLimits())(*given))
    assert seen == [given]


def test_after_the_upload_nothing_is_late(queue):
    async def stays(scope, receive, send):
        await receive()
        seen.append(await receive())  # as an answer in parts does, to see that the client leaves

    async def receive():
        if coming[0]["type"] == "http.disconnect":
            await asyncio.sleep(0.05)
        return coming.popleft()

    seen, coming = [], deque([{"type": "http.request"}, {"type": "http.disconnect"}])
    gate = Gate(stays, queue, None, UploadLimits(grace_s=0.0))
    scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": []}
    asyncio.run(gate(scope, receive, None))
    assert seen == [{"type": "http.disconnect"}]


def test_twice_the_queue_may_be_inside_and_who_leaves_makes_room(queue):
    async def story():
        doors, answers = [asyncio.Event() for _ in range(9)], []

        async def waiting_room(scope, receive, send):
            await doors[scope["number"]].wait()

        async def send(message):
            answers.append(message)

        async def receive():
            return {"type": "http.request"}

        async def enter(number: int, path: str = "/v1/audio/x", method: str = "POST"):
            scope = {"type": "http", "path": path, "method": method, "headers": []}
            task = asyncio.create_task(gate(scope | {"number": number}, receive, send))
            await asyncio.sleep(0)
            return task

        gate, number = Gate(waiting_room, queue, None, UploadLimits()), 0
        first = [await enter(i, path) for i, path in enumerate(["/v1/audio/x", "/inference"] * 2)]
        first.append(await enter(4, "/v1/models"))  # which does not wait in the queue
        assert not any(task.done() for task in first) and not answers
        for _ in range(2):
            await (await enter(5))
            assert answers[0]["status"] == 429
            assert b"4 requests are waiting already" in answers[1]["body"]
            answers.clear()
            doors[number].set()  # one leaves, another comes
            await first[number]
            first.append(await enter(6 + number))
            assert not answers and not first[-1].done()
            number += 1
        for task in first:
            task.cancel()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_full_queue_refuses_what_would_wait_in_it(queue, tmp_path):
    asked = ModelRequest(queue.model, TranscribeRequest("north", None, QUICK))
    path = write_sound(tmp_path / "a.wav", 0.7)
    gate = Gate(length_of_body, queue, None, UploadLimits())
    tickets = [queue.submit(path, asked)]
    assert ask(gate, "/v1/audio/x")[0] == 200
    tickets.append(queue.submit(path, asked))
    for path in ("/v1/audio/transcriptions", "/inference"):
        status, sent, _ = ask(gate, path)
        assert status == 429 and headers_in(sent)["retry-after"] == "2"
        assert b"2 requests are waiting already" in sent[1]["body"]
        assert ask(gate, path, method="GET")[0] == 200
    assert ask(gate, "/v1/models")[0] == 200
    for ticket in tickets:
        ticket.cancel()
    queue.model.free.set()
    until(lambda: not len(queue))
