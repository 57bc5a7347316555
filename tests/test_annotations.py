"""Long recordings with a transcript beside them: what each format says, and what cannot be used."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dualasr.audio.load import load_audio
from dualasr.data.annotations import Annotation, parse_elan, parse_subtitles, parse_textgrid
from dualasr.data.corpus import load_corpus
from dualasr.data.textgrid import SYMBOLS
from dualasr.errors import CorpusError
from dualasr.text import one_form

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
    assert corpus.notes == (
        "points of TextGrids have no length and were left out: 1",
        "read 2 tiers: free (1), words 1 (1); choose one with --tier",
    )
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
            b"1\n00:00:00,0 --> 00:00:01,0\n\x81\x8d\x90\xff\xfe\x00",
            "is not UTF-8, and its encoding cannot be guessed; save it as UTF-8",
        ),
        ("bad.srt", SRT.encode("utf-16")[:-1], "is damaged UTF-16"),
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


def three(separator: str = "\n\n", name=lambda i: "") -> str:
    """Three cues: one from 0.5 to 2 s, two from 2.5 to 4 s, three from 5 to 6.25 s."""
    times = [
        "00:00:00,500 --> 00:00:02,000",
        "00:00:02,500 --> 00:00:04,000",
        "00:00:05,000 --> 00:00:06,250",
    ]
    said = ["one", "two", "three"]
    return separator.join(
        f"{name(i)}{time}\n{word}"
        for i, (time, word) in enumerate(zip(times, said, strict=True), 1)
    )


NUMBERED = three(name=lambda i: f"{i}\n")
SPANS = [("one", 0.5, 2.0), ("two", 2.5, 4.0), ("three", 5.0, 6.25)]


@pytest.mark.parametrize(
    "text",
    [
        NUMBERED,
        NUMBERED + "\n\n",
        three("\n", lambda i: f"{i}\n"),
        three("\n"),
        three(),
        NUMBERED.replace("\n", "\r"),
        NUMBERED.replace("\n", "\r\r\n"),
        NUMBERED.replace("\n", "\n\n"),
        NUMBERED.replace("00:00:0", "00:0").replace(",", "."),
        NUMBERED.replace("00:00:0", "0:0:").replace(",500", ",5"),
        NUMBERED.replace(",", " , ").replace("\none", "\n{\\an8}<font color='red'>one</font>"),
        three("\n").replace(":", " : "),
        NUMBERED.replace(",500", ":500").replace(",000", ":000").replace(",250", ":250"),
        NUMBERED.replace("02,000", "02,000 X1:10 X2:20 Y1:5 Y2:9"),
        "\ufeff" + NUMBERED.replace("1\n", "7\n", 1),
        "WEBVTT\n" + three().replace(",", "."),
        "WEBVTT\n\n" + three(name=lambda i: f"cue-{i}\n").replace(",", "."),
        "WEBVTT - x\nKind: captions\nLanguage: ky\n" + three().replace(",", "."),
        "WEBVTT\n\nSTYLE\n::cue(b) { color: red }\n\nREGION\nid:a\n\n"
        "NOTE\nnothing is\nsaid\n\nNOTE one --> two\n\n"
        + three("\n\nNOTE between\n\n").replace(",", ".").replace("02.000", "02.000 align:start"),
    ],
)
def test_three_cues_as_the_world_writes_them(text):
    read = parse_subtitles(text)
    assert [(s.text, s.start, s.end) for _, s in read] == SPANS, text


def test_a_blank_line_inside_a_text_and_cues_without_times():
    inside = NUMBERED.replace("one", "the army\n\nbroke the fleet\n\n1984")
    assert [s.text for _, s in parse_subtitles(inside)] == [
        "the army broke the fleet 1984",
        "two",
        "three",
    ]
    without = NUMBERED.replace("00:00:02,500 --> 00:00:04,000", "no times")
    assert list(parse_subtitles(without)) == [
        (2, Annotation("one", 0.5, 2.0)),
        (5, "is no cue: '2' is not followed by a line with -->"),
        (10, Annotation("three", 5.0, 6.25)),
    ]
    stray = "Kind: captions\n\n" + three().replace(",", ".")
    assert [line for line, s in parse_subtitles(f"WEBVTT\n\n{stray}") if isinstance(s, str)] == [3]
    digits = three("\n").replace("one", "one\n42")  # no cue has a number, so this is said
    assert [s.text for _, s in parse_subtitles(digits)] == ["one 42", "two", "three"]
    arrow = NUMBERED.replace("one", "File --> Open")
    assert [s.text for _, s in parse_subtitles(arrow)] == ["File --> Open", "two", "three"]
    assert [s.text for _, s in parse_subtitles(NUMBERED.replace("02,000\n", "02,000 "))] == [
        "one",
        "two",
        "three",
    ]


@pytest.mark.parametrize(
    "said, text, speaker",
    [
        ("<ruby>漢<rt>kan</rt>字<rt>ji</rt></ruby>だ", "漢字だ", None),
        ("<ruby>漢<rp>(</rp><rt>kan<rp>)</rp></ruby>", "漢", None),
        ("<v Anna>one\n<v Ben>two", "one two", None),
        ("<v.loud Anna Smith>one</v>\n<v Anna Smith>two", "one two", "Anna Smith"),
        ("a\\Nb\\hc<br/>d", "a b c d", None),
        (
            "A &amp; B&nbsp;C &#233;&#x301; R&D &lt;i&gt; &nosuch;",
            "A & B C é\u0301 R&D <i> &nosuch;",
            None,
        ),
        ("{\\an8}{\\i1}one{\\i0} {b}two{/b}", "one two", None),
        ("<c.yellow.bg_blue>one</c> <00:00:01.000>two", "one two", None),
        ("5 < 6 <i>and</i> 7 > 6", "5 < 6 and 7 > 6", None),
    ],
)
def test_markup_of_subtitles(said, text, speaker):
    for start in ("1\n00:00:01,000 --> 00:00:02,000\n", "WEBVTT\n\n00:01.000 --> 00:02.000\n"):
        [(_, segment)] = parse_subtitles(start + said)
        assert segment == Annotation(text, 1.0, 2.0, speaker=speaker)


ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:03.429 align:start position:0%
 
good<00:00:00.960><c> morning</c><00:00:01.520><c> no</c>

00:00:03.429 --> 00:00:03.439 align:start position:0%
good morning no
 

00:00:03.439 --> 00:00:05.749 align:start position:0%
good morning no
no

00:00:05.749 --> 00:00:05.759 align:start position:0%
no
 

00:00:05.759 --> 00:00:08.000 align:start position:0%
no
no<00:00:06.000><c> way</c>

00:00:20.000 --> 00:00:21.000 align:start position:0%
no way
"""
ROLLED = [
    ("good morning no", 0.16, 3.429),
    ("no", 3.439, 5.749),
    ("no way", 5.759, 8.0),
    ("no way", 20.0, 21.0),
]


