"""Reports on paper: a small one with everything in it, whose numbers must be found again, and older
ones with less.
"""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dualasr.audio.spectrogram import spectrogram_svg
from dualasr.evaluation.report import to_html, to_markdown
from dualasr.evaluation.report_sections import MODES, worst_clips

COMMAND = "dualasr evaluate --base micro --pack north --corpus corpus"
EVIL = '<script>alert("1")</script> | `x` & co'


def scores(wer, cer, length, substitutions):
    counts = {"substitutions": substitutions, "deletions": 2, "insertions": 1, "length": length}
    intervals = {"wer_interval": [wer - 0.05, wer + 0.05], "cer_interval": [cer - 0.02, cer + 0.03]}
    return {
        "wer": wer,
        "cer": cer,
        **intervals,
        "whisper": {"wer": wer / 2, "cer": cer / 2},
        "word": counts,
        "character": counts | {"length": 5 * length},
    }


def row(
    id,
    language,
    ref,
    hyp,
    errors,
    characters,
    route="primary",
    right="primary",
    tag=None,
    confidence=0.93,
):
    said = {"hyp": hyp, "route": route, "language": tag or language, "reason": "it was sure"}
    return {
        "id": id,
        "language": language,
        "ref": ref,
        "seconds": 2.5,
        "windows": 1,
        "confidence": confidence,
        "pipeline_aware": said | {"route": right},
        "group_aware": said,
        "agnostic": said,
        "characters": characters,
        "pipeline_aware_errors": errors,
        "group_aware_errors": errors,
        "agnostic_errors": errors,
    }


@pytest.fixture
def report():
    languages = {
        "ar": {"n": 2, "hours": 0.1, "pipeline": "primary", "known": True, "unit": "word"},
        "or": {"n": 30, "hours": 0.5, "pipeline": "north", "known": True, "unit": "word"},
        "th": {"n": 4, "hours": 0.1, "pipeline": "primary", "known": False, "unit": "character"},
    }
    for k, entry in enumerate(languages.values()):
        entry |= {
            mode: scores(0.30 + 0.1 * k + 0.01 * m, 0.10 + 0.1 * k + 0.01 * m, 40, 7 + k)
            for m, mode in enumerate(MODES)
        }
    mean = {mode: scores(0.40, 0.20, 1, 1) for mode in MODES}
    bins = [
        {
            "low": k / 10,
            "high": (k + 1) / 10,
            "n": n,
            "confidence": k / 10 + 0.06,
            "accuracy": k / 11 + 0.05,
        }
        for k, n in ((5, 2), (7, 4), (9, 26))
    ]
    clean = {"or": {"n": 27} | {mode: {"wer": 0.456, "cer": 0.234} for mode in MODES}}
    return {
        "languages": languages,
        "mean": mean,
        "routing": {
            "accuracy": 0.9,
            "language_accuracy": 0.8,
            "calibration": {"ece": 0.0456, "bins": bins},
            "confusion": {
                "ar": {"primary": 2, "north": 0},
                "or": {"primary": 3, "north": 27},
                "th": {"primary": 4, "north": 0},
            },
        },
        "hallucination": {
            "probes": 20,
            "with_words": 3,
            "words": 11,
            "examples": [
                {"sound": "silence", "text": "thanks for watching", "route": "primary"},
                {"sound": "white noise", "text": EVIL, "route": "north"},
            ],
        },
        "contamination": {
            "packs": {
                "north": {
                    "known": True,
                    "same sentence": 1,
                    "similar sentence": 2,
                    "same recording": 0,
                    "similar recording": 0,
                },
                "west": {
                    "known": False,
                    "same sentence": 0,
                    "similar sentence": 0,
                    "same recording": 0,
                    "similar recording": 0,
                },
            },
            "leaks": [
                {"id": f"or-{k}", "pack": "north", "kind": "similar sentence", "similarity": 0.87}
                for k in range(12)
            ],
            "clean": clean,
        },
        "skipped": [{"source": "manifest.jsonl:7", "reason": EVIL}],
        "settings": {"beam": 5, "seed": 0},
        "base": {"name": "micro", "checksum": "abc"},
        "packs": [{"name": "north", "languages": ["or"]}],
        "seconds": 34.0,
        "real_time_factor": 0.03,
    }


@pytest.fixture
def rows():
    return [
        row(
            "or-7",
            "or",
            "ଓଡ଼ିଆ ଭାଷା।",
            "Ol dia bhasa!",
            11,
            10,
            right="north",
            tag="en",
            confidence=0.51,
        ),
        row(EVIL, "ar", "كتب كِتَابٌ", "كتب الكتاب جديد", 8, 11),
        row("th-1", "th", "ที่นี่ ดีมาก", "ที่นี ดีจาก", 2, 11),
        row(
            "script",
            "or",
            "the script runs on",
            f"the {EVIL}",
            20,
            30,
            "north",
            "north",
            confidence=None,
        ),
        row("blank", "or", "...", "words", 5, 0, "north", "north"),
        row("perfect", "or", "ଭାଷା", "ଭାଷା", 0, 4, "north", "north"),
    ]


