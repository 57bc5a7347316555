"""Transcripts as files: each format read back by a parser that is not ours, lines that fit, names
that never clash.
"""

import csv
import html
import io
import json
import os
import random
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from dualasr.errors import RunError
from dualasr.transcription.subtitles import SubtitleOptions, cues
from dualasr.transcription.transcript import Segment, Transcription, Word
from dualasr.transcription.writers import FORMATS, output_paths, render, write


def segment(start, end, text, language="ky", words=()):
    return Segment(
        start=start,
        end=end,
        text=text,
        language=language,
        route="north",
        avg_logprob=-0.25,
        no_speech_prob=0.1,
        language_probs={"ky": 0.75, "de": 0.25},
        scores={"north": -1.5},
        reason="tag",
        words=words,
        tokens=(5, 7),
        compression_ratio=0.8,
    )


def whole(*segments):
    text = " ".join(part.text for part in segments)
    return Transcription(
        text=text,
        language="ky",
        route="north",
        language_probs={"ky": 0.75, "de": 0.25},
        segments=segments,
        duration=4000.0,
        scores={"windows": {"text": len(segments)}},
    )


def spoken(start, said, language="ky", length=0.5):
    """A segment of words as given, each `length` seconds long, one after the other."""
    words = [
        Word(start + i * length, start + (i + 1) * length, word, 0.5, False)
        for i, word in enumerate(said)
    ]
    return segment(start, words[-1].end, "".join(said).strip(), language, tuple(words))


PLAIN = whole(
    segment(-0.01, 2.0004, "Кар жаады."),
    segment(2.0006, 1.5, 'He said "5 < 6"\r\n\tR&D --> ---> </u> 🙂'),
    segment(59.9996, 61.5, " \n"),
    segment(3599.9996, 3600.1, "last"),
)
WORDS = whole(spoken(0.25, ["Кар", " жаады,"]), spoken(1.5, ["тоодо", " <ак>", " эле."]))

TXT = 'Кар жаады.\nHe said "5 < 6" R&D --> ---> </u> 🙂\nlast\n'
VTT = """WEBVTT

00:00.000 --> 00:02.000
Кар жаады.

00:02.001 --> 00:02.001
He said "5 &lt; 6" R&amp;D -> -> &lt;/u> 🙂

01:00:00.000 --> 01:00:00.100
last

"""
SRT = """1
00:00:00,000 --> 00:00:02,000
Кар жаады.

2
00:00:02,001 --> 00:00:02,001
He said "5 < 6" R&D -> -> </u> 🙂

3
01:00:00,000 --> 01:00:00,100
last

"""
TSV = (
    'start\tend\ttext\n0\t2000\tКар жаады.\n2001\t2001\tHe said "5 < 6" R&D --> ---> </u> 🙂\n'
    "3600000\t3600100\tlast\n"
)
HIGHLIGHTED = """WEBVTT

00:00.250 --> 00:00.750
<u>Кар</u> жаады,

00:00.750 --> 00:01.250
Кар <u>жаады,</u>

00:01.500 --> 00:02.000
<u>тоодо</u> &lt;ак> эле.

00:02.000 --> 00:02.500
тоодо <u>&lt;ак></u> эле.

00:02.500 --> 00:03.000
тоодо &lt;ак> <u>эле.</u>

"""
FLOWED = """1
00:00:00,250 --> 00:00:02,500
Кар жаады,
тоодо <ак>

2
00:00:02,500 --> 00:00:03,000
эле.

"""


@pytest.mark.parametrize(
    ("transcription", "format", "options", "expected"),
    [
        (PLAIN, "txt", SubtitleOptions(), TXT),
        (PLAIN, "vtt", SubtitleOptions(), VTT),
        (PLAIN, "srt", SubtitleOptions(), SRT),
        (PLAIN, "tsv", SubtitleOptions(), TSV),
        (WORDS, "vtt", SubtitleOptions(highlight_words=True), HIGHLIGHTED),
        (WORDS, "srt", SubtitleOptions(max_line_width=12, max_line_count=2), FLOWED),
        (whole(), "txt", SubtitleOptions(), ""),
        (whole(), "vtt", SubtitleOptions(), "WEBVTT\n\n"),
        (whole(), "srt", SubtitleOptions(), ""),
        (whole(), "tsv", SubtitleOptions(), "start\tend\ttext\n"),
    ],
)
def test_files_are_as_written_by_hand(transcription, format, options, expected):
    assert render(transcription, format, options) == expected