def test_rolling_captions_say_each_line_once():
    """As YouTube writes them, as yt-dlp makes SRT of them, and as television rolls up two lines."""
    read = parse_subtitles(ROLLING)
    assert [(s.text, s.start, s.end) for _, s in read] == ROLLED and read.repeats == 2
    plain = (
        ROLLING.split("\n\n", 1)[1].replace(" align:start position:0%", "").replace("\n \n", "\n")
    )
    for mark in ("<c>", "</c>", "<00:00:00.960>", "<00:00:01.520>", "<00:00:06.000>"):
        plain = plain.replace(mark, "")
    read = parse_subtitles(plain)
    assert [(s.text, s.start, s.end) for _, s in read] == ROLLED and read.repeats == 2
    lines = ["a b", "c d", "e f", "g h"]
    rolled = "\n\n".join(
        f"{i + 1}\n00:00:{2 * i:02},000 --> 00:00:{2 * i + 2:02},000\n"
        + "\n".join(lines[max(0, i - 2) : i + 1])
        for i in range(4)
    )
    assert [(s.text, s.start, s.end) for _, s in parse_subtitles(rolled)] == [
        (line, 2.0 * i, 2.0 * i + 2) for i, line in enumerate(lines)
    ]
    grown = "\n\n".join(
        f"00:00:0{i},000 --> 00:00:0{i + 1},000\n" + " ".join("abcd"[: i + 1]) for i in range(4)
    )
    assert [s.text for _, s in parse_subtitles(grown)] == ["a", "b", "c", "d"]


def test_speech_that_repeats_itself_is_no_rolling_caption():
    said = ["No.", "No.\nYes.", "Yes.", "Well,\nno.", "no.", "I see."]
    text = "\n\n".join(
        f"{i + 1}\n00:00:{i:02},000 --> 00:00:{i + 1:02},000\n{line}" for i, line in enumerate(said)
    )
    read = parse_subtitles(text)
    assert [s.text for _, s in read] == [" ".join(line.split()) for line in said]
    assert read.repeats == 0


