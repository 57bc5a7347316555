"""A server process under clients that lie, dawdle and hang up, changing packs, and signals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
from serving import small_model, until, write_sound

from dualasr.cli.main import main
from dualasr.packs.format import save_pack

pytest.importorskip("fastapi")

KEY = "secret"
BEARER = {"Authorization": f"Bearer {KEY}"}
FORM = "Content-Type: multipart/form-data; boundary=B"
WAIT = 300


@dataclass
class Running:
    """A server process; `temp` is its folder for temporary files, `log` what it says."""

    process: subprocess.Popen
    port: int
    temp: Path
    log: Path
    packs: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def queue(self) -> int:
        return httpx.get(f"{self.url}/health", timeout=WAIT).json()["queue"]

    def files(self) -> list[Path]:
        return [path for path in self.temp.rglob("*") if path.is_file()]

    def windows(self) -> float:
        answer = httpx.get(f"{self.url}/metrics", timeout=WAIT, headers=BEARER)
        lines = answer.raise_for_status().text.splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith("dualasr_windows_total")
        )

    def open(self, headers: str, start: bytes = b"") -> socket.socket:
        """A connection on which a request for a transcript has begun."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)
        head = (
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer"
            f" {KEY}\r\n{headers}\r\n\r\n"
        )
        connection.sendall(head.encode() + start)
        return connection


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str], dict]:
    """Status, headers and JSON of the response on a connection, which is closed then."""
    with connection, connection.makefile("rb") as lines:
        status = int(lines.readline().split()[1])
        headers = dict(
            line.decode().strip().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n")
        )
        return status, headers, json.loads(lines.read(int(headers["content-length"])))


def form(sound: bytes, **fields: str) -> tuple[str, bytes]:
    """Headers and body."""
    request = httpx.Request("POST", "http://x", data=fields, files={"file": ("a.wav", sound)})
    return (
        f"Content-Type: {request.headers['content-type']}\r\nContent-Length: {len(request.read())}",
        request.read(),
    )


@pytest.fixture(scope="module")
def start(tiny_folder, make_secondary, tmp_path_factory):
    model, started = small_model(tiny_folder, make_secondary), []

    def start(*flags: str) -> Running:
        folder = tmp_path_factory.mktemp("server")
        (folder / "temp").mkdir()
        for name, pack in model.packs.items():
            save_pack(
                folder / ("packs" if name == "north" else "others") / name, pack, model.backbone
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "dualasr",
            "serve",
            "--base",
            tiny_folder,
            "--pack",
            folder / "packs",
            "--key",
            KEY,
            "--port",
            port,
            "--no_page",
            "--batch_size",
            2,
            "--max_upload_mb",
            4,
            "--max_audio_s",
            100,
            "--grace_s",
            100,
            *flags,
        ]
        environment = os.environ | {"TMPDIR": str(folder / "temp"), "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, env=environment
            )
        running = Running(process, port, folder / "temp", folder / "log", folder / "packs")
        started.append(running)

        def is_up() -> bool:
            assert process.poll() is None, running.log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(is_up)
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        assert "Traceback" not in running.log.read_text(), running.log.read_text()


@pytest.fixture(scope="module")
def server(start):
    return start("--queue", "3")


@pytest.fixture
def at_rest(server):
    """The server; it must come to rest after a test, with nothing left of it."""
    yield server
    until(lambda: server.queue() == 0 and not server.files())


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    lengths = {"short": 1.2, "middle": 18, "long": 96}  # windows: 1, 2, and at least 7
    return {
        name: write_sound(folder / f"{name}.wav", seconds, seed)
        for seed, (name, seconds) in enumerate(lengths.items())
    }


def test_an_upload_that_is_declared_too_large_is_refused_before_it_is_sent(at_rest):
    for length in (10**9, 10**19):
        status, headers, body = answer_on(at_rest.open(f"{FORM}\r\nContent-Length: {length}"))
        assert (status, body["error"]["code"], headers["connection"]) == (
            413,
            "request_too_large",
            "close",
        )