def older(report):
    """As it was before anything but rates and routing was measured."""
    for entry in (*report["languages"].values(), report["mean"]):
        del entry["group_aware"]
        for mode in ("pipeline_aware", "agnostic"):
            del entry[mode]["word"], entry[mode]["character"]
    del report["routing"]["calibration"], report["hallucination"], report["contamination"]
    return report


def section(markdown, title):
    return re.search(rf"^## {title}.*?(?=^## |\Z)", markdown, re.MULTILINE | re.DOTALL)[0]


def test_markdown_says_everything(report, rows):
    text = to_markdown(report, COMMAND, rows)
    head = text.splitlines()
    assert head[0] == "# Evaluation of micro with north" and head[2] == "## Character error rate"
    cer = section(text, "Character error rate")
    assert (
        "| or | 30 | north | 20.00 (18.0 to 23.0) | 21.00 (19.0 to 24.0) | 22.00 (20.0 to 25.0) |"
        " 90.00 |" in cer
    )
    assert "| th | 4 | zero-shot |" in cer and cer.count("| –") == 1
    assert "| or | 40.00 (35.0 to 45.0) | 41.00 (36.0 to 46.0) | 42.00 (37.0 to 47.0) |" in section(
        text, "Word error rate"
    )
    assert (
        "Expected calibration error 4.56 %" in text
        and "| 0.90 to 1.00 | 26 | 96.00 | 86.82 |" in text
    )
    assert "Of 20 sounds without speech, 3 were given words, 11 in all." in text
    contamination = section(text, "Contamination")
    assert "| north | 1 | 2 | 0 | 0 |" in contamination and "| west | not known |" in contamination
    assert "| or | agnostic | 30 | 27 | 22.00 | 23.40 | 42.00 | 45.60 |" in section(
        text, "Without the contaminated clips"
    )
    leaks = section(text, "Contaminated clips")
    assert "12 in all; the first 10." in leaks and leaks.count("| similar sentence |") == 10
    # 8 of 40 words of Odia, 9 of 200 characters of Thai
    errors = section(text, "Kinds of errors")
    assert (
        "| or | agnostic | word | 20.00 | 5.00 | 2.50 |" in errors
        and "| character | 4.50 | 1.00 | 0.50 |" in errors
    )
    whisper = section(text, "With Whisper's normaliser")
    assert "“ଓଡ଼ିଆ ଭାଷା” is scored as “ଓଡ ଆ ଭ ଷ”" in whisper and "“ที่นี่” as “ท น”" in whisper
    assert COMMAND in text and "Not measured" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_worst_clips_are_aligned(report, rows):
    worst = worst_clips(report, rows)
    # nothing is wrong with the last
    assert [clip.id for clip in worst] == ["or-7", EVIL, "th-1", "script", "blank"]
    assert (
        worst[0].note
        == "or, CER 110.00 %, route primary (right: north), heard as en, posterior 0.51"
    )
    assert worst[4].note.startswith("or, no reference, route north")
    assert "posterior" not in worst[3].note
    assert [kind for kind, _, _ in worst[2].aligned] == [
        "equal",
        "delete",
        "equal",
        "substitute",
        "equal",
    ]
    lines = section(to_markdown(report, None, rows), "Worst clips").splitlines()
    block = lines[lines.index("```text") :]
    assert block[1].split() == ["REF", "ଓଡ଼ିଆ", "ଭାଷା"] and block[2].split() == [
        "HYP",
        "ol",
        "dia",
        "bhasa",
    ]
    assert sorted(block[3].split()) == ["I", "S", "S"]
    assert len(worst_clips(report, rows * 10)) == 20


def test_a_long_alignment_is_wrapped(report):
    ref = " ".join(f"word{k}" for k in range(60))
    lines = section(
        to_markdown(report, None, [row("long", "or", ref, ref + " more", 5, 400)]), "Worst clips"
    ).splitlines()
    assert max(map(len, lines[4:])) < 110
    refs = [line.split()[1:] for line in lines if line.startswith("REF")]
    assert len(refs) > 1 and sum(refs, []) == ref.split()


@pytest.mark.parametrize("render", [to_markdown, to_html])
def test_older_reports_still_render(render, report, rows):
    clips = [
        {key: value for key, value in clip.items() if key not in ("group_aware", "confidence")}
        for clip in rows
    ]
    text = render(older(report), COMMAND, clips)
    assert "Not measured: calibration, words for silence and noise, contamination." in text
    assert "group-aware" not in text and "Kinds of errors" not in text
    assert "20.00 (18.0 to 23.0)" in text and "th-1" in text


