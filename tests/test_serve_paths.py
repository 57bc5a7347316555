"""The page takes no file that a visitor names but did not upload, by any input of any event, and no
address of the page leads to one.
"""

import json
import os
import re
import secrets
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest
from serving import serving, small_model, write_sound

pytest.importorskip("gradio")

from dualasr_serve.app import Settings, create_app
from dualasr_serve.scheduler import Scheduler
from dualasr_serve.wall import Files, Wall
from starlette.routing import Mount

API = "/gradio_api"
META = {"meta": {"_type": "gradio.FileData"}}
FEW = 5  # of the forbidden values: files of the server, and of another visitor
MARK = secrets.token_hex(16).encode()
KEY = "open sesame"


@dataclass(frozen=True)
class Server:
    """A server with the page.

    `cache` is where gradio keeps files; `secret` (a text) and `sound` are files that only the
    server's user may read; `folder` is for the test; `knocks` are the requests that a server of
    this machine got, at `elsewhere`.
    """

    url: str
    wall: Wall
    cache: Path
    secret: Path
    sound: Path
    folder: Path
    key: str | None
    elsewhere: str
    knocks: list[str]

    def visitor(self) -> "Visitor":
        return Visitor(self, httpx.Client(base_url=self.url, timeout=60))


@dataclass(frozen=True)
class Visitor:
    """A visitor with cookies of their own, who has logged in where there is a key."""

    server: Server
    client: httpx.Client

    def __post_init__(self):
        if self.server.key:
            login = {"username": "any", "password": self.server.key}
            self.client.post("/login", data=login).raise_for_status()

    def config(self) -> dict:
        return self.client.get("/config").json()

    def upload(self, path: Path) -> str:
        """Upload a file; return where the server put it."""
        answer = self.client.post(f"{API}/upload", files={"files": (path.name, path.read_bytes())})
        return answer.raise_for_status().json()[0]

    def fetch(self, path: str) -> httpx.Response:
        return self.client.get(f"{API}/file={quote(path)}")

    def ask(self, session: str, event: int, data: list, **more) -> httpx.Response:
        body = {"session_hash": session, "fn_index": event, "data": data} | more
        return self.client.post(f"{API}/queue/join", json=body)

    def answers(self, session: str) -> tuple[str, dict[str, dict]]:
        """Return the whole stream of a session, and the last message of each event by its id."""
        text = self.client.get(f"{API}/queue/data", params={"session_hash": session}).text
        messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        ended = [message for message in messages if message["msg"] == "process_completed"]
        return text, {message["event_id"]: message for message in ended}

    def answer(self, session: str, event: int, *data) -> list:
        """Return the outputs of an event that must succeed."""
        done = self.ask(session, event, list(data)).raise_for_status().json()["event_id"]
        message = self.answers(session)[1][done]
        assert message["success"], message
        return message["output"]["data"]


@pytest.fixture(scope="module")
def elsewhere():
    """Another server of this machine, which no visitor should reach, and the requests it got."""
    knocks = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            knocks.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MARK)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{MARK.decode()}.wav", knocks
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module", params=[None, KEY], ids=["open", "with_key"])
def server(request, tiny_folder, make_secondary, tmp_path_factory, elsewhere):
    folder = tmp_path_factory.mktemp("paths")
    private = folder / "private"
    private.mkdir(mode=0o700)
    secret, sound = private / "secret.txt", write_sound(private / "secret.wav", 2.0, seed=1)
    secret.write_bytes(MARK)
    sound.write_bytes(sound.read_bytes() + MARK)  # after its samples, where no reader looks
    for file in (secret, sound):
        file.chmod(0o600)
    (folder / "own").mkdir(mode=0o700)
    scheduler = Scheduler(small_model(tiny_folder, make_secondary))
    app = create_app(
        scheduler, lambda: scheduler.model, folder / "own", Settings(key=request.param)
    )
    (wall,) = [route.app for route in app.routes if isinstance(route, Mount)]
    cache = folder / "own" / "page"
    with serving(app) as url:
        yield Server(url, wall, cache, secret, sound, folder, request.param, *elsewhere)
    scheduler.close(drop=True)
    assert not list((folder / "own").iterdir()), "files of visitors are left"


