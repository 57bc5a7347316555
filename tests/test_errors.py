"""Messages are one line, and what a file holds cannot command the terminal."""

import pytest

from dualasr.data.corpus import load_corpus
from dualasr.errors import CorpusError, DualasrError, MissingExtraError, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\u2028", r"a\nb\r\u2028"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("name\udcff", r"name\udcff"),
        ("می\u200cشود\tक्\u200dष Ўзбек\u00a0O\u02bb", "می\u200cشود\tक्\u200dष Ўзбек\u00a0O\u02bb"),
    ],
)
def test_only_what_changes_the_line_is_escaped(text, shown):
    assert visible(text) == shown == str(DualasrError(text))
    assert visible(shown) == shown


def test_an_error_with_two_parents_says_its_sentence():
    assert str(MissingExtraError("av", "av")).startswith("av is not installed; install it with: ")


def test_a_column_whose_name_is_many_lines_does_not_break_the_message(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'audio,"te\x1b[2J\nxt\n",a\nb.wav,c,d\n')
    with pytest.raises(CorpusError) as caught:
        load_corpus(tmp_path, None, default_language="ky")
    assert r"te\x1b[2J\nxt" in str(caught.value) and str(caught.value).isprintable()
