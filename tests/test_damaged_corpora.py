"""Damaged files of every layout: rows, skipped rows with a reason, or one CorpusError; no row is
lost, and no other exception is raised. tests/fuzz_readers.py fuzzes the same functions for longer.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualasr.data.captions import parse_subtitles
from dualasr.data.corpus import load_corpus
from dualasr.data.elan import parse_elan
from dualasr.data.encoding import Encodings
from dualasr.data.textgrid import parse_textgrid
from dualasr.errors import CorpusError

SRT = """1
00:00:00,500 --> 00:00:01,000 X1:10
<i>Кар &amp; муз</i> {\\an8}жаады\\N

2
00:00:01,000 --> 00:00:02,000
Ат

суу ичти
3
00:01.500 --> 00:02.000

"""
VTT = """WEBVTT - a
Kind: captions

STYLE
::cue { color: red }

NOTE not
said

00:00:00.160 --> 00:00:01.429 align:start
<v Ana>good<00:00:00.960><c> morning</c>

00:00:01.429 --> 00:00:01.439
good morning

00:00:01.439 --> 00:00:02.000
good morning
<ruby>all<rt>x</rt></ruby>
"""
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"
xmin = 1
xmax = 3
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 1
        xmax = 3
        intervals: size = 2
        intervals [1]:
            xmin = 1
            xmax = 1.5
            text = "sch\\o""n ""x"" y"
        intervals [2]:
            xmin = 1.5
            xmax = 3
            text = ""
    item [2]:
        class = "TextTier"
        name = "bell"
        xmin = 1
        xmax = 3
        points: size = 1
        points [1]:
            number = 1.5
            mark = "ding"
"""
ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="file:///x/my%20talk.wav"
 RELATIVE_MEDIA_URL="./talk.wav" TIME_ORIGIN="100"/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="2"/>
<TIME_SLOT TIME_SLOT_ID="3" TIME_VALUE="1500"/></TIME_ORDER>
<TIER TIER_ID="s" PARTICIPANT="Ana"><ANNOTATION>
<ALIGNABLE_ANNOTATION ANNOTATION_ID="a" TIME_SLOT_REF1="1" TIME_SLOT_REF2="2">
<ANNOTATION_VALUE>Кар &lt;ак&gt;</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION><ANNOTATION>
<ALIGNABLE_ANNOTATION ANNOTATION_ID="b" TIME_SLOT_REF1="2" TIME_SLOT_REF2="3">
<ANNOTATION_VALUE>жаады</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="w" PARENT_REF="s">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="d" ANNOTATION_REF="a" PREVIOUS_ANNOTATION="c">
<ANNOTATION_VALUE>ак</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="c" ANNOTATION_REF="a">
<ANNOTATION_VALUE>Кар</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
</ANNOTATION_DOCUMENT>
"""
CSV = (
    "sep=;\nfile;text;start;end;split\n"
    'a.wav;"Кар; ""ак""";0,5;1;train\nclips\\b.wav;Ат\u200b;;;dev\n'
)
TSV = "audio\ttext\na.wav\tКар\nb.wav\tАт ичти\n"
JSONL = (
    '{"audio": "a.wav", "text": "Кар", "start": 0.5, "end": 1, "lang": "ky"}\n'
    '{"audio": "b.wav", "text": "Ат", "id": "b", "speaker": 5, "split": "dev"}\n'
)
METADATA = '{"file_name": "a.wav", "transcription": "Кар"}\n{"file_name": "b.wav", "text": "Ат"}\n'
SEGMENTS = "u1 r1 0.5 1.0 0\nu2 r1 1 -1\nu3 r2 0 1 1\n"
VOICE = "client_id\tpath\tsentence\tlocale\nc\ta.wav\tКар\tky\nd\tb.wav\tАт\tky\n"
FLEURS = "1\ta.wav\tКар\tкар\tк а р\t32000\tMALE\n2\tb.wav\tАт\tат\tа т\t32000\tMALE\n"

# kind: the file that is damaged, and what it holds
SEEDS = {
    "srt": ("talk.srt", SRT),
    "vtt": ("talk.vtt", VTT),
    "textgrid": ("talk.TextGrid", TEXTGRID),
    "elan": ("talk.eaf", ELAN),
    "csv": ("rows.csv", CSV),
    "tsv": ("rows.tsv", TSV),
    "jsonl": ("manifest.jsonl", JSONL),
    "audiofolder": ("metadata.jsonl", METADATA),
    "kaldi": ("segments", SEGMENTS),
    "common-voice": ("train.tsv", VOICE),
    "fleurs": ("train.tsv", FLEURS),
}
_PARSERS = {
    "srt": parse_subtitles,
    "vtt": parse_subtitles,
    "textgrid": parse_textgrid,
    "elan": parse_elan,
}
_TIMES = re.compile(r"\d\d:\d\d:\d\d[,.]\d{3} --> \d\d:\d\d:\d\d[,.]\d{3}")
_ONE_A_LINE = ("jsonl", "kaldi", "common-voice", "fleurs", "audiofolder")


