"""The Host that requests name, the headers of every response, and who is served without a key."""

import socket

import httpx
import pytest
from serving import held, serving, small_model

pytest.importorskip("fastapi")

from dualasr_serve.app import Settings, create_app
from dualasr_serve.doorway import LOOPBACK, hosts_of, is_loopback
from dualasr_serve.limits import UploadLimits
from dualasr_serve.scheduler import Limits, Scheduler
from dualasr_serve.server import run

from dualasr.cli.main import main
from dualasr.errors import RunError

REFUSED = "This server does not answer to the Host of the request"


@pytest.fixture(scope="module")
def url(tiny_folder, make_secondary, tmp_path_factory):
    """Of a server that takes requests to this machine alone, with page and key."""
    pytest.importorskip("gradio")
    scheduler = Scheduler(held(small_model(tiny_folder, make_secondary)), Limits(queue=1))
    settings = Settings(key="k", uploads=UploadLimits(body=50_000), hosts=hosts_of("127.0.0.1"))
    folder = tmp_path_factory.mktemp("folder")
    with serving(create_app(scheduler, lambda: scheduler.model, folder, settings)) as url:
        yield url
    scheduler.close(drop=True)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:7860", "[::1]", "[::1]:1"),
        *("localhost:", "127.0.0.1:65535"),
    ],
)
def test_who_names_this_machine_is_answered(url, host):
    assert httpx.get(f"{url}/health", headers={"Host": host}, timeout=60).status_code == 200


PATHS = ("/", "/health", "/v1/models", "/metrics", "/openapi.json", "/config", "/nothing")
EVENTS = ("/gradio_api/queue/data?session_hash=a", "/gradio_api/heartbeat/a")


@pytest.mark.parametrize("path", [*PATHS, *EVENTS])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("127.0.0.2", "[::2]", "xlocalhost", "evil.example#localhost", "localhost:80:80", ""),
        *("evil@localhost", "localhost:evil", "[::1", "::1", "0.0.0.0", "localhost."),
    ],
)
def test_who_names_another_host_is_refused(url, path, host):
    answer = httpx.get(f"{url}{path}", headers={"Host": host}, timeout=60)
    assert answer.status_code == 421 and REFUSED in answer.json()["error"]["message"]


def test_a_websocket_is_refused(url):
    port = int(url.rpartition(":")[2])
    for host in ("localhost", "evil.example"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(
                b"GET /gradio_api/queue/data?session_hash=a HTTP/1.1\r\nHost: %s\r\nUpgrade:"
                b" websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % host.encode()
            )
            assert connection.recv(12) in (b"HTTP/1.1 403", b"HTTP/1.1 404", b"HTTP/1.1 421")


@pytest.mark.parametrize(
    "method, path, status",
    [
        *(("GET", path, None) for path in (*PATHS, "/assets/nothing", "/theme.css")),
        ("POST", "/gradio_api/queue/join", 400),
        ("POST", "/v1/audio/transcriptions", 401),
        ("POST", "/gradio_api/upload", 413),
        ("GET", "/gradio_api/file=/etc/passwd", 403),
        ("DELETE", "/health", 405),
        ("POST", "/login", None),
    ],
)
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_response_has_the_headers(url, method, path, status, host):
    body = bytes(70_000) if status == 413 else b""
    answer = httpx.request(method, url + path, headers={"Host": host}, content=body, timeout=60)
    assert answer.status_code == (421 if host == "evil.example" else status or answer.status_code)
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_bug_has_the_headers_too(tiny_folder, make_secondary, tmp_path):
    scheduler = Scheduler(small_model(tiny_folder, make_secondary))
    app = create_app(scheduler, lambda: 1 / 0, tmp_path, Settings(key="k", page=False))
    with serving(app) as url:
        bearer = {"Authorization": "Bearer k"}
        answer = httpx.post(f"{url}/admin/packs/reload", headers=bearer, timeout=60)
    scheduler.close()
    assert answer.status_code == 500 and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "host, loopback",
    [
        *(("127.0.0.1", True), ("127.0.0.5", True), ("localhost", True), ("::1", True)),
        *(("0.0.0.0", False), ("::", False), ("", False), ("0", False), ("192.0.2.7", False)),
    ],
)
def test_which_addresses_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) == loopback


def test_a_name_counts_as_its_addresses(monkeypatch):
    places = {
        "inside.example": ["127.0.0.1", "::1"],
        "outside.example": ["192.0.2.7"],
        "both.example": ["127.0.0.1", "192.0.2.7"],
    }

    def resolve(host, *args, **more):
        return [(0, 0, 0, "", (address, 0)) for address in places[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert {host: is_loopback(host) for host in places} == {
        "inside.example": True,
        "outside.example": False,
        "both.example": False,
    }
    assert hosts_of("inside.example") == (*LOOPBACK, "inside.example")
    assert hosts_of("outside.example") == ()


def test_the_address_itself_is_a_host_too():
    assert hosts_of("127.0.0.5") == (*LOOPBACK, "127.0.0.5")
    assert hosts_of("::1")[-1] == "[::1]"
    with pytest.raises(RunError, match="no such address"):
        hosts_of("no.such.host.invalid")


@pytest.fixture
def served(monkeypatch):
    """The settings with which `dualasr serve` would serve, instead of serving."""
    import dualasr_serve.server

    from dualasr.cli import serve

    seen = {}
    monkeypatch.setattr(serve, "load_base", lambda *args, **more: None)
    monkeypatch.setattr(dualasr_serve.server, "run", lambda load, **more: seen.update(more))
    monkeypatch.delenv("DUALASR_KEY", raising=False)
    assert run is not dualasr_serve.server.run
    return seen


@pytest.mark.parametrize(
    "flags, variable, key, hosts",
    [
        ([], None, None, LOOPBACK),
        (["--key", "a"], None, "a", LOOPBACK),
        (["--key", "a"], "b", "a", LOOPBACK),
        ([], "b", "b", LOOPBACK),
        (["--no_key"], "b", None, LOOPBACK),
        (["--host", "0.0.0.0", "--key", "a"], None, "a", ()),
        (["--host", "0.0.0.0"], "b", "b", ()),
        (["--host", "0.0.0.0", "--no_key"], None, None, ()),
        (["--host", "", "--no_key"], None, None, ()),
        (["--allowed_hosts", "a.example", "b.example"], None, None, (*LOOPBACK, "a.example")),
    ],
)
def test_flags_of_the_command(served, monkeypatch, flags, variable, key, hosts):
    if variable:
        monkeypatch.setenv("DUALASR_KEY", variable)
    assert main(["serve", *flags]) == 0
    assert served["settings"].key == key and set(hosts) <= set(served["settings"].hosts)
    assert bool(hosts) == bool(served["settings"].hosts)


def test_other_flags_reach_the_server(served):
    flags = ["--cors_origins", "https://a.example/", "*", "--strict_models", "--keep_files_s", "60"]
    assert main(["serve", *flags]) == 0
    settings = served["settings"]
    assert settings.cors_origins == ("https://a.example", "*")
    assert settings.strict_models and settings.keep_files_s == 60
