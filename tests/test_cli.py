"""The command line: exit codes and sentences, files and formats."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import dualasr
from dualasr.cli.main import build_parser, main
from dualasr.model.pack import Pack, PackInfo
from dualasr.packs.format import save_pack

COMMANDS = (
    "quickstart",
    "add-language",
    "evaluate",
    "calibrate",
    "compare",
    "transcribe",
    "corpus",
    "export",
    "packs",
)


@pytest.fixture
def pack(backbone, make_secondary, tmp_path):
    folder = tmp_path / "north"
    save_pack(folder, Pack(PackInfo("north", {"ky": "Kyrgyz"}), make_secondary(backbone)), backbone)
    return folder


@pytest.fixture
def wav(clips, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, clips[1], 16_000)
    return path


def test_help_names_every_command_and_needs_no_torch():
    code = (
        "import sys, dualasr.cli.main as cli; print(cli.build_parser().format_help(), 'torch' in"
        " sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert all(command in output for command in COMMANDS)
    assert output.strip().endswith("False")


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"dualasr {dualasr.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0 and "usage: dualasr" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, wrong",
    [
        *(
            (command, "_")
            for command in ("quickstart", "add-language", "corpus check", "corpus split")
        ),
        *(
            (command, "-")
            for command in (
                "evaluate",
                "calibrate",
                "compare",
                "transcribe",
                "serve",
                "export",
                "packs list",
            )
        ),
    ],
)
def test_a_command_declares_all_its_flags_in_one_spelling(command, wrong, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    flags = set(re.findall(r"(?<!\S)--(\w[\w-]*)", capsys.readouterr().out))
    assert "help" in flags and [flag for flag in flags if wrong in flag] == []


@pytest.mark.parametrize(
    "line, name, value",
    [
        ("transcribe a.wav --output-dir x_y-z", "output_dir", Path("x_y-z")),
        ("transcribe a.wav --output-dir=x_y-z", "output_dir", Path("x_y-z")),
        ("transcribe a.wav --output_dir=--x-y", "output_dir", Path("--x-y")),
        ("transcribe --packs-dir d -- a.wav --b-c", "audio", ["a.wav", "--b-c"]),
        ("transcribe a.wav --word-timestamps True", "word_timestamps", True),
        (
            "add-language --corpus a --language ky --out o --language_name X_Y --save_every 7",
            "language_name",
            ["X_Y"],
        ),
        ("add-language --corpus a --language ky --out o --dry_run", "dry_run", True),
        ("corpus split a --out b --by_speaker", "by_speaker", True),
        ("quickstart --corpus_only", "corpus_only", True),
        ("packs list --packs-dir d", "packs_dir", Path("d")),
        ("serve --max-upload-mb 3", "max_upload_mb", 3.0),
        ("calibrate --corpus a --out b --most-stolen 0.5", "max_false_accept_rate", 0.5),
    ],
)
def test_flags_are_taken_with_hyphens_and_underscores(line, name, value):
    assert getattr(build_parser().parse_args(line.split()), name) == value


def test_a_value_with_a_space_is_no_flag():
    args = build_parser().parse_args(["transcribe", "a.wav", "--initial-prompt", "--a-b c_d"])
    assert args.initial_prompt == "--a-b c_d"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--base", "no/such-base"], "Cannot load the base"),
        (["--model", "turbo"], "Cannot load the base 'turbo' (openai/whisper-large-v3-turbo)"),
        (["--pack", "nowhere"], "no pack at nowhere"),
        (["--route", "west"], "no route 'west'"),
        (["--language", "klingonish"], "knows the language 'klingonish'; nearest: "),
    ],
)
def test_bad_arguments_are_sentences(tiny_folder, wav, arguments, sentence, tmp_path, capsys):
    base = [] if {"--base", "--model"} & {*arguments} else ["--base", str(tiny_folder)]
    assert main(["transcribe", str(wav), "-o", str(tmp_path), *base, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dualasr: ") and sentence in error and "Traceback" not in error


def test_a_folder_that_is_no_whisper(tmp_path, wav, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main(["transcribe", str(wav), "-o", str(tmp_path), "--base", str(tmp_path)]) == 1
    assert "model_type is 'bert'" in capsys.readouterr().err


def test_packs_show_and_verify(pack, capsys):
    assert main(["packs", "verify", str(pack)]) == 0
    assert main(["packs", "show", str(pack)]) == 0
    assert "Kyrgyz (ky)" in capsys.readouterr().out
    (pack / "tokenizer.json").write_text("{}")
    assert main(["packs", "verify", str(pack)]) == 1
    assert "tokenizer.json was changed" in capsys.readouterr().err


def test_export_writes_a_folder_that_transcribes_and_refuses_it_the_second_time(
    tiny_folder, pack, wav, tmp_path, capsys
):
    folder = tmp_path / "out"
    command = ["export", str(pack), "--to", str(folder), "--base", str(tiny_folder)]
    assert main(command) == 0 and str(folder) in capsys.readouterr().out
    alone = folder / "secondary"
    output = ["-o", str(tmp_path), "-f", "json", "--no_speech_threshold", "None"]
    assert (
        main(["transcribe", str(wav), "--base", str(alone / "base"), "--pack", str(alone), *output])
        == 0
    )
    assert json.loads((tmp_path / f"{wav.stem}.json").read_text())["route"] == "north"
    capsys.readouterr()
    assert main(command) == 1 and f"{folder} exists" in capsys.readouterr().err


def test_evaluate_takes_subtitled_recordings(tiny_folder, wav, tmp_path, capsys):
    (tmp_path / "clip.srt").write_text(
        "1\n00:00:00,100 --> 00:00:01,000\nКар\n\n2\n00:00:01,000 --> 00:00:02,000\nтоо\n"
    )
    report = tmp_path / "report.json"
    assert (
        main(
            [
                "evaluate",
                "--base",
                str(tiny_folder),
                "--corpus",
                str(tmp_path),
                "--language",
                "ky",
                "--report",
                str(report),
                "--beam",
                "1",
            ]
        )
        == 0
    )
    lines = report.with_suffix(".clips.jsonl").read_text().splitlines()
    clips = [json.loads(line) for line in lines]
    assert sorted(round(clip["seconds"], 3) for clip in clips) == [0.9, 1.0]


def test_evaluate_writes_its_report(tiny_folder, pack, wav, tmp_path, capsys):
    rows = [
        {"id": str(i), "audio": "clip.wav", "text": "Кар жаады.", "lang": "ky", "split": "test"}
        for i in range(2)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "out" / "report.json"
    model = ["--base", str(tiny_folder), "--pack", str(pack)]
    assert (
        main(
            ["evaluate", *model, "--corpus", str(tmp_path), "--report", str(report), "--beam", "2"]
        )
        == 0
    )
    written = json.loads(report.read_text())
    assert written["languages"]["ky"]["n"] == 2 and np.isfinite(
        written["languages"]["ky"]["pipeline_aware"]["cer"]
    )
    assert sum(written["routing"]["confusion"]["ky"].values()) == 2
    assert "dualasr evaluate" in report.with_suffix(".md").read_text()
