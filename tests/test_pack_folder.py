"""Packs by path, folder and name; adding and removing them leaves whole packs or none."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile

from dualasr.cli.main import main
from dualasr.errors import PackError, RunError
from dualasr.evaluation.scoring import MODES
from dualasr.model.pack import Pack, PackInfo
from dualasr.packs.folder import add_pack, find_packs, packs_dir, remove_pack
from dualasr.packs.format import read_pack, save_pack

LANGUAGES = {"north": ("ky", "Kyrgyz"), "west": ("ga", "Irish"), "twin": ("ky", "Kyrgyz")}


@pytest.fixture
def save(backbone, make_secondary):
    def save(folder, name=None):
        code, language = LANGUAGES[Path(name or folder.name).name]
        save_pack(
            folder,
            Pack(
                PackInfo(name or folder.name, {code: language}), make_secondary(backbone, (code,))
            ),
            backbone,
        )
        return folder

    return save


@pytest.fixture
def installed(save, tmp_path, monkeypatch):
    """A packs folder with north and west in it; the test stands in an empty folder."""
    folder = tmp_path / "packs"
    save(folder / "west"), save(folder / "north")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("DUALASR_PACKS", str(folder))
    return folder


def spoil(pack):
    with (pack / "decoder.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def test_the_packs_folder_is_the_flags_then_the_variables_then_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("DUALASR_PACKS", str(tmp_path / "named"))
    assert packs_dir(tmp_path) == tmp_path and packs_dir() == tmp_path / "named"
    monkeypatch.setenv("DUALASR_PACKS", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert packs_dir().name == "packs" and packs_dir().is_relative_to(tmp_path / "data")
    assert not (tmp_path / "data").exists(), "asking makes nothing"


def test_a_path_a_folder_of_packs_and_a_name_stand_for_the_same_packs(installed):
    north, west = installed / "north", installed / "west"
    (installed / "north.run").mkdir()
    (installed / ".west.part").mkdir()
    assert find_packs([west], installed) == [west]
    assert find_packs([installed], installed / "nowhere") == [
        north,
        west,
    ], "sorted; runs and unfinished packs are none"
    assert find_packs(["west", "north"], installed) == [
        west,
        north,
    ], "in the order they were asked for"
    assert find_packs(["west", installed, north], installed) == [west, north], "each once"
    assert find_packs([], installed) == []


def test_a_pack_that_stands_here_goes_before_one_of_its_name(installed, save):
    here = save(installed.parent / "elsewhere" / "north")
    assert [path.resolve() for path in find_packs(["north"], installed)] == [here.resolve()]
    shutil.rmtree(here)
    here.mkdir()
    assert find_packs(["north"], installed) == [installed / "north"], (
        "a folder that is no pack hides none"
    )


@pytest.mark.parametrize(
    "wanted, near", [("nort", "north"), ("qqq", "north, west"), ("../packs/wst", "../packs/west")]
)
def test_what_is_no_pack_is_refused_with_the_nearest_names(installed, wanted, near):
    with pytest.raises(PackError, match="no pack") as refused:
        find_packs(["west", wanted], installed)
    assert (
        wanted in str(refused.value)
        and str(installed) in str(refused.value)
        and f"nearest: {near}" in str(refused.value)
    )


def test_a_pack_without_its_pack_json_is_not_passed_over(installed):
    (installed / "north" / "pack.json").unlink()
    with pytest.raises(
        PackError, match=f"{installed}/north has the files of a pack but no pack.json"
    ):
        find_packs([installed], installed)


def test_a_damaged_or_foreign_pack_among_several_is_named(
    tiny_folder, installed, clips, capsys, tmp_path
):
    soundfile.write(tmp_path / "clip.wav", clips[0], 16_000)
    command = ["transcribe", str(tmp_path / "clip.wav"), "--pack", str(installed), "--base"]
    assert main([*command, str(tiny_folder)]) == 0
    capsys.readouterr()
    assert main([*command, "micro"]) == 1
    assert f"{installed}/north was trained on" in capsys.readouterr().err
    spoil(installed / "west")
    assert main([*command, str(tiny_folder)]) == 1
    assert f"{installed}/west/decoder.safetensors was changed" in capsys.readouterr().err


def test_two_packs_of_a_language_are_refused_with_both_paths(
    tiny_folder, installed, save, clips, capsys, tmp_path
):
    twin = save(tmp_path / "twin")
    soundfile.write(tmp_path / "clip.wav", clips[0], 16_000)
    assert (
        main(
            [
                "transcribe",
                str(tmp_path / "clip.wav"),
                "--base",
                str(tiny_folder),
                "--pack",
                "north",
                "--pack",
                "west",
                "--pack",
                str(twin),
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert (
        "both hold ky" in error
        and str(installed / "north") in error
        and str(twin) in error
        and "west" not in error
    )


def test_list_has_a_line_for_every_folder(installed, save, capsys):
    spoil(installed / "north")
    save(installed / "zulu", "twin")
    (installed / "old.run").mkdir()
    (installed / "notes.txt").write_text("no folder")
    assert main(["packs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    checksum = read_pack(installed / "west")["base"]["checksum"][:12]
    assert [line.split(":")[0] for line in lines] == ["north", "old.run", "west", "zulu"]
    assert "not usable" in lines[0] and "was changed" in lines[0] and "no pack.json" in lines[1]
    assert (
        "Irish (ga)" in lines[2]
        and checksum in lines[2]
        and " MB" in lines[2]
        and "the pack 'twin'" in lines[3]
    )


def test_list_of_an_empty_folder_says_what_fills_it(tmp_path, capsys):
    assert main(["packs", "list", "--packs_dir", str(tmp_path / "none")]) == 0
    assert f"no packs in {tmp_path / 'none'}; dualasr packs add" in capsys.readouterr().out


def test_show_and_verify_go_by_name_and_on_after_a_damaged_one(installed, capsys):
    spoil(installed / "north")
    assert main(["packs", "verify", "qqq", "north", "west"]) == 1
    out = capsys.readouterr()
    assert f"west: {len(read_pack(installed / 'west')['files'])} files verified" in out.out
    assert "no pack at qqq" in out.err and "north/decoder.safetensors was changed" in out.err
    assert main(["packs", "show", "west"]) == 0
    assert "west: Irish (ga)" in capsys.readouterr().out


def test_added_is_what_was_there_and_a_taken_name_is_refused(tmp_path, save, capsys):
    source, folder = save(tmp_path / "made" / "here", "north"), tmp_path / "packs"
    (source / "notes.txt").write_text("not the pack's")
    assert main(["packs", "add", str(source), "--packs_dir", str(folder)]) == 0
    assert f"added {folder / 'north'}" in capsys.readouterr().out
    assert (
        read_pack(folder / "north") == read_pack(source)
        and not (folder / "north" / "notes.txt").exists()
    )
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    with pytest.raises(PackError, match="is there already"):
        add_pack(source, folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_a_damaged_pack_or_one_with_a_path_for_a_name_is_not_added(tmp_path, save):
    source, folder = save(tmp_path / "made", "north"), tmp_path / "packs"
    spoil(source)
    with pytest.raises(PackError, match="was changed"):
        add_pack(source, folder)
    climbing = save(tmp_path / "climbing", "../west")
    with pytest.raises(PackError, match="cannot be the name of a folder"):
        add_pack(climbing, folder)
    assert not folder.exists()


def test_a_full_disk_adds_nothing(tmp_path, save):
    import resource
    import signal

    source, folder = save(tmp_path / "north"), tmp_path / "packs"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(RunError, match="Nothing was added"):
            add_pack(source, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(folder.iterdir()) == []


def test_removed_by_name_is_gone_and_the_others_stand(installed, save, capsys):
    here = save(installed.parent / "elsewhere" / "north")
    spoil(installed / "north")
    assert main(["packs", "remove", "north"]) == 0, "a damaged pack can be removed"
    assert f"removed {installed / 'north'}" in capsys.readouterr().out
    assert [path.name for path in installed.iterdir()] == ["west"] and here.is_dir()


def test_outside_the_packs_folder_only_a_whole_path_removes(installed, save, monkeypatch):
    here = save(installed.parent / "elsewhere" / "twin")
    for wanted in ("./twin", "../elsewhere/twin"):
        with pytest.raises(PackError, match=f"give its whole path: {here}"):
            remove_pack(wanted, installed)
    with pytest.raises(PackError, match="Nothing was removed"):
        remove_pack("twin", installed)
    monkeypatch.chdir(installed)
    assert remove_pack("./west", installed) == installed / "west"
    assert remove_pack(here, installed) == here and not here.exists()


def test_what_is_no_pack_or_more_than_one_is_not_removed(installed):
    (installed / "north" / "recordings").mkdir()
    (installed / "plain").mkdir()
    for wanted, why in (
        ("plain", "no pack"),
        (installed, "no pack"),
        ("..", "no pack"),
        ("north", "more than a pack"),
    ):
        with pytest.raises(PackError, match=why):
            remove_pack(wanted, installed)
    assert (installed / "north" / "recordings").is_dir() and (installed / "plain").is_dir()


def test_of_a_link_only_the_link_is_removed(installed, save, tmp_path):
    target = save(tmp_path / "twin")
    (installed / "linked").symlink_to(target)
    remove_pack("linked", installed)
    assert sorted(path.name for path in installed.iterdir()) == ["north", "west"]
    assert read_pack(target)["name"] == "twin"


def test_what_was_measured_stays_with_a_pack(tmp_path, installed, capsys):
    row = {
        mode: {"cer": 0.1, "wer": 0.3, "cer_interval": [0, 1], "wer_interval": [0, 1]}
        for mode in MODES
    }
    for name, packs in (("before", []), ("after", ["north"])):
        report = {
            "languages": {"en": row | {"known": True}, "ky": row | {"known": bool(packs)}},
            "decoded": {},
            "packs": [{"name": pack} for pack in packs],
            "routing": {"accuracy": 1.0, "confusion": {"en": {"primary": 1}}},
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    asked = ["packs", "measured", "--packs-dir", str(installed), "north"]
    assert main([*asked, str(tmp_path / "before.json"), str(tmp_path / "after.json")]) == 0
    assert "base, + north" in capsys.readouterr().out
    assert "| + north | 10.0 | 10.0 |" in (installed / "north" / "regression.md").read_text()
    assert "regression.png" in read_pack(installed / "north")["files"]
    (tmp_path / "no.json").write_text("[]")
    assert (
        main([*asked, str(tmp_path / "no.json")]) == 1 and "not reports" in capsys.readouterr().err
    )
