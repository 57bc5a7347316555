"""The command that a result names: it holds every option, and makes the same again."""

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import soundfile

from dualasr.cli.again import command_line
from dualasr.cli.loading import model_command
from dualasr.cli.main import build_parser, main
from dualasr.model.pack import Pack, PackInfo
from dualasr.packs.format import save_pack
from dualasr.training.quickstart import QuickstartOptions, command_of

RECIPES = Path(__file__).parents[1] / "recipes" / "fleurs"
NASTY = 'it\'s a $(name); with "quotes" *'


def parse(command: str) -> argparse.Namespace:
    """Parse a command as a shell hands it over."""
    program, *words = shlex.split(command)
    assert program == "dualasr"
    return build_parser().parse_args(words)


def parser_of(name: str) -> argparse.ArgumentParser:
    commands = next(a for a in build_parser()._actions if isinstance(a.choices, dict))
    return commands.choices[name]


def sample(action: argparse.Action) -> list[str]:
    """Words for an option, with a value that is not its default."""
    flag = action.option_strings[:1]
    if action.nargs == 0:
        return flag
    value = {int: "7", float: "0.25"}.get(action.type, NASTY)
    if action.choices:
        value = [choice for choice in action.choices if choice != action.default][-1]
    count = action.nargs if isinstance(action.nargs, int) else 1
    words = [*flag, *[value] * count]
    return [*words, *flag, "other"] if action.default == [] else words


@pytest.mark.parametrize("name", ["evaluate", "calibrate", "compare"])
def test_every_option_is_in_the_command(name):
    """The options are those of the parser, so a new one is tried, too."""
    actions = [action for action in parser_of(name)._actions if action.dest != "help"]
    words = [word for action in actions for word in sample(action)]
    args = build_parser().parse_args([name, *words])
    again = parse(command_line(args))
    for action in actions:
        asked = getattr(args, action.dest)
        assert asked != action.default, action.dest
        assert getattr(again, action.dest) == asked, action.dest


@pytest.mark.parametrize("name", ["evaluate", "calibrate", "compare"])
def test_defaults_are_in_the_command(name):
    """So that a later version with another default makes the same."""
    parser = parser_of(name)
    needed = [word for a in parser._actions if a.required for word in sample(a)]
    command = command_line(build_parser().parse_args([name, *needed]))
    for action in parser._actions:
        if action.default not in (None, [], argparse.SUPPRESS):
            assert shlex.join([action.option_strings[0], str(action.default)]) in command


def test_words_are_quoted_and_paths_below_the_working_directory_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser(prog="dualasr try")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--yes", "-y", action="store_true")
    parser.add_argument("--no", action="store_true")
    parser.add_argument("--tier", "-t")
    parser.add_argument("--language", action="append", default=[])
    parser.add_argument("--none")
    words = ["a b", str(tmp_path / "c"), "/elsewhere/d", "--yes", "--tier=-x", "--language", "ky"]
    args = parser.parse_args([*words, "--language", "it's"])
    args.parser = parser
    assert command_line(args) == (
        "dualasr try --yes --tier=-x --language ky --language 'it'\"'\"'s' 'a b' c /elsewhere/d"
    )
    args.files = [tmp_path]
    assert command_line(args).endswith(" ."), "not an empty word"


def test_a_pack_that_is_found_by_name_needs_its_folder(tmp_path, monkeypatch):
    """The folder can come from the environment, which another shell does not have."""
    monkeypatch.setenv("DUALASR_PACKS", str(tmp_path / "elsewhere"))
    asked = ["evaluate", "--corpus", ".", "--report", "out.json"]
    assert "--packs_dir" not in model_command(build_parser().parse_args(asked))
    args = build_parser().parse_args([*asked, "--pack", "north"])
    assert parse(model_command(args)).packs_dir == tmp_path / "elsewhere"
    args = build_parser().parse_args([*asked, "--pack", "north", "--packs_dir", "mine"])
    assert parse(model_command(args)).packs_dir == Path("mine")


@pytest.fixture
def corpus(tmp_path, clips):
    """Clips of three languages in a folder, the texts in a column with a space in its name."""
    folder = tmp_path / "my corpus"
    folder.mkdir()
    lines = ["audio,said by her,lang,split"]
    for i, (code, clip) in enumerate(zip(("ky", "en", "ky", "ga"), clips, strict=True)):
        soundfile.write(folder / f"{i}.wav", clip, 16_000)
        lines.append(f"{i}.wav,{'...' if i == 2 else 'one two three'},{code},dev")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_command_of_a_report_makes_it_again(
    corpus, tiny_folder, backbone, make_secondary, tmp_path, monkeypatch, capsys
):
    pack = Pack(PackInfo("north", {"ky": "Kyrgyz"}), make_secondary(backbone, decoder="ctc"))
    save_pack(tmp_path / "my packs" / "north", pack, backbone)
    (tmp_path / "a selector.json").write_text('{"tau": 0.25, "beta": -0.125, "floors": {}}')
    monkeypatch.chdir(corpus)
    monkeypatch.setenv("DUALASR_PACKS", str(tmp_path / "my packs"))
    asked = ["--corpus", ".", "--split", "dev", "--language", "ky", "--language", "en"]
    asked += ["--column", "text=said by her", "--base", str(tiny_folder), "--pack", "north"]
    asked += ["--selector", "../a selector.json", "--beam", "2", "--batch", "3"]
    out = tmp_path / "the reports" / "out.json"
    assert main(["evaluate", *asked, "--report", str(out)]) == 0
    first = json.loads(out.read_text())
    assert set(first["languages"]) == {"ky", "en"} and first["settings"]["beam"] == 2
    assert first["settings"]["selector"]["tau"] == 0.25 and first["packs"][0]["name"] == "north"
    assert first["empty_references"]["ky"]["marks"]["n"] == 1
    for ending in ("md", "html"):
        assert "--column" in out.with_suffix(f".{ending}").read_text()
    assert f"```sh\n{first['command']}\n```" in out.with_suffix(".md").read_text()

    monkeypatch.delenv("DUALASR_PACKS")
    for path in [*out.parent.glob("out.*"), *(out.parent / "answers").iterdir()]:
        path.unlink()
    words = subprocess.check_output(
        ["sh", "-c", f"printf '%s\\0' {first['command']}"], text=True
    ).split("\0")
    assert main(words[1:-1]) == 0, "as a shell reads it"
    second = json.loads(out.read_text())
    for report in (first, second):
        del report["seconds"], report["real_time_factor"]
    assert second == first


def test_the_command_of_a_quickstart_has_all_its_settings(tmp_path):
    options = QuickstartOptions(
        tmp_path / "my run", "tiny base", 3, 7, Path("more text"), 5, 2, limit=9
    )
    command = command_of(options)
    assert str(tmp_path) not in command, "packs carry it"
    args = vars(parse(command))
    for field in fields(options):
        asked, default = getattr(options, field.name), field.default
        assert asked != default, f"{field.name} is to be tried with another value"
        assert args[field.name] == (Path("my run") if field.name == "out" else asked), field.name
    assert "limit" not in parse(command_of(QuickstartOptions(tmp_path)))


def test_the_command_of_a_recipe_is_what_was_typed(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(sys, "argv", ["compare.py", "ky_kg", "--out", NASTY])
    import add_language

    parser = argparse.ArgumentParser(prog="compare.py")
    parser.add_argument("config")
    parser.add_argument("--out")
    commands = []
    assert add_language.run(lambda args: commands.append(args.command) or 0, parser, None) == 0
    assert shlex.split(commands[0]) == ["python", "recipes/fleurs/compare.py", *sys.argv[1:]]