@pytest.fixture(scope="module")
def special(server) -> list[str]:
    """Paths in the page's own folder that are no upload: links, devices, pipes, folders."""
    place = server.cache / "special"
    place.mkdir(parents=True)
    for name, target in (
        ("link.txt", server.secret),
        ("link.wav", server.sound),
        ("zero.wav", Path("/dev/zero")),
        ("folder.wav", server.folder / "private"),
        ("nowhere.wav", server.folder / "none"),
        ("round.wav", place / "round.wav"),
    ):
        (place / name).symlink_to(target)
    os.mkfifo(place / "pipe.wav")
    (place / "pipe_link.wav").symlink_to(place / "pipe.wav")
    with (place / "sparse.wav").open("wb") as file:
        file.truncate(10_000_000_000)
    (place / "sparse_link.wav").symlink_to(place / "sparse.wav")
    return [str(path) for path in sorted(place.iterdir())] + [str(place)]


@pytest.fixture(scope="module")
def visitor(server):
    return server.visitor()


@pytest.fixture(scope="module")
def of_others(server) -> str:
    """An upload of another visitor."""
    path = server.folder / "others.wav"
    path.write_bytes(write_sound(path, 1.0, seed=7).read_bytes() + MARK)
    return server.visitor().upload(path)


def forbidden(server: Server, uploaded: str, of_others: str, special: list[str]) -> list:
    """Return the ways to name a file that was not uploaded."""
    sound = str(server.sound)
    file = {"path": sound} | META
    here = f"{server.url}{API}/file={sound}"
    up = "/.." * len(Path(uploaded).parts)
    relative = os.path.relpath(sound)
    paths = [
        *("/etc/passwd", str(server.secret), sound, of_others, relative, f"./{relative}"),
        *(f"{Path(uploaded).parent}{up}{sound}", f"{uploaded}/..{up}{sound}", f"{uploaded}\0"),
        *(f"file://{sound}", f"file:{sound}", here, f"{API}/file={sound}", server.elsewhere),
        *(f"{server.elsewhere}#{uploaded}", "file:///etc/passwd", "data:,x", "~/.bashrc"),
        *("/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/fd/0", "/", ".", ""),
        *(f"//{sound}", f"/proc/self/root{sound}", uploaded + "/", f"{uploaded}/.", *special),
        uploaded.replace("/page/", "/page/./"),
    ]
    return [
        *({"path": path} | META for path in paths),
        *([[file], {"a": file}], sound, {"path": sound}, [file], {"a": [file]}, [[[file]]]),
        {"value": file, "__type__": "update"},
        *(file | {"url": url} for url in (server.elsewhere, f"file://{sound}", here)),
        *({"url": url} | META for url in (server.elsewhere, f"file://{sound}")),
        *({"path": None, "url": url} | META for url in (server.elsewhere, here)),
        file | {"is_stream": True},
        file | {"orig_name": "a.wav", "value": file},
        {"path": [sound]} | META,
        {"path": file} | META,
        {"path": {"path": sound}} | META,
        *(7, True, "x", 1e300),
    ]


@dataclass(frozen=True)
class Attack:
    """A forbidden value for one input of an event, its component and its kind, and the answer."""

    session: str
    event: int
    component: int
    kind: str
    value: object
    status: int
    said: str


@pytest.fixture(scope="module")
def attacks(server, visitor, of_others, special) -> tuple[list[Attack], str]:
    """Forbidden values for every input of every event, as the page's config tells them.

    All of them once for each component, and the first ones for each event that it is an input of.

    Returns the attacks, and what the server answered later as one text.
    """
    uploaded = visitor.upload(write_sound(server.folder / "fair.wav", 0.3, seed=2))
    config = visitor.config()
    kinds = {component["id"]: component["type"] for component in config["components"]}
    attacks, said, tried = [], "", set()
    for event in config["dependencies"]:
        for place, component in enumerate(event["inputs"]):
            session = f"event {event['id']}, input {place}"
            values = forbidden(server, uploaded, of_others, special)
            # the wall drops whatever is sent for a state, and gradio runs the event without it
            few = component in tried or kinds[component] == "state"
            tried.add(component)
            for value in values[:FEW] if few else values:
                # what is sent for a state is not read, so a fair sound would be transcribed
                fair = None if kinds[component] == "state" else {"path": uploaded} | META
                data = [fair if kinds[other] == "audio" else None for other in event["inputs"]]
                data[place] = value
                answer = visitor.ask(session, event["id"], data)
                attacks.append(
                    Attack(
                        session,
                        event["id"],
                        component,
                        kinds[component],
                        value,
                        answer.status_code,
                        answer.text,
                    )
                )
            if 200 in {attack.status for attack in attacks if attack.session == session}:
                said += visitor.answers(session)[0]
    return attacks, said


def test_every_input_of_every_event_was_tried(visitor, attacks):
    events = visitor.config()["dependencies"]
    wanted = {(event["id"], component) for event in events for component in event["inputs"]}
    assert {(attack.event, attack.component) for attack in attacks[0]} == wanted
    assert {"audio", "radio", "dropdown", "state"} <= {attack.kind for attack in attacks[0]}