def test_json_has_whispers_fields_and_ours():
    shared = segment(4.00049, 4.0, "ja", "de", (Word(-1.0, 4.00049, "ja", None, True),))
    read = json.loads(render(whole(*PLAIN.segments[:1], shared), "json"))
    assert read == {
        "text": "Кар жаады. ja",
        "language": "ky",
        "route": "north",
        "language_probs": {"ky": 0.75, "de": 0.25},
        "duration": 4000.0,
        "scores": {"windows": {"text": 2}},
        "segments": [
            {
                "id": 0,
                "start": 0.0,
                "end": 2.0,
                "text": "Кар жаады.",
                "language": "ky",
                "route": "north",
                "avg_logprob": -0.25,
                "no_speech_prob": 0.1,
                "language_probs": {"ky": 0.75, "de": 0.25},
                "scores": {"north": -1.5},
                "reason": "tag",
                "seek": 0,
                "tokens": [5, 7],
                "temperature": 0.0,
                "compression_ratio": 0.8,
            },
            {
                "id": 1,
                "start": 4.0,
                "end": 4.0,
                "text": "ja",
                "language": "de",
                "route": "north",
                "avg_logprob": -0.25,
                "no_speech_prob": 0.1,
                "language_probs": {"ky": 0.75, "de": 0.25},
                "scores": {"north": -1.5},
                "reason": "tag",
                "seek": 0,
                "tokens": [5, 7],
                "temperature": 0.0,
                "compression_ratio": 0.8,
                "words": [
                    {"start": 0.0, "end": 4.0, "word": "ja", "probability": None, "shared": True}
                ],
            },
        ],
    }


# What the parsers say, as (start, end, text), times in milliseconds.


def read_srt(text):
    found = list(srt.parse(text))
    assert [cue.index for cue in found] == list(range(1, len(found) + 1))
    milli = timedelta(milliseconds=1)
    return [(cue.start // milli, cue.end // milli, cue.content) for cue in found]


def read_vtt(text):
    def milliseconds(time):
        return ((time.hours * 60 + time.minutes) * 60 + time.seconds) * 1000 + time.milliseconds

    found = webvtt.from_string(text)
    return [
        (milliseconds(cue.start_time), milliseconds(cue.end_time), html.unescape(cue.text))
        for cue in found
    ]


def read_tsv(text):
    rows = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["start", "end", "text"]
    return [(int(start), int(end), text) for start, end, text in rows[1:]]


def shown(text):
    """What a subtitle can say of a text: no line breaks, no arrow."""
    return re.sub("--+>", "->", re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip())


times = st.floats(-1, 400_000, allow_nan=False)
texts = st.text(max_size=30) | st.text("-<>&/u \n\r\t\0\"'1:,.00\u2028\x85ก", max_size=30)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(times, times, texts), max_size=5))
def test_times_and_texts_come_back_from_other_parsers(parts):
    transcription = whole(*(segment(*part) for part in parts))
    said = []
    for start, end, text in parts:
        start = max(0, round(start * 1000))
        said.append((start, max(start, round(end * 1000)), shown(text)))
    said = [part for part in said if part[2]]
    assert read_srt(render(transcription, "srt")) == said
    assert read_vtt(render(transcription, "vtt")) == said
    rows = read_tsv(render(transcription, "tsv"))
    assert [(start, end, shown(text)) for start, end, text in rows] == said
    assert render(transcription, "txt") == "".join(f"{text}\n" for _, _, text in rows)
    read = json.loads(render(transcription, "json"))["segments"]
    assert [(part["id"], part["text"]) for part in read] == [
        (i, text) for i, (_, _, text) in enumerate(parts)
    ]
    assert all(
        0 <= part["start"] <= part["end"] and round(part["end"], 3) == part["end"] for part in read
    )