def prepared(folder: Path, kind: str) -> Path:
    """Write what stands beside the damaged file of a kind, and return the corpus."""
    sounds = {"common-voice": "clips", "fleurs": "audio/train"}.get(kind, "")
    for name in ("talk.wav", "a.wav", "b.wav", "clips/b.wav"):
        path = folder / sounds / name
        if not path.is_file() and not (sounds and "/" in name):
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(32_000), 16_000)
    if kind == "kaldi":
        (folder / "wav.scp").write_text("r1 a.wav\nr2 b.wav\n")
        (folder / "text").write_text("")
    return folder


def check(folder: Path, kind: str, content: bytes) -> None:
    """Read a corpus whose file holds these bytes, and count.

    Raises whatever the reader raises but CorpusError.
    """
    (folder / SEEDS[kind][0]).write_bytes(content)
    try:
        corpus = load_corpus(folder, None, default_language="ky", require_text=kind != "kaldi")
    except CorpusError as error:
        assert "\n" not in str(error) and str(folder) in str(error), error
        return
    assert not any("\n" in row.reason for row in corpus.skipped), corpus.skipped
    counted = len(corpus.utterances) + len(corpus.skipped)
    text = content.decode("utf-8", "replace")
    if kind in _PARSERS:
        try:
            text = Encodings("ky").decode(content, "x")
            read = _PARSERS[kind](text)
        except ValueError:
            assert counted == 1
            return
        filled = [s for _, s in read if isinstance(s, str) or s.text.split()]
        assert counted == len(filled)
        lines = len(re.split("\r\n|\r|\n", text))
        assert all(1 <= line <= lines for line, _ in read)
        if kind in ("srt", "vtt"):
            whole = [line for line in re.split("\r\r\n|[\r\n]", text) if _TIMES.fullmatch(line)]
            assert len(read.segments) + read.repeats >= len(whole)
    elif kind in _ONE_A_LINE and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        end = b"\n" if b"\n" in content else b"\r"
        rows = sum(bool(line.strip()) for line in content.split(end))
        assert counted == rows - (kind == "common-voice")


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A few changes to bytes or lines, as transfers, editors and mistakes make them."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        to = draw(st.integers(at, min(len(content), at + 60)))
        change = draw(st.sampled_from(["cut", "put", "twice", "swap", "ends", "line", "flip"]))
        odd = draw(
            st.sampled_from(
                [b"\n", b"\r", b"\0", b'"', b"'", b"\\", b"<", b">", b"{", b"-->", b"1e999", b"-1"]
                + [b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\x8b", b"NaN", b"..", b"9" * 5000]
            )
            | st.binary(max_size=6)
        )
        if change == "cut":
            content = content[:at] + content[to:]
        elif change == "put":
            content = content[:at] + odd + content[at:]
        elif change == "twice":
            content = content[:to] + content[at:]
        elif change == "swap":
            content = content[:at] + odd + content[to:]
        elif change == "ends":
            content = content.replace(
                b"\n", draw(st.sampled_from([b"\r", b"\r\n", b"\r\r\n", b""]))
            )
        elif change == "line":
            lines = content.split(b"\n")
            del lines[draw(st.integers(0, len(lines) - 1))]
            content = b"\n".join(lines)
        elif change == "flip" and content:
            i = min(at, len(content) - 1)
            content = content[:i] + bytes([content[i] ^ (1 << (to % 8))]) + content[i + 1 :]
    return content


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", SEEDS)
def test_whole_files_are_read(tmp_path, kind, end):
    check(prepared(tmp_path, kind), kind, SEEDS[kind][1].replace("\n", end).encode())
    corpus = load_corpus(tmp_path, None, default_language="ky", require_text=kind != "kaldi")
    assert len(corpus.utterances) >= (1 if kind in ("textgrid", "audiofolder") else 2)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", SEEDS)
@given(data=st.data())
def test_damaged_files_are_rows_or_a_sentence(tmp_path, kind, data):
    """Each example writes its file over the one before."""
    check(prepared(tmp_path, kind), kind, data.draw(damaged(SEEDS[kind][1].encode())))