@pytest.mark.parametrize(
    "said, encoding, guess, language",
    [
        ("Кечээ кар жаады, бүгүн күн ачык.", "utf-16-le", None, "ky"),
        ("Кечээ кар жаады, бүгүн күн ачык.", "utf-16-be", None, "ky"),
        ("Вчера шёл снег, сегодня солнце.", "cp1251", "cp1251", "ky"),
        ("Вчера шёл снег, сегодня солнце.", "koi8-r", "koi8_r", "ru"),
        ("ñandú, el niño comió una manzana", "latin-1", "cp1252", "quz"),
        ("ñandú", "latin-1", "cp1252", "ky"),
        ("Zażółć gęślą jaźń, dzień dobry", "cp1250", "cp1250", "pl"),
        ("Güneş doğdu, iyi akşamlar", "cp1254", "cp1254", "tr"),
        ("こんにちは、お元気ですか", "shift_jis", "cp932", "ja"),
    ],
)
def test_older_encodings_are_guessed_and_said(tmp_path, said, encoding, guess, language):
    text = f"1\n00:00:00,500 --> 00:00:01,500\n{said}\n"
    path = talk(tmp_path, "talk.srt", text.encode(encoding))
    corpus = load_corpus(path, "train", default_language=language)
    assert [u.text for u in corpus.utterances] == [said] and not corpus.skipped
    told = f"not UTF-8, read as {guess}, which is a guess: talk.srt; look at a few texts"
    assert corpus.notes == ((told,) if guess else ())


@pytest.mark.parametrize(
    "name, sound",
    [
        ("talk.ky.srt", "talk.wav"),
        ("talk.pt-BR.vtt", "talk.flac"),
        ("talk.zh_Hans.srt", "talk.wav"),
        ("talk.ky.forced.srt", "talk.wav"),
        ("talk.ky.sdh.srt", "talk.wav"),
        ("talk.en-orig.vtt", "talk.wav"),
        ("talk.Kyrgyz.srt", "talk.wav"),
        ("talk.wav.srt", "talk.wav"),
        ("2024.05.01 talk.ky.srt", "2024.05.01 talk.wav"),
        ("talk.ky.srt", "talk.ky.wav"),
    ],
)
def test_the_language_in_a_name_is_no_part_of_the_recordings_name(tmp_path, name, sound):
    text = SRT if name.endswith("srt") else VTT
    corpus = read(talk(tmp_path, name, text, sound))
    assert {u.audio.name for u in corpus.utterances} == {sound} and len(corpus.utterances) == 2
    assert corpus.languages == ("ky",)


def test_subtitles_in_several_languages_and_other_names(tmp_path):
    talk(tmp_path, "talk.ky.srt", SRT)
    talk(tmp_path, "talk.en.srt", SRT.replace("Кар", "Snow"))
    assert read(tmp_path).languages == ("en", "ky")
    corpus = load_corpus(tmp_path, "train", languages=["ky"], default_language="ky")
    assert [u.id for u in corpus.utterances] == ["talk.ky.srt:1", "talk.ky.srt:2"]
    only = load_corpus(talk(tmp_path / "one", "talk.ky.srt", SRT), None)
    assert only.languages == ("ky",), "the name tells the language where nobody else does"
    other = talk(tmp_path / "two", "talk.part2.srt", SRT)
    with pytest.raises(CorpusError, match=r"talk\.part2\.wav is missing"):
        read(other)


def test_a_textgrids_offset_quotes_and_symbols(tmp_path):
    shifted = LONG.replace("xmin = 2.5", "xmin = 12.5").replace("xmax = 3.75", "xmax = 13.75")
    shifted = shifted.replace("xmin = 0", "xmin = 10", 1).replace("xmax = 4", "xmax = 14", 1)
    shifted = shifted.replace("xmin = 0\n            xmax = 1\n", "xmin = 10\n xmax = 11\n")
    corpus = read(talk(tmp_path, "talk.TextGrid", shifted))
    assert [(u.start, u.end) for u in corpus.utterances] == [(2.5, 3.75), (0.0, 1.0)]
    whole = tmp_path / "whole"
    path = talk(whole, "talk.TextGrid", shifted, None)
    soundfile.write(whole / "talk.wav", np.tile(RAMP, 4)[: 14 * 16_000], 16_000)
    assert [(u.start, u.end) for u in read(path).utterances] == [(12.5, 13.75), (10.0, 11.0)]
    said = r'sch\o""n gr\u""n, \dhis \sw\ae\o/ \?g \:f a\~^ e\'^ \al\Om \c, \bs x\y z\\ """"'
    [(_, found)] = parse_textgrid(
        f'"ooTextFile" "TextGrid" 0 4 <exists> 1 "IntervalTier" "\\swx" 0 4 1 0 1 "{said}"'
    )
    assert one_form(found.text) == 'schön grün, ðis əæø ʔ ː ã é αΩ ç \\ x\\y z\\\\ ""'
    assert found.tier == "əx"