def test_an_upload_that_grows_too_large_is_refused_and_nothing_is_kept(at_rest):
    connection = at_rest.open(f"{FORM}\r\nTransfer-Encoding: chunked")
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    for chunk in (part, *[bytes(100_000)] * 60):
        connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    status, _, body = answer_on(connection)
    assert (status, body["error"]["message"]) == (
        413,
        "The request is larger than 4 MB, the limit here.",
    )


def test_who_hangs_up_in_the_middle_of_an_upload_leaves_nothing(at_rest, sounds):
    headers, body = form(sounds["long"].read_bytes(), model="north")
    for share in (0.0, 0.5, 0.999):
        at_rest.open(headers, body[: int(share * len(body))]).close()
    assert at_rest.client().audio.transcriptions.create(file=sounds["short"], model="north").text


@pytest.mark.parametrize("stream", ["true", "false"])
def test_who_hangs_up_in_the_middle_of_an_answer_takes_the_request_along(at_rest, sounds, stream):
    headers, body = form(sounds["long"].read_bytes(), model="primary", stream=stream, language="en")
    before = at_rest.windows()
    with at_rest.open(headers, body) as connection:
        if stream == "true":
            seen = b""
            while b"transcript.text.delta" not in seen:
                seen += connection.recv(1000)
        else:
            until(lambda: at_rest.windows() > before)
    until(lambda: at_rest.queue() == 0)
    assert 0 < at_rest.windows() - before < 7, "all of it was decoded for nobody"


def test_long_silence_in_a_small_file_is_refused(at_rest, tmp_path):
    with soundfile.SoundFile(
        tmp_path / "a.opus", "w", 8_000, 1, format="OGG", subtype="OPUS"
    ) as file:
        for _ in range(10):
            file.write(np.zeros(60 * 8_000, np.float32))
    with pytest.raises(openai.APIStatusError, match="longer than 100 s") as error:
        at_rest.client().audio.transcriptions.create(file=tmp_path / "a.opus", model="north")
    assert error.value.status_code == 413 and (tmp_path / "a.opus").stat().st_size < 300_000


def test_a_full_queue_is_said_before_the_upload_is_read(at_rest, sounds):
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(spoken, at_rest, sounds["middle"]) for _ in range(3)]
        until(lambda: at_rest.queue() == 3)
        status, headers, body = answer_on(at_rest.open(f"{FORM}\r\nContent-Length: 2000000"))
        assert (status, body["error"]["type"]) == (429, "rate_limit_error") and int(
            headers["retry-after"]
        ) > 0
        with pytest.raises(openai.RateLimitError, match="3 requests are waiting already"):
            at_rest.client().audio.transcriptions.create(
                file=("a.wav", bytes(3_500_000)), model="north"
            )
        assert len({future.result() for future in waiting}) == 1


