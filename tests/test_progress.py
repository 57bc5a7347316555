"""Long work says how far it is: in a log, a line from time to time."""

import logging

import pytest

from dualasr import progress
from dualasr.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves, and no terminal."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.os, "isatty", lambda _: False)
    return now


def test_a_log_gets_a_line_every_half_minute(clock, caplog):
    with caplog.at_level(logging.INFO, "dualasr"):
        bar = progress_bar(desc="train", total=40, unit="step", initial=10)
        for _ in range(30):
            clock[0] += 12
            bar.set_postfix_str("loss 1.25", refresh=False)
            bar.update()
        bar.close()
    lines = [record.getMessage() for record in caplog.records]
    # after 36 s three of thirty steps are done, so 27 of 12 s are left
    assert lines[0] == "  train: 13 of 40 steps, 5 min left; loss 1.25"
    assert len(lines) == 10 and lines[-1].startswith("  train: 40 of 40 steps, 0 s left")


def test_several_of_a_unit_are_called_so(clock, caplog):
    with caplog.at_level(logging.INFO, "dualasr"):
        for _ in progress_bar([1, 2], desc="calibration", total=2, unit="batch"):
            clock[0] += 40
    assert caplog.records[0].getMessage() == "  calibration: 1 of 2 batches, 40 s left"


def test_short_work_has_no_line(clock, caplog):
    with caplog.at_level(logging.INFO, "dualasr"):
        assert list(progress_bar("abc", desc="x", total=3, unit="clip")) == ["a", "b", "c"]
        clock[0] += 1000
        assert list(progress_bar("abc", desc="x", total=3, unit="clip", shown=False)) == [*"abc"]
    assert not caplog.records


def test_a_terminal_gets_a_bar(clock, monkeypatch, capsys, caplog):
    monkeypatch.setattr(progress.os, "isatty", lambda _: True)
    for _ in progress_bar([1, 2], desc="trunk activations", total=2, unit="clip"):
        clock[0] += 100
    assert "trunk activations" in capsys.readouterr().err and not caplog.records