def test_praats_symbols_are_the_ones_of_its_manual():
    """Held against Unicode's own names where the code tells the letter and the accent."""
    accents = {"`": "GRAVE", "'": "ACUTE", "^": "CIRCUMFLEX", "~": "TILDE", '"': "DIAERESIS"}
    for letter in "aeiouyncszAEIOUYNCSZ":
        for accent, called in accents.items():
            found = SYMBOLS.get(letter + accent)
            if found is not None and not unicodedata.combining(found):
                size = "SMALL" if letter.islower() else "CAPITAL"
                name = f"LATIN {size} LETTER {letter.upper()} WITH {called}"
                assert unicodedata.name(found) == name
    for code, called in {"al": "ALPHA", "be": "BETA", "om": "OMEGA", "ps": "PSI"}.items():
        assert unicodedata.name(SYMBOLS[code]) == f"GREEK SMALL LETTER {called}"
        assert unicodedata.name(SYMBOLS[code.title()]) == f"GREEK CAPITAL LETTER {called}"
    assert all(len(code) == 2 and len(char) == 1 for code, char in SYMBOLS.items())
    assert len(SYMBOLS) > 350


def elan(tiers: str, slots: str, header: str = "") -> str:
    return (
        f"<ANNOTATION_DOCUMENT><HEADER>{header}</HEADER><TIME_ORDER>{slots}</TIME_ORDER>"
        f"{tiers}</ANNOTATION_DOCUMENT>"
    )


def slot(i: int, value: int | None) -> str:
    return f'<TIME_SLOT TIME_SLOT_ID="ts{i}"' + (f' TIME_VALUE="{value}"/>' if value else "/>")


def aligned(id: str, first: int, last: int, text: str) -> str:
    return (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{id}" TIME_SLOT_REF1="ts{first}"'
        f' TIME_SLOT_REF2="ts{last}"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION>"
    )


def refers(id: str, to: str, text: str, after: str = "") -> str:
    after = f' PREVIOUS_ANNOTATION="{after}"' if after else ""
    return (
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{id}" ANNOTATION_REF="{to}"{after}>'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
    )


def test_elans_slots_without_a_value_share_the_time_evenly():
    slots = slot(1, 1000) + slot(9, 1500) + slot(2, None) + slot(3, None) + slot(4, 4000)
    words = aligned("a", 1, 2, "x") + aligned("b", 2, 3, "y") + aligned("c", 3, 4, "z")
    tiers = f'<TIER TIER_ID="w">{words}</TIER><TIER TIER_ID="o">{aligned("d", 9, 4, "o")}</TIER>'
    found = [(s.text, s.start, s.end) for _, s in parse_elan(elan(tiers, slots))]
    assert found == [("x", 1.0, 2.0), ("y", 2.0, 3.0), ("z", 3.0, 4.0), ("o", 1.5, 4.0)]
    slots = slot(1, 1000) + slot(2, None) + slot(3, None) + slot(4, 4000)
    apart = f'<TIER TIER_ID="w">{aligned("a", 1, 2, "x")}{aligned("c", 3, 4, "z")}</TIER>'
    found = [(s.text, s.start, s.end) for _, s in parse_elan(elan(apart, slots))]
    assert found == [("x", 1.0, 2.0), ("z", 3.0, 4.0)]


def test_elans_subdivisions_follow_each_other_as_they_say():
    slots = "".join(slot(i, 1000 * i) for i in range(1, 5))
    sentences = aligned("s1", 1, 2, "S1") + aligned("s2", 3, 4, "S2")
    words = (
        refers("w3", "s1", "three", "w2")
        + refers("w4", "s2", "four")
        + refers("w2", "s1", "two", "w1")
        + refers("w1", "s1", "one")
    )
    parts = refers("p2", "w2", "tw-") + refers("p3", "w2", "o", "p2") + refers("p1", "w1", "on-e")
    tiers = "".join(
        f'<TIER TIER_ID="{name}">{made}</TIER>'
        for name, made in (("parts", parts), ("words", words), ("s", sentences))
    )
    found = {(s.tier, s.text, s.start, s.end) for _, s in parse_elan(elan(tiers, slots))}
    assert found == {
        ("s", "S1", 1.0, 2.0),
        ("s", "S2", 3.0, 4.0),
        ("words", "one two three", 1.0, 2.0),
        ("words", "four", 3.0, 4.0),
        ("parts", "on-e tw- o", 1.0, 2.0),
    }


