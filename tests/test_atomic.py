"""Files and folders that appear whole or not at all."""

import os

import pytest

from dualasr.atomic import atomic_file, atomic_folder
from dualasr.errors import RunError


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_file(path) as part:
        part.write_text("one")
        assert not path.exists() and part.suffix == ".json"
    assert path.read_text() == "one" and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_failure_leaves_what_stood_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "a"
    with atomic_folder(path) as part:
        (part / "one").write_text("1")
        assert not path.exists()
    assert (path / "one").read_text() == "1" and [p.name for p in path.parent.iterdir()] == ["a"]


def test_a_folder_is_not_left_half_filled_nor_another_replaced(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as part:
        (part / "one").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    path.mkdir()
    (path / "before").touch()
    with (
        pytest.raises(RunError, match="Cannot write .*a: .*Free some space"),
        atomic_folder(path) as part,
    ):
        (part / "one").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.iterdir()] == [
        "before"
    ]


def test_a_folder_takes_anothers_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    (path / "before").touch()
    with pytest.raises(RunError, match="the pack a: no space. Go elsewhere"):
        with atomic_folder(
            path, replace=True, name="the pack a", advice="Go elsewhere.", errors=(MemoryError,)
        ) as part:
            (part / "one").touch()
            raise MemoryError("no space.")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.iterdir()] == [
        "before"
    ]
    with atomic_folder(path, replace=True) as part:
        (part / "one").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.iterdir()] == [
        "one"
    ]


def test_a_killed_exchange_of_folders_leaves_one_of_them(tmp_path, monkeypatch):
    path, replace = tmp_path / "a", os.replace
    path.mkdir()
    (path / "before").touch()

    def killed(source, target):
        if source.name.endswith(".part"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, replace=True) as part:
        (part / "one").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.iterdir()] == [
        "before"
    ]