SPACED = st.sampled_from(
    ["a", "эле", "don't", "world-wide", "<i>", "--", ">", "R&D", "ыраазымын,", "\u201cak\u201d"]
)
OPTIONS = st.builds(
    SubtitleOptions, st.none() | st.integers(1, 30), st.none() | st.integers(1, 3), st.booleans()
)


@st.composite
def transcripts(draw):
    """Words with pauses between them, in segments, in a language with spaces."""
    time, segments = 0.0, []
    for said in draw(st.lists(st.lists(SPACED, min_size=1, max_size=8), max_size=4)):
        words = []
        for i, word in enumerate(said):
            start = time + draw(st.sampled_from([0, 0, 0.4, 3.5]))
            time = start + draw(st.sampled_from([0, 0.25, 1]))
            words.append(Word(start, time, f" {word}" if i else word, None, False))
        segments.append(segment(words[0].start, time, " ".join(said), words=tuple(words)))
    return whole(*segments)


@settings(deadline=None, max_examples=300)
@given(transcripts(), OPTIONS)
def test_lines_fit_and_no_word_is_lost(transcription, options):
    plain = list(cues(transcription.segments, replace(options, highlight_words=False)))
    assert " ".join(" ".join(text.split()) for _, _, text in plain) == shown(transcription.text)
    for start, end, text in plain:
        assert start <= end
        lines = text.split("\n")
        assert all(line == line.strip() for line in lines) and all(lines)
        if options.max_line_width:
            assert all(len(line) <= options.max_line_width or " " not in line for line in lines)
            assert len(lines) <= (options.max_line_count or len(lines))
        else:
            assert len(lines) == 1
    assert all(before.end <= after.start for before, after in zip(plain, plain[1:], strict=False))


@settings(deadline=None, max_examples=300)
@given(transcripts(), OPTIONS)
def test_highlighting_underlines_each_word_in_turn_and_changes_nothing_else(transcription, options):
    plain = list(cues(transcription.segments, replace(options, highlight_words=False)))
    marked = list(cues(transcription.segments, replace(options, highlight_words=True)))
    underlined = [
        found for _, _, text in marked for found in re.findall("<u>(.*?)</u>", text, re.DOTALL)
    ]
    assert underlined == [
        word.word.strip() for part in transcription.segments for word in part.words
    ]
    assert {re.sub("</?u>", "", cue.text) for cue in marked} == {cue.text for cue in plain}
    assert sum(cue.end - cue.start for cue in marked) == sum(cue.end - cue.start for cue in plain)
    assert all(before.end <= after.start for before, after in zip(marked, marked[1:], strict=False))
    expected = [(cue.start, cue.end, re.sub("</?u>", "", cue.text)) for cue in marked]
    assert (
        read_vtt(render(transcription, "vtt", replace(options, highlight_words=True))) == expected
    )


def test_lines_are_as_full_as_they_can_be():
    rng = random.Random(1)
    said = [("" if i == 0 else " ") + "x" * rng.randint(1, 9) for i in range(200)]
    [cue] = cues([spoken(0, said)], SubtitleOptions(max_line_width=20))
    lines = cue.text.split("\n")
    for line, after in zip(lines, lines[1:], strict=False):
        assert len(f"{line} {after.split(' ')[0]}") > 20


def test_without_both_limits_each_segment_is_a_cue():
    for options in (
        SubtitleOptions(),
        SubtitleOptions(max_line_width=12),
        SubtitleOptions(max_line_count=1),
    ):
        assert len(list(cues(WORDS.segments, options))) == 2
    assert len(list(cues(WORDS.segments, SubtitleOptions(100, 1)))) == 1


@pytest.mark.parametrize(("pause", "number"), [(2.5, 1), (2.501, 2)])
def test_a_pause_of_more_than_three_seconds_ends_a_cue(pause, number):
    segments = [spoken(0, ["бир"]), spoken(0.5 + pause, ["эки"])]
    assert len(list(cues(segments, SubtitleOptions(100, 2)))) == number