class Page(HTMLParser):
    """Tags with attributes, and the text outside the style sheet."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_html_is_one_file_without_scripts(report, rows):
    page = Page(to_html(report, COMMAND, rows))
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
        targets = [
            value for key, value in attributes.items() if key in ("src", "href", "xlink:href")
        ]
        assert all(target.startswith("#") for target in targets), targets
    # as text: of a clip's id, a probe, a skipped row
    assert EVIL in page.text and "<script>" in page.text
    assert names.count("svg") == 2 and names.count("article") == 5
    kinds = [
        attributes["class"].split()[1]
        for tag, attributes in page.tags
        if tag == "span" and attributes.get("class", "").startswith("pair ")
    ]
    assert set(kinds) == {"substitute", "delete", "insert"}
    assert names.count("i") == len(kinds)  # each error has its letter, for eyes without colours


def test_spectrograms_stand_with_their_clips(report, rows):
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    words = [(0.1, 0.3, " ଭାଷା"), (0.4, 0.5, " $a$ <b>"), (0.97, 1.0, " ending")]
    drawn = {1: spectrogram_svg(tone, EVIL, words), 4: spectrogram_svg(tone, "the last", ())}
    page = Page(html := to_html(report, COMMAND, rows, drawn))
    names = [tag for tag, _ in page.tags]
    assert names.count("svg") == 4 and not {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "b>",
    } & set(names)
    assert (
        names.count("image") == 2
        and "ଭାଷା" in page.text
        and "$a$ <b>" in page.text
        and "ending" in page.text
    )
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert EVIL in labels and "The spectrograms show" in page.text
    articles = html.split("<article>")[1:]
    assert [article.count("<svg ") for article in articles] == [0, 1, 0, 0, 1]
    assert html == to_html(
        report, COMMAND, rows, {1: spectrogram_svg(tone, EVIL, words), 4: drawn[4]}
    )
    assert "The spectrograms show" not in to_html(report, COMMAND, rows)


@pytest.mark.parametrize("seconds", [0.01, 1, 30, 45])
def test_a_spectrogram_is_small_and_whole(seconds):
    """Noise is the sound that a picture holds worst; the words of a long clip find room in four
    rows.
    """
    noise = np.random.default_rng(0).standard_normal(int(seconds * 16_000)).astype(np.float32)
    words = [(k * 0.3, k * 0.3 + 0.3, f"word{k}") for k in range(int(seconds / 0.3))]
    for scale in ("mel", "linear"):
        page = Page(svg := spectrogram_svg(noise, "noise", words, scale=scale))
        [picture] = re.findall(r'data:image/png;base64,([^"]*)', svg)
        png = base64.b64decode(picture)
        assert png.startswith(b"\x89PNG") and len(png) <= 40_000
        written = re.findall(r"word\d+", page.text)
        assert written == [text for start, _, text in words if start < 30.0]
    width, height = (float(size) for size in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    assert height < 200 and width < 740
    for x, text in re.findall(r'<text [^>]*x="([\d.]+)"[^>]*>(word\d+)<', svg):
        assert float(x) + 4 * len(text) < width


def test_html_says_what_markdown_says(report, rows):
    page, text = Page(to_html(report, COMMAND, rows)).text, to_markdown(report, COMMAND, rows)
    for line in text.splitlines():
        if line.startswith("## "):
            assert line[3:] in page
        if re.match(r"\| (or|th|ar|mean|north|west|0\.\d+ to .*|beam) \|", line):
            for cell in line.strip("| ").split(" | "):
                assert cell.strip() in page, line
    assert COMMAND in page


def test_a_report_without_rates_renders(report):
    """References without a word have no rate and no interval."""
    for entry in (*report["languages"].values(), report["mean"]):
        for mode in MODES:
            none = dict.fromkeys(("wer", "cer", "wer_interval", "cer_interval"))
            entry[mode] |= none | {"whisper": {"wer": None, "cer": None}}
    report["contamination"]["clean"]["or"] = {"n": 0}
    report["hallucination"] = {"probes": 20, "with_words": 0, "words": 0, "examples": []}
    report["routing"]["calibration"] = {"ece": None, "bins": []}
    assert "| or | agnostic | 30 | 0 | – | – | – | – |" in to_markdown(report)
    assert "0 were given words" in to_html(report)


def test_the_same_report_makes_the_same_page(report, rows):
    again = json.loads(json.dumps(report))
    assert to_html(report, COMMAND, rows) == to_html(again, COMMAND, rows)
