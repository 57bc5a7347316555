"""Files and folders that appear whole or not at all."""

import pytest

from dualasr.atomic import whole_file, whole_folder


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.json"
    with whole_file(path) as part:
        part.write_text("one")
        assert not path.exists() and part.suffix == ".json"
    assert path.read_text() == "one" and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_failure_leaves_what_stood_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "a"
    with whole_folder(path) as part:
        (part / "one").write_text("1")
        assert not path.exists()
    assert (path / "one").read_text() == "1" and [p.name for p in path.parent.iterdir()] == ["a"]


def test_a_folder_is_not_left_half_filled_nor_another_replaced(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt), whole_folder(path) as part:
        (part / "one").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    path.mkdir()
    (path / "before").touch()
    with pytest.raises(OSError), whole_folder(path) as part:
        (part / "one").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and [p.name for p in path.iterdir()] == ["before"]