@pytest.mark.parametrize(
    ("language", "text", "lines"),
    [
        ("th", "ภาษาไทยเป็นน้ำ", "ภาษา|ไทย|เป็น|น้ำ"),
        ("ja", "今日は、「東京」へ行った。", "今日は、|「東京」|へ行っ|た。"),
        ("zh", "我用Python编程，很好。", "我用|Python|编程，很|好。"),
        ("zh", "我们他 你好吗", "我们他|你好吗"),
        ("my", "မြန်မာမန္တလေး", "မြန်|မာ|မန္တ|လေး"),
        ("km", "ភាសាខ្មែរ", "ភាសា|ខ្មែ|រ"),
        ("lo", "ພາສາລາວເປັນ", "ພາສາ|ລາວ|ເປັນ"),
        ("ko", "한국어단어", "한국어단어"),
        ("ky", "ыраазымын", "ыраазымын"),
    ],
)
def test_scripts_without_spaces_break_where_a_reader_would_bear_it(language, text, lines):
    """The same whether a word is the whole text or a single code point; nothing begins with a mark
    or ends with a bracket.
    """
    whole_text, characters = (
        list(cues([spoken(1, said, language)], SubtitleOptions(max_line_width=4)))
        for said in ([text], list(text))
    )
    assert whole_text[0].text == characters[0].text == lines.replace("|", "\n")
    assert (whole_text[0].start, whole_text[0].end) == (1000, 1500)
    assert (characters[0].start, characters[0].end) == (1000, 1000 + 500 * len(text))


def test_segments_flow_together_as_the_language_is_written():
    wide = SubtitleOptions(100, 1)
    for first, second, text in (
        (("ja", "文"), ("zh", "字"), "文字"),
        (("ja", "文"), ("de", "Satz"), "文 Satz"),
    ):
        for space in ("", " "):  # Whisper's own words have a space before the first
            segments = [
                spoken(i, [space + said], language)
                for i, (language, said) in enumerate((first, second))
            ]
            assert [cue.text for cue in cues(segments, wide)] == [text]


def test_spaces_after_words_and_words_of_nothing_are_borne():
    segments = [spoken(0, [" a ", "", " ", "b\n", "c "])]
    assert [cue.text for cue in cues(segments, SubtitleOptions(max_line_width=3))] == ["a\nb c"]


@pytest.mark.parametrize(
    "options",
    [
        SubtitleOptions(max_line_width=9),
        SubtitleOptions(max_line_count=9),
        SubtitleOptions(highlight_words=True),
    ],
)
def test_layout_needs_words(options, tmp_path):
    mixed = whole(*WORDS.segments, segment(5, 6, " "), segment(7.5, 8, "no words"))
    for format in ("vtt", "srt"):
        with pytest.raises(RunError, match=r"from 7\.50 to 8\.00 s has no words"):
            render(mixed, format, options)
        assert render(whole(*mixed.segments[:-1]), format, options)
        assert "no words" in render(mixed, format)
    with pytest.raises(RunError):
        write(mixed, tmp_path / "a", ["txt", "srt"], options)
    assert not list(tmp_path.iterdir())
    assert render(mixed, "tsv", options) == render(mixed, "tsv")


def test_options_and_formats_that_are_refused(tmp_path):
    for name in ("max_line_width", "max_line_count"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            SubtitleOptions(**{name: 0})
    for call in (
        lambda: render(PLAIN, "ass"),
        lambda: write(PLAIN, tmp_path / "a", ["srt", "ass"]),
        lambda: output_paths(["a.wav"], tmp_path, ["ass"]),
    ):
        with pytest.raises(
            ValueError, match="'ass' is unknown; choose one of txt, vtt, srt, tsv, json or all"
        ):
            call()
    assert not list(tmp_path.iterdir())


def test_all_formats_are_written_beside_each_other(tmp_path):
    written = write(
        WORDS, tmp_path / "new" / "talk.v1", ["all", "srt"], SubtitleOptions(max_line_width=12)
    )
    assert {path.name for path in written} == {f"talk.v1.{format}" for format in FORMATS}
    assert set(written) == set((tmp_path / "new").iterdir())
    for path in written:
        assert path.read_bytes().decode() == render(
            WORDS, path.suffix[1:], SubtitleOptions(max_line_width=12)
        )


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "no\nfolder").write_text("a file")
    (tmp_path / "a.srt").mkdir()
    for path in (tmp_path / "no\nfolder" / "a", tmp_path / "a", tmp_path / ("x" * 300)):
        with pytest.raises(RunError, match="^Cannot write .*choose another folder") as error:
            write(PLAIN, path, ["srt"])
        assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"no\nfolder", "a.srt"}


