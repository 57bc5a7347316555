"""Long recordings with a transcript beside them: what each format says, and what cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dualasr.audio.load import load_audio
from dualasr.data.annotations import Annotation, parse_elan, parse_subtitles, parse_textgrid
from dualasr.data.corpus import load_corpus
from dualasr.errors import CorpusError

RAMP = np.arange(64_000, dtype=np.float32) / 64_000  # 4 s

SRT = """1
00:00:02,500 --> 00:00:03,750
<i>Кар жаады.</i>
Тоодо.

2
00:00:00,000 --> 00:00:01,000 X1:10
{\\an8}Ат 5 < 6 ичти

3
00:00:01.500 --> 00:00:02.000

"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE not
said

intro
00:02.500 --> 00:03.750 align:start
<v Ana>Кар &amp; <00:03.000><c.loud>тоо</c>

00:00:00.000 --> 00:00:01.000
Ат
"""
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 4
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words 1"
        xmin = 0
        xmax = 4
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 2.5
            text = ""
        intervals [2]:
            xmin = 2.5
            xmax = 3.75
            text = "Кар ""ак"" ! 7
 жаады"
    item [2]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 4
        points: size = 1
        points [1]:
            number = 1.5
            mark = "ding"
    item [3]:
        class = "IntervalTier"
        name = "free"
        xmin = 0
        xmax = 4
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "Ат"
"""
SHORT = """File type = "ooTextFile"
"TextGrid"

0
4
<exists>
3
"IntervalTier"
"words 1"
0
4
2
0
2.5
""
2.5
3.75
"Кар ""ак"" ! 7
 жаады"
"TextTier" ! a comment with 9 numbers and "strings"
"bell"
0
4
1
1.5
"ding"
"IntervalTier"
"free"
0
4
1
0
1
"Ат"
"""
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" VERSION="3.0">
<TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="2500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="3750"/>
<TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="1000"/>
<TIME_SLOT TIME_SLOT_ID="ts5"/>
</TIME_ORDER>
<TIER TIER_ID="ref" PARTICIPANT="Ana">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>Кар &lt;ак&gt;</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
<ANNOTATION_VALUE/></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts4" TIME_SLOT_REF2="ts5">
<ANNOTATION_VALUE>no end</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER>
<TIER TIER_ID="tx" PARENT_REF="ref">
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b1" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>one</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b2" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>two</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b3" ANNOTATION_REF="b4">
<ANNOTATION_VALUE>circle</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION>
<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="b4" ANNOTATION_REF="b3">
<ANNOTATION_VALUE/></REF_ANNOTATION></ANNOTATION>
</TIER>
</ANNOTATION_DOCUMENT>
"""


def talk(folder: Path, name: str, content: str | bytes, sound: str | None = "talk.wav") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if sound:
        soundfile.write(
            folder / sound, RAMP, 16_000, **({} if sound.endswith("flac") else {"subtype": "FLOAT"})
        )
    return folder / name


def read(path, split="train", **how):
    return load_corpus(path, split, default_language="ky", **how)


def cues(corpus):
    return [(u.text, u.start, u.end, u.speaker) for u in corpus.utterances]


def test_subtitles():
    assert list(parse_subtitles(SRT)) == [
        (2, Annotation("Кар жаады. Тоодо.", 2.5, 3.75)),
        (7, Annotation("Ат 5 < 6 ичти", 0.0, 1.0)),
        (11, Annotation("", 1.5, 2.0)),
    ]
    assert [segment for _, segment in parse_subtitles(SRT.replace("\n", "\r\n"))] == [
        s for _, s in parse_subtitles(SRT)
    ]
    assert list(parse_subtitles(VTT)) == [
        (10, Annotation("Кар & тоо", 2.5, 3.75, speaker="Ana")),
        (13, Annotation("Ат", 0.0, 1.0)),
    ]
    bad = list(
        parse_subtitles(
            "1\nno time here\n\n2\n00:00:xx --> 00:00:02,000\nx\n\n3\n01:00:01,5 --> 01:00:02,25\ny"
        )
    )
    assert [reason[:20] for _, reason in bad[:2]] == [
        "is no cue: '1' is no",
        "its times cannot be ",
    ]
    assert bad[2] == (9, Annotation("y", 3601.5, 3602.25))


@pytest.mark.parametrize(
    "text", [LONG, SHORT, LONG.replace("\n", "\r\n")], ids=["long", "short", "crlf"]
)
def test_textgrids(text):
    found = [segment for _, segment in parse_textgrid(text)]
    assert [(s.start, s.end, s.tier, " ".join(s.text.split())) for s in found] == [
        (0.0, 2.5, "words 1", ""),
        (2.5, 3.75, "words 1", 'Кар "ак" ! 7 жаады'),
        (0.0, 1.0, "free", "Ат"),
    ]


def test_elan():
    found = list(parse_elan(EAF))
    assert [segment for _, segment in found] == [
        Annotation("Кар <ак>", 2.5, 3.75, "ref", "Ana"),
        Annotation("", 0.0, 1.0, "ref", "Ana"),
        Annotation("no end", 1.0, None, "ref", "Ana"),
        Annotation("one two", 2.5, 3.75, "tx"),
        Annotation("circle", None, None, "tx"),
        Annotation("", None, None, "tx"),
    ]
    assert found[0][0] == 9  # the line


@pytest.mark.parametrize(
    "name, content",
    [
        ("talk.srt", SRT),
        ("talk.vtt", VTT),
        ("talk.TextGrid", LONG),
        ("talk.TextGrid", SHORT.encode("utf-16")),
        ("talk.TextGrid", "\ufeff" + SHORT),
        ("talk.eaf", EAF),
    ],
)
def test_each_format_beside_its_recording(tmp_path, name, content):
    path = talk(tmp_path, name, content, "talk.flac" if name == "talk.vtt" else "talk.wav")
    tier = {"talk.TextGrid": "words 1", "talk.eaf": "ref"}.get(name)
    corpus = read(tmp_path, tier=tier)
    assert corpus.layout == "segments" and corpus.utterances == read(path, tier=tier).utterances
    first = corpus.utterances[0]
    assert (first.start, first.end, first.duration) == (2.5, 3.75, 1.25) and first.text.startswith(
        "Кар"
    )
    assert first.id == f"{name}:{tier + ':' if tier else ''}1"
    np.testing.assert_allclose(load_audio(first.sound), RAMP[40_000:60_000], atol=1e-4)
    assert [u.text for u in read(tmp_path, "dev", tier=tier).utterances] == [
        u.text for u in corpus.utterances
    ]


def test_tiers_are_all_read_and_named(tmp_path):
    path = talk(tmp_path, "talk.TextGrid", LONG)
    corpus = read(path)
    assert [(text, start) for text, start, *_ in cues(corpus)] == [
        ('Кар "ак" ! 7 жаады', 2.5),
        ("Ат", 0.0),
    ]
    assert corpus.notes == ("read 2 tiers: free (1), words 1 (1); choose one with --tier",)
    assert (
        cues(read(path, tier="free")) == [("Ат", 0.0, 1.0, None)]
        and not read(path, tier="free").skipped
    )
    with pytest.raises(
        CorpusError,
        match="no tier 'words' with text; tiers found: free, words 1; the nearest is 'words 1'",
    ):
        read(path, tier="words")
    elan = read(talk(tmp_path / "elan", "talk.eaf", EAF))
    assert cues(elan) == [("Кар <ак>", 2.5, 3.75, "Ana"), ("one two", 2.5, 3.75, None)]
    assert [row.reason for row in elan.skipped] == ["has no time", "has no time"]


def test_segments_out_of_order_overlapping_and_beyond(tmp_path):
    times = [
        ("03", "04,05"),
        ("01", "02"),
        ("01,5", "02,5"),
        ("02", "02"),
        ("03", "04,2"),
        ("05", "06"),
    ]
    text = "".join(
        f"{i}\n00:00:{a if ',' in a else a + ',0'} -->"
        f" 00:00:{b if ',' in b else b + ',0'}\nt{i}\n\n"
        for i, (a, b) in enumerate(times)
    )
    corpus = read(talk(tmp_path, "talk.srt", text))
    assert cues(corpus) == [("t0", 3.0, 4.0, None), ("t1", 1.0, 2.0, None), ("t2", 1.5, 2.5, None)]
    reasons = [row.reason for row in corpus.skipped]
    assert "not after its start" in reasons[0] and all(
        "beyond the recording's 4.00 s" in reason for reason in reasons[1:]
    )
    assert len(reasons) == 3 and [u.duration for u in corpus.utterances] == [1.0, 1.0, 1.0]


def test_splits_are_folders(tmp_path):
    talk(tmp_path / "train", "a.srt", SRT, "a.wav")
    talk(tmp_path / "valid" / "ana", "a.srt", SRT, "a.WAV")
    corpus = read(tmp_path, "dev")
    assert corpus.splits == ("train", "valid") and {u.audio.name for u in corpus.utterances} == {
        "a.WAV"
    }
    assert len(read(tmp_path, None).utterances) == 4
    with pytest.raises(
        CorpusError, match="split 'test' has no usable rows; splits found: train, valid"
    ):
        read(tmp_path, "test")


DEEP = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "name, content, reason",
    [
        (
            "bad.eaf",
            EAF.replace("<ANNOTATION_DOCUMENT", DEEP + "<ANNOTATION_DOCUMENT", 1),
            "has a DOCTYPE",
        ),
        (
            "bad.eaf",
            EAF.replace("<ANNOTATION_DOCUMENT", DEEP + "<ANNOTATION_DOCUMENT", 1).encode("utf-16"),
            "has a DOCTYPE",
        ),
        ("bad.eaf", EAF[:900], "is no XML ("),
        ("bad.eaf", "<html/>", "is no ELAN file: its root is html"),
        (
            "bad.eaf",
            EAF.replace("2500", "soon"),
            "its times are 'soon' and '3750', not milliseconds",
        ),
        ("bad.TextGrid", SHORT[:120], "is cut short or no TextGrid"),
        ("bad.TextGrid", SHORT.replace("\n3\n", "\n1e999\n", 1), "is no TextGrid: it counts inf"),
        ("bad.TextGrid", "hello", "is cut short or no TextGrid"),
        ("bad.TextGrid", '"ooTextFile" "Pitch 1"', "is no TextGrid: wanted"),
        ("bad.TextGrid", SHORT.replace("\n3\n", '\n"three"\n', 1), "wanted a number in line 7"),
        (
            "bad.srt",
            "1\n00:00:00,0 --> 00:00:01,0\nñandú".encode("latin-1"),
            "is not UTF-8; if it is Latin-1, convert it: iconv",
        ),
        ("bad.srt", SRT, "audio file"),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_read(tmp_path, name, content, reason):
    talk(tmp_path, "talk.srt", SRT)
    path = talk(tmp_path, name, content, None if reason == "audio file" else "bad.wav")
    corpus = read(tmp_path)
    assert sum(u.id.startswith("talk.srt:") for u in corpus.utterances) == 2
    assert any(row.source.startswith(str(path)) and reason in row.reason for row in corpus.skipped)
    with pytest.raises(CorpusError, match=rf"{path.name}"):
        read(path, strict=True)


def test_an_unreadable_recording_is_the_reason_of_its_segments(tmp_path):
    talk(tmp_path, "a.srt", SRT, "a.wav")
    talk(tmp_path, "b.srt", SRT, None)
    (tmp_path / "b.wav").write_bytes(b"no sound at all" * 9)
    corpus = read(tmp_path)
    assert len(corpus.utterances) == 2 and [
        row.reason.count("b.wav: cannot be read") for row in corpus.skipped
    ] == [1, 1]


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, 2000),
    noise=st.text(max_size=8),
    which=st.sampled_from([SRT, VTT, LONG, SHORT, EAF]),
)
def test_damaged_files_raise_nothing_but_value_errors(cut, noise, which):
    parse = {
        SRT: parse_subtitles,
        VTT: parse_subtitles,
        LONG: parse_textgrid,
        SHORT: parse_textgrid,
        EAF: parse_elan,
    }[which]
    text = which[:cut] + noise + which[cut + len(noise) :]
    try:
        found = list(parse(text))
    except ValueError as error:
        assert str(error)
        return
    assert all(line >= 1 and isinstance(segment, Annotation | str) for line, segment in found)
