"""Files that appear whole or not at all."""

import pytest

from dualasr.whole_file import whole_file


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