def test_packs_come_and_go_under_requests(at_rest, sounds):
    client, others = at_rest.client(), at_rest.packs.parent / "others"
    reload = lambda key: httpx.post(f"{at_rest.url}/admin/packs/reload", headers=key, timeout=WAIT)  # noqa: E731
    assert {
        reload(key).status_code
        for key in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"})
    } == {401}
    wanted = client.audio.transcriptions.create(file=sounds["middle"], model="north").text
    with ThreadPoolExecutor(2) as clients:
        ask = lambda: client.audio.transcriptions.create(file=sounds["middle"], model="north").text  # noqa: E731
        waiting = [clients.submit(ask) for _ in range(2)]
        until(lambda: at_rest.queue() == 2)
        shutil.move(others / "south", at_rest.packs / "south")
        shutil.move(at_rest.packs / "north", others / "north")
        assert reload(BEARER).json() == {
            "packs": ["south"],
            "added": ["south"],
            "removed": ["north"],
        }
        assert [future.result() for future in waiting] == [wanted, wanted]
    with pytest.raises(openai.NotFoundError):
        ask()
    assert client.audio.transcriptions.create(file=sounds["short"], model="south").text

    shutil.copytree(others / "north", at_rest.packs / "north")
    with (at_rest.packs / "north" / "decoder.safetensors").open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    answer = reload(BEARER)
    assert (
        answer.status_code == 400
        and "decoder.safetensors was changed" in answer.json()["error"]["message"]
    )
    assert [model.id for model in client.models.list()][2:] == ["south"]
    shutil.rmtree(at_rest.packs / "north")
    shutil.copytree(others / "north", at_rest.packs / "north")
    assert reload(BEARER).json()["added"] == ["north"] and ask() == wanted
    shutil.move(at_rest.packs, others / "away")
    at_rest.packs.mkdir()
    assert reload(BEARER).json() == {
        "packs": [],
        "added": [],
        "removed": ["north", "south"],
    }, "the folder may be empty"
    at_rest.packs.rmdir()
    shutil.move(others / "away", at_rest.packs)
    assert reload(BEARER).json()["added"] == ["north", "south"] and ask() == wanted


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--key", ""], "it is empty"),
        (["--batch_size", "0"], "must be at least 1"),
        (["--queue", "0"], "must be at least 1"),
        (["--host", "0.0.0.0"], "--key or DUALASR_KEY, or say with --no_key"),
        (["--host", "::"], "--no_key"),
        (["--host", ""], "--no_key"),
        (["--host", "0"], "--no_key"),
        (["--host", "8.8.8.8", "--no_page"], "--no_key"),
        (["--host", "::ffff:127.0.0.1"], "--no_key"),
        (["--host", "no.such.host.invalid"], "there is no such address"),
        (["--host", "a b"], "there is no such address"),
        (["--host", "0.0.0.0", "--key", "k", "--no_key"], "not allowed with"),
        (["--port", "99999"], "'99999' is no port; give a number from 1 to 65535"),
        (["--port", "0"], "is no port"),
        (["--port", "-1"], "is no port"),
        (["--port", "http"], "is no port"),
        (["--keep_files_s", "0"], "at least 1"),
        (["--keep_files_s", "inf"], "at least 1"),
        (["--cors_origins", "a.example"], "is no origin"),
        (["--cors_origins", "https://a.example/path"], "is no origin"),
    ],
)
def test_flags_that_would_serve_nobody_or_everybody(flags, says, capsys):
    try:
        code = main(["serve", *flags])
    except SystemExit as end:
        code = end.code
    assert code in (1, 2) and says in capsys.readouterr().err


def spoken(running: Running, path: Path, stream: bool = False) -> str:
    """What the base says of a sound, which takes a while."""
    answer = running.client().audio.transcriptions.create(
        file=path, model="primary", language="en", stream=stream
    )
    if not stream:
        return answer.text
    *deltas, done = answer
    assert "".join(event.delta for event in deltas) == done.text
    return done.text


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_lets_what_is_under_way_be_answered(server, sounds):
    """The last one of this server."""
    running, requests = server, [("middle", False), ("short", False), ("middle", True)]
    wanted = {name: spoken(running, sounds[name]) for name, stream in requests if not stream}
    with ThreadPoolExecutor(len(requests)) as clients:
        waiting = [
            clients.submit(spoken, running, sounds[name], stream) for name, stream in requests
        ]
        until(lambda: running.queue() == len(requests))
        running.process.send_signal(signal.SIGTERM)
        until(lambda: is_refused(running.port))
        assert [future.result(WAIT) for future in waiting] == [wanted[name] for name, _ in requests]
    assert running.process.wait(WAIT) == 0 and not list(running.temp.iterdir())


@pytest.mark.slow
def test_a_second_signal_waits_for_nobody(start, sounds):
    running = start()
    with ThreadPoolExecutor(3) as clients:
        waiting = [
            clients.submit(spoken, running, sounds["long"], stream)
            for stream in (False, False, True)
        ]
        until(lambda: running.queue() == 3 and running.windows() > 0)
        for _ in range(2):
            running.process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(running.port))
        assert running.process.wait(WAIT) == 0 and not list(running.temp.iterdir())
        assert all(future.exception(WAIT) for future in waiting), "somebody was answered"
    running.log.write_text("")  # which says who was cut off, with tracebacks


@pytest.mark.slow
def test_a_client_that_stays_idle_does_not_hold_up_the_end(start):
    running = start()
    idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
    idle[1].sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n")
    idle[2].sendall(b"GET /health HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
    assert idle[2].recv(100).startswith(b"HTTP/1.1 200")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(WAIT) == 0
    for connection in idle:
        connection.close()
