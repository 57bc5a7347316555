"""`dualasr transcribe`, as somebody types it."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import srt
import torch
import webvtt

from dualasr.audio.files import LibsndfileReader
from dualasr.cli.main import build_parser, main
from dualasr.cli.transcribe import find_inputs
from dualasr.cli.transcribe_options import check_choice, clip_timestamps, options_of
from dualasr.errors import RunError
from dualasr.model.selector import Calibration
from dualasr.packs.format import save_pack

ALL = ("json", "srt", "tsv", "txt", "vtt")
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
def sounds(tmp_path, clips):
    """A folder with a sound, one below it, and something else."""
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for name, clip in (("one.wav", clips[0]), ("two.flac", clips[1]), ("deep/three.ogg", clips[2])):
        soundfile.write(folder / name, clip, 16_000)
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.fixture
def run(tiny_folder, tmp_path, make_model, backbone):
    pack = tmp_path / "packs" / "north"
    model = make_model(("north", "ky"))
    pack.parent.mkdir()
    info = replace(
        model.packs["north"].info, languages={"ky": "Kyrgyz"}, calibration=Calibration(negatives=9)
    )
    save_pack(pack, replace(model.packs["north"], info=info), backbone)

    def run(*arguments) -> int:
        return main(
            [
                "transcribe",
                *map(str, arguments),
                "--base",
                str(tiny_folder),
                "--pack",
                str(pack),
                *EAGER,
            ]
        )

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parse(*arguments: str):
    return build_parser().parse_args(["transcribe", "a.wav", *arguments])


@pytest.mark.parametrize(
    "arguments, name, value",
    [
        (["--output_dir", "x"], "output_dir", Path("x")),
        (["-o", "x"], "output_dir", Path("x")),
        (["--output_format", "srt"], "output_format", "srt"),
        (["-f", "all"], "output_format", "all"),
        (["--verbose", "False"], "verbose", False),
        (["--task", "translate"], "task", "translate"),
        (["--language", "Kyrgyz"], "language", "Kyrgyz"),
        (["--temperature", "0.4"], "temperature", 0.4),
        (["--beam_size", "3"], "beam_size", 3),
        (["--beam_size", "None"], "beam_size", None),
        (["--initial_prompt", "Hello there"], "initial_prompt", "Hello there"),
        (["--condition_on_previous_text", "True"], "condition_on_previous_text", True),
        (
            ["--temperature_increment_on_fallback", "None"],
            "temperature_increment_on_fallback",
            None,
        ),
        (["--compression_ratio_threshold", "2.0"], "compression_ratio_threshold", 2.0),
        (["--logprob_threshold", "-0.5"], "logprob_threshold", -0.5),
        (["--logprob_threshold", "None"], "logprob_threshold", None),
        (["--no_speech_threshold", "0.5"], "no_speech_threshold", 0.5),
        (["--word_timestamps", "True"], "word_timestamps", True),
        (["--highlight_words", "True"], "highlight_words", True),
        (["--max_line_width", "40"], "max_line_width", 40),
        (["--max_line_count", "2"], "max_line_count", 2),
        (["--threads", "2"], "threads", 2),
        (["--clip_timestamps", "0,10"], "clip_timestamps", "0,10"),
        (["--device", "cuda"], "device", "cuda"),
        (["--vad_filter", "True"], "vad_filter", True),
        (["--vad_threshold", "0.6"], "vad_threshold", 0.6),
        (["--batch_size", "4"], "batch_size", 4),
        (["--batch_size", "None"], "batch_size", None),
        (["--threads", "None"], "threads", None),
        (["--carry_initial_prompt", "True"], "carry_initial_prompt", True),
        (["--vad_onset", "0.4"], "vad_threshold", 0.4),
        (["--local_files_only", "True"], "local_files_only", True),
    ],
)
def test_the_flags_of_whisper_mean_what_they_mean_there(arguments, name, value):
    """Of openai-whisper 20250625 and whisper-ctranslate2 0.5, as their help has them; dashes are
    the same.
    """
    assert vars(parse(*arguments))[name] == value
    if arguments[0].startswith("--"):
        assert vars(parse(arguments[0].replace("_", "-"), *arguments[1:]))[name] == value
        assert vars(parse(f"{arguments[0].replace('_', '-')}={arguments[1]}"))[name] == value


def test_the_flags_reach_the_library():
    options, subtitles = options_of(
        parse(
            "--temperature",
            "0.2",
            "--temperature_increment_on_fallback",
            "0.4",
            "--compression_ratio_threshold",
            "None",
            "--logprob_threshold",
            "-2",
            "--no_speech_threshold",
            "None",
            "--beam_size",
            "None",
            "--task",
            "translate",
            "--word_timestamps",
            "True",
            "--max_line_width",
            "30",
            "--max_line_count",
            "2",
            "--batch_size",
            "3",
            "--clip_timestamps",
            "1,2.5,4",
            "--vad_filter",
            "True",
            "--vad_min_silence_duration_ms",
            "500",
            "--initial_prompt",
            "Salam",
        )
    )
    decode = options.decode
    assert decode.fallback.temperatures == pytest.approx((0.2, 0.6, 1.0))
    assert (decode.fallback.compression_ratio_threshold, decode.fallback.logprob_threshold) == (
        None,
        -2,
    )
    assert (decode.beam, decode.generate, decode.prompt) == (1, {"task": "translate"}, "Salam")
    assert options.words and options.batch == 3 and options.stretches == ((1.0, 2.5), (4.0, None))
    assert (
        options.thresholds.no_speech_threshold is None
        and options.thresholds.logprob_threshold == -2
    )
    assert options.vad.min_silence_duration_ms == 500 and options.vad.speech_pad_ms == 400
    assert (subtitles.max_line_width, subtitles.max_line_count) == (30, 2)
    assert options_of(parse("--temperature_increment_on_fallback", "None"))[
        0
    ].decode.fallback.temperatures == (0.0,)
    assert len(options_of(parse())[0].decode.fallback.temperatures) == 6
    assert options_of(parse("--batch_size", "None"))[0].batch == 8 and not options.carry_prompt
    assert options_of(parse("--carry_initial_prompt", "True"))[0].carry_prompt


@pytest.mark.parametrize(
    "text, stretches",
    [
        ("0", ()),
        ("", ()),
        ("0,30", ((0, 30),)),
        ("5", ((5, None),)),
        ("1,2,3", ((1, 2), (3, None))),
        ("1,2,3,4.5", ((1, 2), (3, 4.5))),
        # stretches that touch are one: a cut at 5 could lose a word, or give it twice
        ("0,5,5,10", ((0, 10),)),
        ("0,5,5,10,10,12,13,14", ((0, 12), (13, 14))),
        ("1,5,5", ((1, None),)),
        ("0,5,5", ()),
    ],
)
def test_clip_timestamps_are_pairs_and_the_last_may_be_open(text, stretches):
    assert clip_timestamps(text) == stretches


@pytest.mark.parametrize(
    "text", ["5,1", "-1,2", "a,b", "1,1", "nan,3", "1,inf", "0,5,4,9", "0,5,5,5", "5,5,5,6"]
)
def test_clip_timestamps_that_make_no_sense(text):
    with pytest.raises(RunError, match="seconds that rise"):
        clip_timestamps(text)


def test_files_folders_and_patterns(sounds, monkeypatch):
    monkeypatch.chdir(sounds)
    assert find_inputs(["."], False) == [Path("one.wav"), Path("two.flac")]
    assert find_inputs(["."], True) == [Path("deep/three.ogg"), Path("one.wav"), Path("two.flac")]
    assert find_inputs(["*.wav", "one.wav", "missing.wav"], False) == [
        Path("one.wav"),
        Path("missing.wav"),
    ]
    assert find_inputs(["**/*.ogg"], True) == [Path("deep/three.ogg")]
    Path("odd[1].wav").write_bytes(Path("one.wav").read_bytes())
    assert find_inputs(["odd[1].wav"], False) == [Path("odd[1].wav")]
    with pytest.raises(RunError, match="no file matches"):
        find_inputs(["*.mp3"], False)
    assert find_inputs(["-", "./-"], False) == [
        Path("-"),
        sounds / "-",
    ], "the second is a file of that name"
    Path("gone.wav").symlink_to("nowhere.wav")
    assert Path("gone.wav") in find_inputs(["."], False), "it fails, and is not passed over"
    Path("gone.wav").unlink()
    (sounds / "empty").mkdir()
    with pytest.raises(RunError, match="no sound file in this folder.*-r"):
        find_inputs(["empty"], False)


def test_every_format_is_written_and_parses(run, sounds, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(sounds, "-r", "-o", out, "--word-timestamps", "True", "--max_line_width", "20") == 0
    assert names(out) == sorted(
        f"{stem}.{kind}" for stem in ("one", "two", "three") for kind in ALL
    )
    for stem, seconds in (("one", 1.0), ("two", 2.3), ("three", 3.1)):
        plain = json.loads((out / f"{stem}.json").read_text())
        assert {"text", "language", "route", "language_probs", "segments"} <= set(plain)
        words = [word for segment in plain["segments"] for word in segment["words"]]
        assert words and all(0 <= w["start"] <= w["end"] <= seconds + 0.01 for w in words)
        cues = list(srt.parse((out / f"{stem}.srt").read_text()))
        assert cues and cues[-1].end.total_seconds() <= seconds + 0.01
        assert len(webvtt.read(out / f"{stem}.vtt").captions) == len(cues)
        assert (out / f"{stem}.txt").read_text().strip() == plain["text"]
    shown = capsys.readouterr()
    assert "[00:00.000 --> 00:01.000] " in shown.out and str(sounds / "one.wav") in shown.out
    assert "3 files; 6 s of sound" in shown.err and "routes: " in shown.err


def test_two_inputs_with_one_stem_and_what_is_there_already(run, clips, tmp_path, capsys):
    for name, clip in (("a.wav", clips[0]), ("a.flac", clips[1])):
        soundfile.write(tmp_path / name, clip, 16_000)
    asked = (
        tmp_path / "a.wav",
        tmp_path / "a.flac",
        "-o",
        tmp_path / "out",
        "-f",
        "txt",
        "--verbose",
        "False",
    )
    assert run(*asked) == 0 and names(tmp_path / "out") == ["a.flac.txt", "a.wav.txt"]
    (tmp_path / "out" / "a.wav.txt").write_text("mine")
    (tmp_path / "out" / "a.flac.txt").unlink()
    capsys.readouterr()
    assert (
        run(*asked, "--skip_existing") == 0
        and "1 file; 2 s of sound" in (shown := capsys.readouterr()).err
    )
    assert "1 skipped" in shown.err and shown.out == ""
    assert (tmp_path / "out" / "a.wav.txt").read_text() == "mine" and (
        tmp_path / "out" / "a.flac.txt"
    ).exists()


def test_one_broken_file_among_many(run, clips, tmp_path, capsys):
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(50):
        soundfile.write(folder / f"{k:02}.wav", clips[0][:8000], 16_000)
    (folder / "05.wav").write_bytes(b"RIFF nothing here")
    assert run(folder, "-o", tmp_path / "out", "-f", "srt") == 1
    assert names(tmp_path / "out") == [f"{k:02}.srt" for k in range(50) if k != 5]
    errors = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("dualasr: ") and "05.wav" in line
    ]
    assert len(errors) == 1 and "Traceback" not in errors[0]


@pytest.mark.parametrize(
    "name",
    ["with space.wav", "new\nline.wav", "😀.wav", "x" * 200 + ".wav", "-dash.wav", "50%.wav"],
)
def test_names_that_people_give(run, clips, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    soundfile.write(name if not name.startswith("-") else f"./{name}", clips[0], 16_000)
    assert run(f"./{name}", "-o", "out", "-f", "json", "--verbose", "False") == 0
    [written] = Path("out").iterdir()
    assert written.name == f"{Path(name).stem}.json" and json.loads(written.read_text())["text"]


def telephone(path: Path, clip: np.ndarray) -> None:
    soundfile.write(path, clip[::2], 8_000, subtype="ULAW")


def studio(path: Path, clip: np.ndarray) -> None:
    wide = np.repeat(clip, 12)[:, None] * np.linspace(0.2, 1, 8)
    soundfile.write(path, wide, 192_000, subtype="PCM_24")


@pytest.mark.parametrize("make", [telephone, studio])
def test_any_rate_and_channels(run, clips, tmp_path, make):
    make(tmp_path / "a.wav", clips[1])
    assert run(tmp_path / "a.wav", "-o", tmp_path, "-f", "json") == 0
    assert json.loads((tmp_path / "a.json").read_text())["segments"][0]["end"] == pytest.approx(
        2.3, abs=0.01
    )


@pytest.mark.parametrize(
    "content, sentence", [(b"", "is empty"), (b"\0" * 5000, "cannot be read as audio")]
)
def test_files_that_hold_no_sound(run, tmp_path, capsys, content, sentence):
    (tmp_path / "a.wav").write_bytes(content)
    assert run(tmp_path / "a.wav", "-o", tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err and names(tmp_path / "out") == []


def test_whatever_reading_a_file_raises_is_that_files_error(
    run, sounds, tmp_path, capsys, monkeypatch
):
    blocks = LibsndfileReader.blocks

    def broken(reader, *asked):
        if reader.path.name == "two.flac":
            raise ZeroDivisionError("of a library")
        return blocks(reader, *asked)

    monkeypatch.setattr(LibsndfileReader, "blocks", broken)
    assert run(sounds, "-r", "-o", tmp_path / "out", "-f", "txt") == 1
    assert (
        "two.flac: cannot be read as audio (ZeroDivisionError: of a library)"
        in capsys.readouterr().err
    )
    assert names(tmp_path / "out") == ["one.txt", "three.txt"]


def test_a_name_and_a_title_that_are_not_utf8(run, clips, tmp_path, capsys):
    av = pytest.importorskip("av")
    folder = tmp_path / "old"
    folder.mkdir()
    soundfile.write(os.fsencode(folder) + b"/caf\xe9.flac", clips[0], 16_000, format="FLAC")
    with av.open(str(folder / "song.mka"), "w") as container:
        container.metadata["title"] = "caf#"
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        samples = (clips[0] * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    spoilt = (folder / "song.mka").read_bytes()
    assert spoilt.count(b"caf#") == 1
    (folder / "song.mka").write_bytes(spoilt.replace(b"caf#", b"caf\xe9"))
    assert run(folder, "-o", tmp_path / "out", "-f", "txt") == 0, capsys.readouterr().err
    assert sorted(map(os.fsencode, names(tmp_path / "out"))) == [b"caf\xe9.txt", b"song.txt"]


def test_nobody_reads_what_is_shown(sounds, tiny_folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "dualasr",
        "transcribe",
        str(sounds),
        "-r",
        "--base",
        str(tiny_folder),
        "-o",
        str(tmp_path / "out"),
        "-f",
        "txt",
        *EAGER,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
        asked = [*command, "--detect_only"]
        lost = subprocess.run(
            asked, stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert done.returncode == 0 and names(tmp_path / "out") == [
        "one.txt",
        "three.txt",
        "two.txt",
    ], done.stderr
    assert (
        lost.returncode == 1 and "No space left" in lost.stderr and "Traceback" not in lost.stderr
    )
    shut = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- <&-', "-", *command], stderr=subprocess.PIPE, text=True
    )
    assert shut.returncode == 0, shut.stderr


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--temperature_increment_on_fallback", "-0.2"], "increment is -0.2"),
        (["--temperature", "nan"], "none below 0"),
        (["--beam_size", "-1"], "--beam_size -1"),
        (["--vad_filter", "True", "--vad_max_speech_duration_s", "1e-5"], "at least 0.032"),
    ],
)
def test_values_out_of_range(flags, sentence):
    with pytest.raises(RunError, match=sentence):
        check_choice(parse(*flags))
        options_of(parse(*flags))


def test_an_error_is_one_line_whatever_the_name(run, tmp_path, capsys):
    (tmp_path / "bro\nken.wav").write_bytes(b"RIFF")
    assert run(tmp_path / "bro\nken.wav", "-o", tmp_path / "out") == 1
    error, summary = capsys.readouterr().err.splitlines()
    assert "bro\\nken.wav" in error and "1 failed" in summary


def test_a_missing_extra_is_nobodys_broken_file(run, sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(sounds, "-o", tmp_path / "out", "--vad_filter", "True") == 1
    error = capsys.readouterr().err
    assert "pip install 'dualasr[vad]'" in error and "cannot be read" not in error


def test_a_name_longer_than_a_name_can_be():
    with pytest.raises(RunError, match="cannot be looked at"):
        find_inputs(["y" * 300], False)


def test_a_video_without_sound(run, tmp_path, capsys):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        for packet in stream.encode(av.VideoFrame(16, 16, "yuv420p")):
            container.mux(packet)
        container.mux(stream.encode(None))
    assert run(tmp_path / "a.mp4", "-o", tmp_path / "out") == 1
    assert "has no sound track" in capsys.readouterr().err


def test_silence_gives_empty_files(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    assert run(tmp_path / "a.wav", "-o", tmp_path / "out") == 0
    assert (
        (tmp_path / "out" / "a.txt").read_text() == (tmp_path / "out" / "a.srt").read_text() == ""
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--language", "kirgis"], "nearest: "),
        (["--languages", "en,xx"], "knows the language 'xx'"),
        (["--route", "west"], "west"),
        (["--clip_timestamps", "9,1"], "seconds that rise"),
        (["--batch_size", "0"], "at least 1"),
        (["--temperature", "-1"], "none below 0"),
        (["--language", "en", "--languages", "de"], "give one of them"),
        (["--task", "translate", "--route", "north"], "is the primary's"),
        (["--highlight_words", "True"], "need --word_timestamps"),
        (["--max_line_count", "2", "--word_timestamps", "True"], "needs --max_line_width"),
        (["--threads", "-1"], "--threads -1"),
        (["--device", "foo"], "--device foo"),
        (["--languages", " , "], "names no language"),
        (["--vad_threshold", "0.9"], "--vad_filter"),
        (["--detect_only", "--language", "en"], "leave --language"),
        (["--vad_min_silence_duration_ms", "5"], "--vad_filter"),
        (["--vad_filter", "True", "--vad_threshold", "2"], "threshold is 2.0"),
        (["--route", "north", "--language", "en"], "does not know 'en'"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_done(
    run, sounds, tmp_path, capsys, arguments, sentence
):
    assert run(sounds, "-o", tmp_path / "out", *arguments) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("dualasr: ")
        and sentence in error
        and "Traceback" not in error
        and error.count("\n") == 1
    )
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_a_clip_beyond_the_end_is_the_files_error(run, sounds, tmp_path, capsys):
    assert (
        run(
            sounds / "one.wav",
            sounds / "two.flac",
            "-o",
            tmp_path / "out",
            "-f",
            "txt",
            "--clip_timestamps",
            "1.5,2",
        )
        == 1
    )
    assert "one.wav" in capsys.readouterr().err and names(tmp_path / "out") == ["two.txt"]
    assert (
        run(
            sounds / "one.wav",
            "-o",
            tmp_path / "out",
            "-f",
            "txt",
            "--clip_timestamps",
            "0,0.5,1.5,2",
        )
        == 0
    )
    assert names(tmp_path / "out") == ["one.txt", "two.txt"]


def test_a_folder_that_cannot_be_looked_into_fails_and_the_others_are_done(
    run, sounds, tmp_path, capsys, monkeypatch
):
    look = os.scandir

    def scandir(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)  # whoever is root looks into everything
    assert run(sounds, "-r", "-o", tmp_path / "out", "-f", "txt") == 1
    error = capsys.readouterr().err
    assert f"dualasr: {sounds / 'deep'}: is a folder" in error and "1 failed" in error
    assert names(tmp_path / "out") == ["one.txt", "two.txt"]


def test_how_far_it_is_where_no_bar_is_drawn(run, sounds, tmp_path, capsys, monkeypatch):
    asked = ("-o", tmp_path / "out", "-f", "txt", "--batch_size", "1")
    assert run(sounds, *asked) == 0 and "of audio" not in capsys.readouterr().err, (
        "not every moment"
    )
    monkeypatch.setattr("dualasr.cli.transcribe.LINE_EVERY", 0.0)
    assert run(sounds, *asked) == 0
    assert "1 of 2 files; 3 s of audio, " in capsys.readouterr().err


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc").exists(), reason="root writes everywhere"
)
def test_an_output_folder_that_cannot_be_written(run, sounds, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(sounds, "-o", tmp_path / "file" / "below") == 1
    assert "--output_dir" in capsys.readouterr().err


def test_candidate_languages_hold_for_both_pipelines(run, sounds, tmp_path, capsys):
    asked = ("-o", tmp_path / "out", "-f", "json", "--verbose", "False")
    for languages, allowed in (
        ("Kyrgyz", {"ky"}),
        ("de,TURKISH", {"de", "tr"}),
        ("ky,en", {"ky", "en"}),
    ):
        assert run(sounds, *asked, "--languages", languages) == 0
        for path in (tmp_path / "out").iterdir():
            assert set(json.loads(path.read_text())["language_probs"]) <= allowed
    assert run(sounds, *asked, "--language", "German") == 0
    assert {json.loads(path.read_text())["language"] for path in (tmp_path / "out").iterdir()} == {
        "de"
    }


def test_detect_only_names_languages_and_writes_nothing(run, sounds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(sounds, "--detect_only") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [str(sounds / "one.wav"), str(sounds / "two.flac")]
    assert all(
        row[3] == ("north" if row[1] == "ky" else "primary") and 0 < float(row[2]) <= 1
        for row in rows
    )
    assert names(tmp_path) == ["packs", "sounds"]


def test_standard_input(run, clips, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    soundfile.write(buffer, clips[1], 16_000, format="WAV")
    buffer.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffer))
    assert run("-", "-o", tmp_path / "out", "-f", "txt", "--route", "north") == 0
    assert names(tmp_path / "out") == ["stdin.txt"]
    assert run_alone(run, clips[1], tmp_path) == (tmp_path / "out" / "stdin.txt").read_text()


def test_a_video_by_standard_input_and_what_is_none(run, clips, tmp_path, monkeypatch, capsys):
    av = pytest.importorskip("av")
    for suffix, codec in (("mp4", "aac"), ("webm", "libopus")):
        with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                np.repeat(clips[1], 3)[None].astype(np.float32), "fltp", "mono"
            )
            frame.sample_rate = 48_000
            sized = av.AudioResampler(
                stream.format, rate=48_000, frame_size=stream.frame_size or 960
            )
            for part in [*sized.resample(frame), *sized.resample(None), None]:
                container.mux(stream.encode(part))
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / f"a.{suffix}").read_bytes()))
        )
        assert run("-", "-o", tmp_path / suffix, "-f", "json") == 0
        heard = json.loads((tmp_path / suffix / "stdin.json").read_text())["duration"]
        assert heard == pytest.approx(len(clips[1]) / 16_000, abs=0.1)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no sound at all")))
    assert run("-", "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("dualasr: -: cannot be read as audio")


def run_alone(run, clip, tmp_path) -> str:
    soundfile.write(tmp_path / "same.wav", clip, 16_000)
    assert (
        run(tmp_path / "same.wav", "-o", tmp_path / "alone", "-f", "txt", "--route", "north") == 0
    )
    return (tmp_path / "alone" / "same.txt").read_text()


def test_a_torchaudio_that_does_not_load_stops_the_word_times_of_packs_alone(
    tiny_folder, sounds, run, tmp_path
):
    library = "libcudart.so.13: cannot open shared object file"
    (tmp_path / "broken" / "torchaudio").mkdir(parents=True)
    code = f"raise OSError('Could not load this library: /x.so') from OSError({library!r})"
    (tmp_path / "broken" / "torchaudio" / "__init__.py").write_text(code)
    pack = tmp_path / "packs" / "north"
    asked = ["transcribe", str(sounds), "--base", str(tiny_folder), "--pack", str(pack), *EAGER]
    commands = {
        "plain": ["--route", "north"],
        "words": ["--word_timestamps", "True"],
        "primary": ["--route", "primary", "--word_timestamps", "True"],
    }
    arguments = [[*asked, *more, "-o", str(tmp_path / name)] for name, more in commands.items()]
    code = "import json, sys; from dualasr.cli.main import main; "
    code += "print([main(a) for a in json.loads(sys.argv[1])])"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "broken")},
    )
    assert done.returncode == 0 and done.stdout.endswith("[0, 1, 0]\n"), done.stderr
    fault = "The word times of packs need torchaudio, and it cannot be loaded with torch "
    fault += f"{torch.__version__} (OSError: {library}); install a torchaudio that was built for "
    fault += "the same device as torch"
    warning = "What a pack writes is not cut into sentences: " + fault
    assert done.stderr.count(warning) == 1, "a warning, once for all files"
    assert done.stderr.count(f"dualasr: {fault}") == 1 and "Traceback" not in done.stderr
    assert run(sounds, "-o", tmp_path / "whole", "--route", "north") == 0
    for name in ("one.txt", "two.txt"):
        plain, whole = ((tmp_path / folder / name).read_text() for folder in ("plain", "whole"))
        assert plain.split() == whole.split() != []
    assert names(tmp_path / "words") == [], "refused before anything is decoded"
    [first, *_] = json.loads((tmp_path / "primary" / "one.json").read_text())["segments"]
    assert first["words"]


def test_interrupted_with_finished_files_kept(tiny_folder, clips, tmp_path):
    for k in range(300):
        soundfile.write(tmp_path / f"{k:03}.wav", clips[3], 16_000)
    command = [
        sys.executable,
        "-m",
        "dualasr",
        "transcribe",
        str(tmp_path),
        "-o",
        str(tmp_path / "out"),
        "-f",
        "txt",
        "--base",
        str(tiny_folder),
        "--batch_size",
        "2",
        *EAGER,
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # a job in the background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "out").glob("00?.txt")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error and "Traceback" not in error
    done = names(tmp_path / "out")
    assert 0 < len(done) < 300 and all(name.endswith(".txt") for name in done)