def names(inputs, folder="out"):
    inputs = list(inputs)
    paths = output_paths(inputs, folder, FORMATS)
    assert output_paths(inputs[::-1], folder, FORMATS) == paths
    assert all(path.parent == Path(folder) for path in paths.values())
    return [paths[Path(path)].name for path in inputs]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["x/talk.v1.wav", "b c.mp3", ".wav", "n\ne🙂.ogg"], ["talk.v1", "b c", ".wav", "n\ne🙂"]),
        (["a.wav", "a.mp3", "b.wav"], ["a.wav", "a.mp3", "b"]),
        (["x/a.wav", "y/a.wav"], ["x-a.wav", "y-a.wav"]),
        (["x/a.wav", "y/a.wav", "x/a.mp3"], ["x-a.wav", "y-a.wav", "a.mp3"]),
        (["1/x/a.wav", "2/x/a.wav"], ["a.wav", "a.wav-2"]),
        (["a.wav", "a.wav", "./x/../a.wav", os.path.abspath("a.wav")], ["a"] * 4),
        (["A.wav", "a.wav"], ["A.wav", "a.wav-2"]),
        (["x/A.wav", "x/a.mp3"], ["A.wav", "a.mp3"]),
        (["x/caf\u00e9.wav", "x/cafe\u0301.mp3"], ["caf\u00e9.wav", "cafe\u0301.mp3"]),
        (["a.wav", "a.mp3", "a.wav.flac"], ["a.wav-2", "a.mp3", "a.wav"]),
        (["out/a.json", "out/b.SRT"], ["a-2", "b-2"]),
        ([], []),
    ],
)
def test_names_of_outputs(inputs, expected):
    assert names(inputs) == expected


PARTS = st.sampled_from(
    [
        "a",
        "A",
        "b",
        "a.wav",
        "a-2",
        "x",
        "x-a",
        "é",
        "e\u0301",
        "ß",
        "SS",
        "🙂" * 62,
        "🙂" * 61 + "a",
    ]
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(PARTS, PARTS, st.sampled_from([".wav", ".WAV", ".mp3", ".srt", ""])), unique=True
    ),
    st.randoms(),
)
def test_no_two_inputs_share_an_output(parts, rng):
    inputs = [Path(folder, name + suffix) for folder, name, suffix in parts]
    for folder in ("out", "a"):
        paths = output_paths(inputs, folder, ["srt", "json"])
        shuffled = rng.sample(inputs, len(inputs))
        assert output_paths(shuffled, folder, ["srt", "json"]) == paths
        files = [f"{path}.{suffix}" for path in paths.values() for suffix in ("srt", "json")]
        assert len({file.casefold() for file in files}) == 2 * len(set(inputs))
        assert not {Path(file) for file in files} & set(inputs)
        assert all(len(os.fsencode(Path(file).name)) <= 255 for file in files)


def test_the_longest_names_can_be_written_and_stay_apart(tmp_path):
    family = "👩\u200d👩\u200d👧"
    stems = [
        "x" * 251,
        "x" * 250 + "y",
        "ж" * 125,
        family * 13 + "a" * 9,
        family * 13 + "b" * 9,
        "x" * 240,
        "n\n" * 125,
        "bad\udcff" * 60,
    ]
    inputs = [tmp_path / f"{stem}{suffix}" for stem in stems for suffix in (".wav", ".mp3")]
    for path in inputs:
        path.touch()  # the file system takes them
    paths = output_paths(inputs, tmp_path / "out", ["all"])
    for path in paths.values():
        write(PLAIN, path, ["all"])
    assert len(list((tmp_path / "out").iterdir())) == len(inputs) * len(FORMATS)
    assert paths[inputs[-1]].name.startswith("bad\udcff")
    cut = [path.name for path in paths.values() if path.name.startswith(family)]
    assert len(cut) == 4 and all(re.fullmatch(f"({family})+-[0-9a-f]{{8}}", name) for name in cut)
    alone = output_paths([tmp_path / f"{'x' * 240}.wav"], tmp_path, ["srt"])
    assert [path.name for path in alone.values()] == ["x" * 240]
