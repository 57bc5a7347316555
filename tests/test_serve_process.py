"""Server processes with the page: private folders, logs, and what is named like a sound only."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
import serving
from serving import write_sound

pytest.importorskip("gradio")

from dualasr_serve.folder import PREFIX, private_folder, remove_old

META = {"meta": {"_type": "gradio.FileData"}}
WAIT_S = 300  # of a busy machine
until = partial(serving.until, seconds=WAIT_S)


@dataclass
class Running:
    """A server process with a client; `log` is what it says."""

    process: subprocess.Popen
    client: httpx.Client
    log: Path

    def upload(self, path: Path) -> Path:
        files = {"files": (path.name, path.read_bytes())}
        return Path(
            self.client.post("/gradio_api/upload", files=files).raise_for_status().json()[0]
        )

    def ask(self, button: str, data: list) -> httpx.Response:
        """Press a button, given its elem_id."""
        config = self.client.get("/config").json()
        (id,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == button]
        event = next(e["id"] for e in config["dependencies"] if e["targets"][0][0] == id)
        body = {"session_hash": "s", "fn_index": event, "data": data}
        return self.client.post("/gradio_api/queue/join", json=body)

    def answer(self) -> dict:
        """Return the last message of the one event that was asked."""
        text = self.client.get("/gradio_api/queue/data", params={"session_hash": "s"}).text
        messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        return next(m for m in messages if m["msg"] == "process_completed")


@pytest.fixture
def start(tiny_folder, tmp_path):
    """Starts server processes whose temporary files are in one folder, temp."""
    started, temp = [], tmp_path / "temp"
    temp.mkdir()

    def start(*flags: str) -> Running:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "dualasr", "serve", "--base", str(tiny_folder)]
        log = tmp_path / f"log{len(started)}"
        environment = os.environ | {
            "TMPDIR": str(temp),
            "OMP_NUM_THREADS": "1",
            "GRADIO_TEMP_DIR": str(tmp_path / "elsewhere"),
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--port", str(port), *flags], stdout=out, stderr=out, env=environment
            )
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S)
        running = Running(process, client, log)
        started.append(running)

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(is_up)
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        running.client.close()
    assert not (tmp_path / "elsewhere").exists(), "files outside the private folder"


def private(temp: Path) -> list[Path]:
    return sorted(temp.glob(f"{PREFIX}*"))


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_servers_files_are_private_and_go_with_it_and_after_a_crash(start, tmp_path):
    temp, sound = tmp_path / "temp", write_sound(tmp_path / "mine.wav", 0.5)
    first = start()
    (folder,) = private(temp)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    place = first.upload(sound)
    assert first.ask("transcribe", [{"path": str(place)} | META, "auto", None, None]).is_success
    written = first.answer()["output"]["data"]
    paths = [Path(one["path"]) for one in written if isinstance(one, dict) and "path" in one]
    assert len(paths) == 4, "transcripts to download"
    assert all(path.is_file() and path.is_relative_to(folder) for path in (place, *paths))

    second = start()
    assert place.is_file(), "another server lives"
    (its_folder,) = set(private(temp)) - {folder}
    first.process.kill()
    first.process.wait()
    assert place.is_file()
    kept = second.upload(sound)
    third = start()
    assert not folder.exists(), "of a server that died"
    assert kept.is_file() and kept.is_relative_to(its_folder), "of a server that lives"
    for running in (second, third):
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(WAIT_S) == 0
        assert "Traceback" not in running.log.read_text()
    assert list(temp.iterdir()) == []


def test_files_that_nobody_uses_go_while_the_server_runs(start, tmp_path):
    running = start("--keep_files_s", "1")
    place = running.upload(write_sound(tmp_path / "mine.wav", 0.5))
    until(lambda: not place.exists() and not place.parent.exists())
    late = running.ask("transcribe", [{"path": str(place)} | META, "auto", None, None])
    assert late.status_code == 403 and "because of its age" in late.json()["detail"]
    again = running.upload(tmp_path / "mine.wav")
    assert running.client.get(f"/gradio_api/file={again}").status_code in (200, 403)


def test_what_is_no_file_is_refused_before_it_is_opened_and_the_log_has_a_line(start, tmp_path):
    running = start()
    (folder,) = private(tmp_path / "temp")
    place = running.upload(write_sound(tmp_path / "mine.wav", 0.5)).parent
    pipe, sparse = tmp_path / "pipe.wav", tmp_path / "sparse.wav"
    os.mkfifo(pipe)
    with sparse.open("wb") as file:
        file.truncate(10_000_000_000)
    targets = [Path("/dev/zero"), Path("/dev/random"), Path("/dev/tty"), tmp_path, pipe, sparse]
    links = [place / f"link{number}.wav" for number in range(len(targets))]
    for link, target in zip(links, targets, strict=True):
        link.symlink_to(target)
    for path in (*targets, *links, place):
        answer = running.ask("transcribe", [{"path": str(path)} | META, "auto", None, None])
        assert answer.status_code == 403, path
        assert running.client.get(f"/gradio_api/file={path}").status_code == 403, path
        for field in ("file", "prompt", "hotwords"):
            sent = {field: str(path)} | ({} if field == "file" else {"model": "auto"})
            posted = running.client.post("/v1/audio/transcriptions", data=sent)
            assert posted.status_code == 400, "a path is no sound"
        assert running.client.get("/health").json()["queue"] == 0
    sound = {"path": str(place / "mine.wav")} | META
    assert running.ask("transcribe", [sound, "no such route", None, None]).is_success
    assert running.answer()["success"] is False
    assert running.ask("transcribe", [sound, "auto", ["no such language"], None]).is_success
    assert running.answer()["success"] is False
    assert running.client.get("/gradio_api/queue/data?session_hash=none").status_code == 404
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(WAIT_S) == 0
    log = running.log.read_text()
    assert "Traceback" not in log and str(sparse) not in log
    lines = log.splitlines()
    assert len([line for line in lines if line.startswith("POST /gradio_api/queue/join 403")]) == 13
    assert len([line for line in lines if "the page refused an event" in line]) == 2
    assert "GET /gradio_api/file=... 403" in log and not folder.exists()


def test_what_is_old_goes_and_what_is_young_or_used_stays(tmp_path):
    folder = tmp_path / "page"
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("a/old.wav", "a/b/old.wav"):
        (folder / name).write_bytes(b"x")
    (folder / "a" / "link").symlink_to(tmp_path)
    remove_old(folder, 3600)
    assert len(files_of(folder)) == 2 and folder.is_dir()
    remove_old(folder, -1)  # as if everything were a second old
    remove_old(folder, -1)  # folders become young when a file leaves them
    assert list(folder.iterdir()) == [] and tmp_path.is_dir()
    remove_old(tmp_path / "none", 1)


def test_a_folder_of_no_server_is_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, link, other = (tmp_path / name for name in (f"{PREFIX}a", f"{PREFIX}b", "precious"))
    for folder in (dead, other):
        folder.mkdir()
        (folder / "sound.wav").write_bytes(b"x")
    link.symlink_to(other)
    with private_folder() as first, private_folder() as second:
        assert not dead.exists() and (other / "sound.wav").exists()
        assert first.is_dir() and second.is_dir() and first != second
        assert stat.S_IMODE(first.stat().st_mode) == 0o700 and not list(first.glob("*.*"))
        assert tempfile.gettempdir() == str(second), "all temporary files are private"
    assert sorted(tmp_path.iterdir()) == sorted([link, other])
    assert tempfile.gettempdir() == str(tmp_path)