def test_no_event_takes_a_file_that_was_not_uploaded(attacks):
    for attack in attacks[0]:
        if attack.kind == "state" or not isinstance(attack.value, dict | list):
            continue  # gradio reads no state from a client, and a text is no file there
        assert attack.status in (400, 403), attack
        assert json.loads(attack.said)["error"]["message"], attack
    assert {a.status for a in attacks[0] if a.kind == "audio"} == {400, 403}, "texts are none"


def test_no_answer_holds_or_leads_to_such_a_file(visitor, attacks):
    everything = attacks[1] + "".join(attack.said for attack in attacks[0])
    assert MARK.decode() not in everything and "root:" not in everything
    for path in set(re.findall(r"file=([^\s\"'\\]+)", everything)):
        assert MARK not in visitor.fetch(unquote(path)).content


def test_no_such_file_is_copied_and_nobody_is_called(server, attacks, of_others):
    places = [server.cache, server.folder]
    plain = {f for place in places for f in place.rglob("*") if f.is_file() and not f.is_symlink()}
    small = {file for file in plain if file.stat().st_size < 1_000_000}
    known = {server.secret, server.sound, Path(of_others), server.folder / "others.wav"}
    assert small > known, "uploads are there"
    assert {file for file in small if MARK in file.read_bytes()} == known
    assert not server.knocks


def test_no_address_serves_such_a_file(server, visitor, of_others, special, attacks):
    uploaded = visitor.upload(write_sound(server.folder / "mine.wav", 0.2))
    for value in forbidden(server, uploaded, of_others, special):
        path = value.get("path") if isinstance(value, dict) else value
        # the client itself shortens what is the visitor's own file
        if isinstance(path, str) and "\0" not in path and os.path.normpath(path) != uploaded:
            for spelled in (path, quote(path), path.replace("/", "%2f"), path.replace("/", "\\")):
                answer = visitor.client.get(f"{API}/file={spelled}")
                assert answer.status_code in (400, 403, 404), spelled
                assert MARK not in answer.content and b"root:" not in answer.content
    assert visitor.fetch(uploaded).content == (server.folder / "mine.wav").read_bytes()
    assert not server.knocks


def test_no_route_of_gradio_leads_around_the_wall(server, visitor, attacks):
    """All routes that the installed gradio has, with a path for each of their parameters."""
    values = [str(server.sound), f"..{server.sound}", "../" * 20 + str(server.sound)[1:]]
    values += [server.elsewhere, "/etc/passwd"]
    routes = {
        (method, route.path)
        for route in all_routes(server.wall.app)
        for method in getattr(route, "methods", None) or ()
    }
    assert ("POST", f"{API}/run/{{api_name}}") in routes, "this list finds them"
    assert ("POST", f"{API}/component_server") in routes
    for method, path in sorted(routes):
        if path in ("/login", "/login/", "/logout") or path.endswith("/queue/data"):
            continue  # the first two take no path; the third waits for events
        for value in values if "{" in path else values[:1]:
            for filled in (quote(value, safe="/"), quote(value, safe="")):
                address = re.sub(r"{[^}]*}", lambda _, text=filled: text, path)
                if "/heartbeat/" in address:
                    continue  # which never ends
                body = {"data": [{"path": value} | META], "session_hash": "s", "fn_index": 0}
                more = {"component_id": 1, "fn_name": "read", "url": value, "path": value}
                answer = visitor.client.request(method, address, json=body | more)
                assert MARK not in answer.content and b"root:" not in answer.content, address
    assert not server.knocks


def all_routes(app):
    """Yield the routes of an application behind its middleware, and those of its routers."""
    while not hasattr(app, "routes"):
        app = app.app
    for route in app.routes:
        router = getattr(route, "original_router", None)  # an included router of FastAPI
        yield from all_routes(router) if router is not None else [route]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"7",
        b"[" * 5000,
        b'{"data": []}',
        b'{"data": [], "fn_index": 9999, "session_hash": "s"}',
        b'{"data": [], "fn_index": "0", "session_hash": "s"}',
        b'{"data": [], "fn_index": true, "session_hash": "s"}',
        b'{"data": [], "fn_index": -1, "session_hash": "s"}',
        b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9], "fn_index": 0, "session_hash": "s"}',
        b'{"data": {}, "fn_index": 0, "session_hash": "s"}',
        b'{"data": [null, null, null, null], "fn_index": 0, "session_hash": {}}',
        b'{"data": [null, null, null, null], "fn_index": 0}',
        b'"' + bytes(2_000_000) + b'"',
    ],
)
def test_an_event_that_the_page_never_sends_is_a_sentence(visitor, body):
    answer = visitor.client.post(f"{API}/queue/join", content=body)
    assert answer.status_code in (400, 413) and answer.json()["error"]["message"].endswith(".")


