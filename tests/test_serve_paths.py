"""The page takes no file that a visitor names but did not upload, by any input of any event."""

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest
from serving import serving, small_model, write_sound

pytest.importorskip("gradio")

from dualasr_serve.app import create_app
from dualasr_serve.scheduler import Scheduler
from gradio.processing_utils import hash_file

API = "/gradio_api"
META = {"meta": {"_type": "gradio.FileData"}}
PLAIN = 3
MARK = secrets.token_hex(16).encode()


@dataclass(frozen=True)
class Server:
    """A server with the page.

    `cache` is where gradio keeps files; `secret` (a text) and `sound` are files that only the
    server's user may read; `folder` is for the test.
    """

    client: httpx.Client
    cache: Path
    secret: Path
    sound: Path
    folder: Path

    def config(self) -> dict:
        return self.client.get("/config").json()

    def upload(self, path: Path) -> str:
        """Upload a file; return where the server put it."""
        answer = self.client.post(f"{API}/upload", files={"files": (path.name, path.read_bytes())})
        return answer.raise_for_status().json()[0]

    def fetch(self, path: str) -> httpx.Response:
        return self.client.get(f"{API}/file={quote(path)}")

    def ask(self, session: str, event: int, data: list) -> str:
        """Post an event; return its id."""
        body = {"session_hash": session, "fn_index": event, "data": data}
        answer = self.client.post(f"{API}/queue/join", json=body)
        return answer.raise_for_status().json()["event_id"]

    def answers(self, session: str) -> tuple[str, dict[str, dict]]:
        """Return the whole stream of a session, and the last message of each event by its id."""
        text = self.client.get(f"{API}/queue/data", params={"session_hash": session}).text
        messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        ended = [message for message in messages if message["msg"] == "process_completed"]
        return text, {message["event_id"]: message for message in ended}


