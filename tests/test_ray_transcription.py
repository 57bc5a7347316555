"""`dualasr transcribe --ray`: the same transcripts, by workers that may die."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from dualasr.cli.main import main
from dualasr.cli.transcribe_ray import block_size
from dualasr.model.selector import Calibration
from dualasr.packs.format import save_pack
from dualasr.transcription.writers import FORMATS

# random weights
EAGER = [
    "--no_speech_threshold",
    "None",
    "--temperature_increment_on_fallback",
    "None",
    "--beam_size",
    "1",
]


@pytest.fixture
def command(tiny_folder, tmp_path, make_model, backbone, clips):
    """Nine sounds, a broken one among them, and the command that transcribes them, with a pack."""
    model = make_model(("north", "ky"))
    info = replace(model.packs["north"].info, calibration=Calibration(negatives=9))
    save_pack(tmp_path / "north", replace(model.packs["north"], info=info), backbone)
    (tmp_path / "in").mkdir()
    for k in range(9):
        soundfile.write(tmp_path / "in" / f"{k}.wav", clips[k % 4], 16_000)
    (tmp_path / "in" / "8.wav").write_bytes(b"RIFF nothing here")
    return [
        "transcribe",
        "in",
        "--base",
        str(tiny_folder),
        "--pack",
        "north",
        "--batch_size",
        "1",
        *EAGER,
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ours(error: str) -> list[str]:
    return [line for line in error.splitlines() if line.startswith("dualasr: ")]


def workers() -> list[int]:
    """The processes of Ray's workers that a command of this test has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"DUALASR_TEST={os.getpid()}".encode() in (
                folder / "environ"
            ).read_bytes().split(b"\0")
            if mine and b"MapWorker(" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.ray
def test_the_files_are_those_of_one_process_though_a_worker_is_killed(
    command, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    monkeypatch.chdir(tmp_path)
    assert main([*command, "-o", "alone"]) == 1
    alone = capsys.readouterr()
    environment = os.environ | {"DUALASR_TEST": str(os.getpid())}
    call = [sys.executable, "-m", "dualasr", *command, "-o", "out", "--ray", "1"]
    process = subprocess.Popen(
        call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(Path("out").glob("*.json")) and process.poll() is None:
        time.sleep(0.02)
    for worker in workers():
        os.kill(worker, signal.SIGKILL)
    out, error = process.communicate(timeout=500)
    assert process.returncode == 1 and "A worker died" in error and "Traceback" not in error
    assert sorted(out.splitlines()) == sorted(alone.out.splitlines())
    assert ours(error) == ours(alone.err) and len(ours(error)) == 1
    assert "8 files; " in error and "1 failed" in error and "routes: " in error
    assert contents(Path("out")) == contents(Path("alone")) and len(
        contents(Path("out"))
    ) == 8 * len(FORMATS)


@pytest.mark.ray
def test_what_is_there_is_skipped_and_what_no_worker_can_do_is_one_sentence(
    command, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    monkeypatch.chdir(tmp_path)
    Path("in", "8.wav").unlink()
    assert main([*command, "-o", "out", "-f", "txt"]) == 0
    capsys.readouterr()
    assert main([*command, "-o", "out", "-f", "txt", "--skip_existing", "--ray"]) == 0
    assert "0 files; " in (error := capsys.readouterr().err) and "8 skipped" in error
    for arguments, sentence in (
        (["--language", "kirgis", "--ray", "1"], "knows the language 'kirgis'"),
        (["--ray", "1000000"], "Ray has room for "),
    ):
        assert main([*command, "-o", "out", "-f", "txt", *arguments]) == 1
        [line] = ours(capsys.readouterr().err)
        assert sentence in line


def test_without_the_extra_the_sentence_says_how_to_install_it(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*command, "-o", "out", "--ray", "2"]) == 1
    assert "pip install 'dualasr[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["transcribe", "-"], "write standard input to one"),
        (["transcribe", "in", "--device", "cuda:1"], "write --device cuda"),
    ],
)
def test_what_does_not_go_with_workers_is_refused(
    tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "-o", "out", "--ray", "2"]) == 1
    assert sentence in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.parametrize(
    "files, workers, batch, size",
    [
        (1, 4, 8, 1),
        (100, 32, 8, 1),
        (100, 2, 8, 8),
        (60, 2, 8, 8),
        (20, 2, 8, 3),
        (1_000_000, 64, 16, 16),
    ],
)
def test_blocks_fill_a_batch_unless_that_leaves_workers_idle(files, workers, batch, size):
    assert block_size(files, workers, batch) == size