def test_of_special_files_none_is_anybodys(server, special):
    files = Files(server.cache)
    plain = server.cache / "special" / "plain.wav"
    plain.write_bytes(b"x")
    for path in (str(plain), *special):
        files.give(path, "me")
    given = [path for path in (str(plain), *special) if files.is_of(path, "me")]
    assert given == [str(plain), str(server.cache / "special" / "sparse.wav")]
    assert not files.is_of(str(plain), "you")
    plain.unlink()
    assert not files.is_of(str(plain), "me")
    files.forget_deleted()
    plain.write_bytes(b"y")
    assert not files.is_of(str(plain), "me"), "a new file of the same name is nobody's"
    plain.unlink()


def event_of(config: dict, button: str) -> int:
    """Return the id of the event of a button, given its elem_id or what is written on it."""
    props = {component["id"]: component["props"] for component in config["components"]}
    ids = [id for id, has in props.items() if button in (has.get("elem_id"), has.get("value"))]
    return next(e["id"] for e in config["dependencies"] if e["targets"][0][0] in ids)


@pytest.mark.parametrize(
    "name", ["mine.wav", "Кыргыз тили.wav", "a b+c%20&d#e.wav", "x" * 150 + ".wav", "'q'.wav"]
)
def test_an_upload_and_an_example_are_transcribed_and_the_transcripts_can_be_downloaded(
    server, name
):
    visitor, other = server.visitor(), server.visitor()
    config, session = visitor.config(), f"fair {name[:20]}"
    load = next(e["id"] for e in config["dependencies"] if e["targets"][0][1] == "load")
    visitor.answer(session, load)  # which tells the routes that can be chosen
    (example,) = visitor.answer(session, event_of(config, "en"))
    mine = visitor.upload(write_sound(server.folder / name, 1.0))
    uploaded = {"path": mine, "url": f"file://{server.secret}"} | META
    for sound in (uploaded, example):
        assert visitor.fetch(sound["path"]).status_code == 200
        html, _, _, *files = visitor.answer(
            session, event_of(config, "transcribe"), sound, "north", None, None
        )
        srt, _, _, told = (visitor.fetch(file["path"]).raise_for_status() for file in files[:4])
        assert "-->" in srt.text and told.json()["route"] == "north"
        assert told.json()["text"] and told.json()["text"] in re.sub("<.*?>", "", html)
        source = unquote(re.search(r'src="gradio_api/file=([^"]+)"', html)[1])
        assert visitor.fetch(source.replace("&#x27;", "'")).status_code == 200, "the player's"
        for file in files[:4]:
            assert other.fetch(file["path"]).status_code == 403, "another visitor reads it"
    assert other.fetch(mine).status_code == 403
    assert (
        other.ask("o", event_of(config, "transcribe"), [uploaded, "north", None, None]).status_code
        == 403
    )
    assert not other.client.get(f"{API}/queue/data", params={"session_hash": "none"}).is_success
    stream = other.client.get(f"{API}/queue/data", params={"session_hash": session})
    assert stream.status_code == 403, "another visitor reads the answers of a session"


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.m4a", "list", "list.wav"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
    ],
)
def test_a_playlist_leads_to_no_other_file(server, visitor, name, text):
    av = pytest.importorskip("av")
    hidden = server.folder / "private" / "hidden.aac"
    if not hidden.exists():
        with av.open(str(hidden), "w", format="adts") as out:
            stream = out.add_stream("aac", rate=16_000, layout="mono")
            tone = np.sin(np.arange(16_384, dtype=np.float32) * 0.1)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                out.mux(packet)
    playlist = server.folder / name
    playlist.write_text(text.format(hidden))
    file = {"path": visitor.upload(playlist)} | META
    event, session = event_of(visitor.config(), "transcribe"), f"playlist {name} {text[:3]}"
    done = visitor.ask(session, event, [file, "auto", None, None]).json()["event_id"]
    assert visitor.answers(session)[1][done]["success"] is False
    answer = visitor.client.post(
        "/v1/audio/transcriptions",
        files={"file": (name, playlist.read_bytes())},
        headers={"Authorization": f"Bearer {server.key}"},
    )
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_audio"


def test_two_visitors_may_upload_the_same(server):
    path = write_sound(server.folder / "same.wav", 0.2, seed=9)
    for visitor in (server.visitor(), server.visitor()):
        assert visitor.fetch(visitor.upload(path)).content == path.read_bytes()
