"""What stands before the endpoints: slow uploads, too many of them, and those that nobody wants, on
bare sockets.
"""

import json
import socket
import time

import pytest
from serving import held, serving, small_model

pytest.importorskip("fastapi")

from dualasr_serve.app import Settings, create_app
from dualasr_serve.limits import UploadLimits
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