@pytest.fixture(scope="module")
def server(tiny_folder, make_secondary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    private = folder / "private"
    private.mkdir(mode=0o700)
    secret, sound = private / "secret.txt", write_sound(private / "secret.wav", 2.0, seed=1)
    secret.write_bytes(MARK)
    sound.write_bytes(sound.read_bytes() + MARK)  # after its samples, where no reader looks
    for file in (secret, sound):
        file.chmod(0o600)
    cache = folder / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        scheduler = Scheduler(small_model(tiny_folder, make_secondary))
        app = create_app(scheduler, lambda: scheduler.model, tmp_path_factory.mktemp("uploads"))
        with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield Server(client, cache, secret, sound, folder)
        scheduler.close(drop=True)


def forbidden(server: Server, uploaded: str) -> list:
    """Return the ways to name a file that was not uploaded: PLAIN plain ones, then tricks."""
    sound = str(server.sound)
    file = {"path": sound} | META
    here = f"{server.client.base_url}{API}/file={sound}"
    climbing = f"{Path(uploaded).parent}{'/..' * len(Path(uploaded).parts)}{sound}"
    paths = (climbing, f"file://{sound}", here, f"{API}/file={sound}")
    urls = (f"{API}/file={uploaded}", f"file://{sound}", here)
    return [
        {"path": str(server.secret)} | META,
        file,
        [[file], {"a": file}],
        sound,
        {"path": sound},
        [file],
        {"value": file, "__type__": "update"},
        *({"path": path} | META for path in paths),
        *(file | {"url": url} for url in urls),
        file | {"is_stream": True},
        file | {"orig_name": "a.wav", "value": file},
    ]


@dataclass(frozen=True)
class Attack:
    """A forbidden value for one input of an event.

    `component` is the id of the input, `kind` its type; `success` says how the event ended.
    """

    event: int
    component: int
    kind: str
    value: object
    success: bool


@pytest.fixture(scope="module")
def attacks(server) -> tuple[list[Attack], str]:
    """Try plain values for every input of every event, tricks once for each component.

    Returns the attacks, and all that the server answered as one text.
    """
    uploaded = server.upload(write_sound(server.folder / "fair.wav", 0.5, seed=2))
    config = server.config()
    kinds = {component["id"]: component["type"] for component in config["components"]}
    attacks, said, tricked = [], "", set()
    for event in config["dependencies"]:
        for place, component in enumerate(event["inputs"]):
            session, asked = f"event {event['id']}, input {place}", {}
            values = forbidden(server, uploaded)
            for value in values[:PLAIN] if component in tricked else values:
                # what is sent for a state is not read, so a fair sound would be transcribed
                fair = None if kinds[component] == "state" else {"path": uploaded} | META
                data = [fair if kinds[other] == "audio" else None for other in event["inputs"]]
                data[place] = value
                asked[server.ask(session, event["id"], data)] = value
            tricked.add(component)
            stream, ended = server.answers(session)
            said += stream
            attacks += [
                Attack(event["id"], component, kinds[component], value, ended[key]["success"])
                for key, value in asked.items()
            ]
    return attacks, said


def test_every_input_of_every_event_was_tried(server, attacks):
    events = server.config()["dependencies"]
    wanted = {(event["id"], component) for event in events for component in event["inputs"]}
    assert {(attack.event, attack.component) for attack in attacks[0]} == wanted
    assert {"audio", "radio", "dropdown", "state"} <= {attack.kind for attack in attacks[0]}


def test_no_event_takes_a_file_that_was_not_uploaded(attacks):
    assert not [attack for attack in attacks[0] if attack.success and attack.kind != "state"]


def test_no_answer_holds_or_leads_to_such_a_file(server, attacks):
    assert MARK.decode() not in attacks[1]
    for path in set(re.findall(r"file=([^\s\"'\\]+)", attacks[1])):
        assert MARK not in server.fetch(unquote(path)).content


def test_no_such_file_is_copied_to_the_cache(server, attacks):
    files = [file for file in server.cache.rglob("*") if file.is_file()]
    assert files, "the upload is there"
    assert not [file for file in files if MARK in file.read_bytes()]


def test_no_address_serves_such_a_file(server, attacks):
    for path in (server.secret, server.sound):
        copied = server.cache / hash_file(path) / path.name
        climbing = f"{server.cache}/../private/{path.name}"
        for copy in (path, copied, climbing, f"file://{path}"):
            answer = server.fetch(str(copy))
            assert answer.status_code == 403 and MARK not in answer.content, copy


def event_of(config: dict, button: str) -> int:
    """Return the id of the event of a button, given its elem_id or what is written on it."""
    props = {component["id"]: component["props"] for component in config["components"]}
    ids = [id for id, has in props.items() if button in (has.get("elem_id"), has.get("value"))]
    return next(e["id"] for e in config["dependencies"] if e["targets"][0][0] in ids)


def test_an_upload_and_an_example_are_transcribed_and_the_transcripts_can_be_downloaded(server):
    config, session = server.config(), "fair"

    def answer(event: int, *data) -> list:
        done = server.ask(session, event, list(data))
        message = server.answers(session)[1][done]
        assert message["success"], message
        return message["output"]["data"]

    load = next(e["id"] for e in config["dependencies"] if e["targets"][0][1] == "load")
    answer(load)  # which tells the routes that can be chosen
    (example,) = answer(event_of(config, "en"))
    mine = server.upload(write_sound(server.folder / "mine.wav", 1.0))
    uploaded = {"path": mine, "url": f"file://{server.secret}"} | META
    for sound in (uploaded, example):
        assert server.fetch(sound["path"]).status_code == 200
        html, _, _, *files = answer(event_of(config, "transcribe"), sound, "north", None, None)
        srt, _, _, told = (server.fetch(file["path"]).raise_for_status() for file in files[:4])
        assert "-->" in srt.text and told.json()["route"] == "north"
        assert told.json()["text"] and told.json()["text"] in re.sub("<.*?>", "", html)