@pytest.mark.parametrize(
    "url, relative, sound",
    [
        ("file:///home/ana/my%20talk.wav", "./my%20talk.wav", "my talk.wav"),
        ("file:///C:/Users/Ana/my%20talk.wav", "", "my talk.wav"),
        (r"C:\Users\Ana\Тоо.wav", "", "Тоо.wav"),
        ("file://server/share/talk1.mp4", "sound/talk1.flac", "sound/talk1.flac"),
        ("", r"sound\talk1.flac", "sound/talk1.flac"),
        ("file:///x/gone.wav", "../../gone.wav", "a.wav"),
    ],
)
def test_the_recording_that_an_elan_file_names(tmp_path, url, relative, sound):
    header = (
        f'<MEDIA_DESCRIPTOR MEDIA_URL="{url}" RELATIVE_MEDIA_URL="{relative}" TIME_ORIGIN="1500"/>'
    )
    tier = f'<TIER TIER_ID="w">{aligned("a", 1, 2, "x")}</TIER>'
    content = elan(tier, slot(1, 1000) + slot(2, 2000), header)
    path = talk(tmp_path, "a.eaf", content, None)
    (tmp_path / sound).parent.mkdir(exist_ok=True)
    soundfile.write(tmp_path / sound, RAMP, 16_000)
    for corpus in (read(path), read(tmp_path)):
        [only] = corpus.utterances
        assert only.audio.resolve() == (tmp_path / sound).resolve()
        assert (only.start, only.end) == (2.5, 3.5)


def test_an_elan_file_does_not_lead_out_of_its_corpus(tmp_path):
    header = '<MEDIA_DESCRIPTOR MEDIA_URL="" RELATIVE_MEDIA_URL="../secret/talk.wav"/>'
    tier = f'<TIER TIER_ID="w">{aligned("a", 1, 2, "x")}</TIER>'
    talk(tmp_path / "secret", "no.txt", "", "talk.wav")
    content = elan(tier, slot(1, 1000) + slot(2, 2000), header)
    path = talk(tmp_path / "corpus", "a.eaf", content, None)
    with pytest.raises(CorpusError, match=r"a\.wav is missing"):
        read(path)
    talk(tmp_path / "inside" / "eaf", "a.eaf", content.replace("../secret", ".."), None)
    talk(tmp_path / "inside", "no.txt", "", "talk.wav")
    assert [u.audio.name for u in read(tmp_path / "inside").utterances] == ["talk.wav"]


REPORTS = Path(__file__).parents[2] / "shared" / "data" / "public_reports" / "corpora"


@pytest.mark.skipif(not REPORTS.is_dir(), reason="shared/data/public_reports is not there")
@pytest.mark.parametrize(
    "name, expected",
    [
        ("elan_origin", [("one word", 6.0, 7.0), ("two words", 8.0, 9.0)]),
        (
            "srt_noblank",
            [
                ("first line here", 0.5, 2.0),
                ("second line here", 2.5, 4.0),
                ("third line here", 5.0, 6.0),
            ],
        ),
        ("vtt_nohdrblank", [("first line", 0.5, 2.0), ("second line", 2.5, 4.0)]),
        (
            "vtt_rolling",
            [
                ("good morning to all", 0.16, 3.429),
                ("who came here today", 3.439, 5.749),
                ("let us begin", 5.759, 8.0),
            ],
        ),
        (
            "srt_blankinside",
            [("the emperor army broke the fleet", 0.5, 2.0), ("second line here", 2.5, 4.0)],
        ),
        ("tg_trigraph", [("schön grün", 1.0, 3.0), ("ðis əgain", 3.0, 5.0)]),
        ("srt_lang", [("first line here", 0.5, 2.0)]),
    ],
)
def test_files_of_public_reports(name, expected):
    corpus = read(REPORTS / name)
    assert [(u.text, u.start, u.end) for u in corpus.utterances] == expected
    assert not corpus.skipped


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
