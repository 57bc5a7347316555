"""Evaluation on a two-layer random Whisper: what it says must be what the model says, counted
right.
"""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import load_audio, split_windows
from dualasr.data.corpus import SkippedRow, Utterance
from dualasr.errors import CorpusError, RunError
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.hallucination import probes
from dualasr.evaluation.report import to_markdown, write_report
from dualasr.evaluation.scoring import MODES
from dualasr.metrics import bootstrap_interval, per_sentence_errors
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.selector import SelectorOptions
from dualasr.text import normalise
from dualasr.transcription.alignment import words_of_clip
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe

GREEDY = EvaluationOptions(beam=1, batch=3, bootstrap=50, probes=0)
COMMAND = "dualasr evaluate --base micro --data corpus"


@pytest.fixture
def utterance(tmp_path):
    """A wav of some samples as an utterance."""

    def make(id, language, samples, text="one two three"):
        path = tmp_path / f"{id}.wav"
        soundfile.write(path, samples, 16_000)
        return Utterance(id, text, language, path, len(samples) / 16_000, "test")

    return make


@pytest.fixture
def spoken(utterance, clips):
    """Four clips: of a language of the primary, of one of each pack's, and of one that nobody
    knows.
    """
    return [
        utterance(f"clip-{code}", code, clip)
        for code, clip in zip(("en", "ky", "ga", "xx"), clips, strict=True)
    ]


def say(model, row, **given):
    return model.transcribe_windows([load_audio(row.audio)], **given)[0]


def distinct(model, rows, route):
    """The rows with what a pipeline says of them as their text; at least one word must be there to
    be altered.
    """
    heard = [replace(row, text=say(model, row, route=route).text) for row in rows]
    assert sum(len(normalise(row.text, "marks").split()) for row in heard) > 1, (
        "the random model says nothing"
    )
    return heard


def test_the_report_adds_up(make_model, spoken, clips, utterance):
    model = make_model(("north", "ky"), ("west", "ga"))
    rows = [*spoken, utterance("another", "ky", clips[0])]
    evaluation = evaluate(model, rows, GREEDY)
    report, found = evaluation.report, evaluation.clips
    assert {clip.id for clip in found} == {row.id for row in rows}
    assert {code: entry["n"] for code, entry in report["languages"].items()} == {
        "en": 1,
        "ga": 1,
        "ky": 2,
        "xx": 1,
    }
    assert {code: entry["pipeline"] for code, entry in report["languages"].items()} == {
        "en": "primary",
        "ga": "west",
        "ky": "north",
        "xx": "primary",
    }
    assert [code for code, entry in report["languages"].items() if not entry["known"]] == ["xx"]
    assert sum(entry["hours"] for entry in report["languages"].values()) == pytest.approx(
        11.4 / 3600
    )
    confusion = report["routing"]["confusion"]
    assert all(set(counts) == {"primary", "north", "west"} for counts in confusion.values())
    assert {code: sum(counts.values()) for code, counts in confusion.items()} == {
        "en": 1,
        "ga": 1,
        "ky": 2,
        "xx": 1,
    }
    known = [clip for clip in found if clip.language != "xx"]
    right = [clip.agnostic.route == clip.pipeline_aware.route for clip in known]
    assert report["routing"]["accuracy"] == np.mean(right)
    assert report["routing"]["language_accuracy"] == np.mean(
        [c.agnostic.language == c.language for c in known]
    )
    for mode in MODES:
        for rate in ("wer", "cer"):
            each = [entry[mode] for entry in report["languages"].values()]
            assert report["mean"][mode][rate] == pytest.approx(
                np.mean([scores[rate] for scores in each])
            )
            assert report["mean"][mode]["whisper"][rate] == pytest.approx(
                np.mean([s["whisper"][rate] for s in each])
            )
            low, high = report["mean"][mode][f"{rate}_interval"]
            assert low <= high
            pair = report["languages"]["ky"][mode]
            assert pair[f"{rate}_interval"][0] <= pair[rate] <= pair[f"{rate}_interval"][1]
    assert report["packs"] == [
        {"name": "north", "languages": ["ky"]},
        {"name": "west", "languages": ["ga"]},
    ]
    assert report["base"]["checksum"] == model.backbone.checksum
    assert (
        report["settings"]["beam"] == 1
        and report["settings"]["selector"]["tau"] == model.selector.tau
    )
    assert report["seconds"] > 0 and report["real_time_factor"] == pytest.approx(
        report["seconds"] / 11.4
    )
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("beam", "selector"),
    [
        (1, SelectorOptions()),
        (1, SelectorOptions(tau=1e9)),
        (1, SelectorOptions(tau=1e9, max_candidates=1)),
        (1, SelectorOptions.paper()),
        (1, SelectorOptions(beta=1e3)),
        (1, SelectorOptions(beta=-1e3)),
        (3, SelectorOptions(tau=1e9)),
    ],
)
def test_both_modes_say_what_the_model_says(make_model, spoken, beam, selector):
    model = replace(make_model(("north", "ky"), ("west", "ga")), selector=selector)
    options = EvaluationOptions(beam=beam, batch=4, bootstrap=0, probes=0)
    decode = DecodeOptions(beam=beam)
    for clip in evaluate(model, spoken, options).clips:
        row = next(row for row in spoken if row.id == clip.id)
        right = {"ky": "north", "ga": "west"}.get(row.language, "primary")
        for mode, expected in (
            (clip.pipeline_aware, say(model, row, route=right, options=decode)),
            (clip.agnostic, say(model, row, options=decode)),
        ):
            assert (mode.hyp, mode.route, mode.language) == (
                expected.text,
                expected.route,
                expected.language,
            )
        assert clip.agnostic.reason == say(model, row, options=decode).reason
        assert clip.windows == 1


@pytest.mark.parametrize(
    ("packs", "language", "route"), [((), "en", "primary"), ((("north", "ky"),), "ky", "north")]
)
def test_known_rates(make_model, utterance, clips, packs, language, route):
    model = make_model(*packs)
    rows = distinct(
        model, [utterance(str(i), language, clip) for i, clip in enumerate(clips)], route
    )
    said = [normalise(row.text, "marks").split() for row in rows]
    words, characters = sum(map(len, said)), sum(len(" ".join(line)) for line in said)
    scores = evaluate(model, rows, GREEDY).report["languages"][language]["pipeline_aware"]
    assert (
        scores["wer"] == scores["cer"] == scores["whisper"]["wer"] == scores["whisper"]["cer"] == 0
    )
    assert scores["wer_interval"] == scores["cer_interval"] == [0, 0]

    k = next(i for i, line in enumerate(said) if line)
    altered = [*said[k][:-1], said[k][-1][:-1] + "ß"]  # one letter of one word
    changed = [
        replace(row, text=" ".join(altered)) if i == k else row for i, row in enumerate(rows)
    ]
    scores = evaluate(model, changed, GREEDY).report["languages"][language]["pipeline_aware"]
    assert (scores["wer"], scores["cer"]) == (1 / words, 1 / characters)
    counts = per_sentence_errors(
        [normalise(r.text, "marks") for r in changed], [" ".join(line) for line in said], "word"
    )
    assert scores["wer_interval"] == list(bootstrap_interval(counts, samples=50, seed=0))


def test_spaces_are_no_characters_where_a_language_has_none(make_model, utterance, clips):
    model = make_model()
    row = distinct(model, [utterance("thai", "th", clips[2])], "primary")[0]
    spaced = replace(row, text=" ".join("".join(normalise(row.text, "marks").split())))
    entry = evaluate(model, [spaced], GREEDY).report["languages"]["th"]
    assert entry["unit"] == "character"
    assert entry["pipeline_aware"]["cer"] == 0 < entry["pipeline_aware"]["wer"]


def test_a_long_clip_is_cut_and_joined(make_model, utterance):
    rng = np.random.default_rng(1)
    envelope = 0.2 + np.abs(np.sin(np.arange(20 * 16_000) / 9_000))
    samples = (rng.standard_normal(20 * 16_000) * 0.1 * envelope).astype(np.float32)
    model = make_model(("north", "ky"))
    row = utterance("long", "ky", samples)
    clip = evaluate(model, [row], GREEDY).clips[0]
    pieces = [
        load_audio(row.audio)[a:b]
        for a, b in split_windows(load_audio(row.audio), model.backbone.window_s)
    ]
    assert clip.windows == len(pieces) == 2 and clip.seconds == 20
    for mode, given in ((clip.pipeline_aware, {"route": "north"}), (clip.agnostic, {})):
        parts = model.transcribe_windows(pieces, **given)
        assert mode.hyp == " ".join(part.text for part in parts if part.text)
        longest = parts[int(np.argmax([len(piece) for piece in pieces]))]
        assert (mode.route, mode.language) == (longest.route, longest.language)


def test_what_cannot_be_read_is_listed_and_the_others_are_done(make_model, spoken, utterance):
    model = make_model()
    broken = utterance("broken", "en", np.zeros(4_000, np.float32))
    broken.audio.write_bytes(b"no sound at all")
    skipped = (SkippedRow("manifest.jsonl:7", "has no text"),)
    report = evaluate(model, [broken, *spoken], GREEDY, skipped=skipped).report
    assert [row["source"] for row in report["skipped"]] == ["manifest.jsonl:7", "broken"]
    assert str(broken.audio) in report["skipped"][1]["reason"]
    assert sum(entry["n"] for entry in report["languages"].values()) == len(spoken)
    assert "manifest.jsonl:7" in to_markdown(report) and "broken" in to_markdown(report)
    for rows in ([], [broken]):
        with pytest.raises(CorpusError, match="nothing to evaluate"):
            evaluate(model, rows, GREEDY)


def test_a_clip_shorter_than_a_frame_has_an_empty_hypothesis(make_model, utterance):
    evaluation = evaluate(
        make_model(("north", "ky")), [utterance("click", "ky", np.full(399, 0.1))], GREEDY
    )
    clip = evaluation.clips[0]
    assert (clip.pipeline_aware.hyp, clip.agnostic.hyp, clip.windows) == ("", "", 0)
    assert evaluation.report["languages"]["ky"]["agnostic"]["wer"] == 1
    assert evaluation.report["routing"]["confusion"] == {"ky": {"primary": 1, "north": 0}}


def test_references_without_a_word_have_no_rate(make_model, utterance, clips):
    report = evaluate(
        make_model(),
        [utterance("dots", "en", clips[0], "..."), utterance("de", "de", clips[1])],
        GREEDY,
    ).report
    assert (
        report["languages"]["en"]["agnostic"]["wer"]
        is report["languages"]["en"]["agnostic"]["wer_interval"]
        is None
    )
    assert report["mean"]["agnostic"]["wer"] == report["languages"]["de"]["agnostic"]["wer"]
    json.dumps(report, allow_nan=False)
    to_markdown(report)


def test_without_packs_both_modes_are_one(make_model, spoken):
    evaluation = evaluate(make_model(), spoken, GREEDY)
    for clip in evaluation.clips:
        assert replace(clip.pipeline_aware, reason="") == replace(clip.agnostic, reason="")
    for entry in (*evaluation.report["languages"].values(), evaluation.report["mean"]):
        assert entry["pipeline_aware"] == entry["agnostic"]
    assert evaluation.report["routing"]["accuracy"] == 1


def test_a_pack_changes_no_pipeline_aware_rate_of_another_pipeline(make_model, spoken):
    before, after = (
        evaluate(make_model(*packs), spoken, GREEDY)
        for packs in ([], [("north", "ky"), ("west", "ga")])
    )
    for code in ("en", "xx"):
        assert (
            before.report["languages"][code]["pipeline_aware"]
            == after.report["languages"][code]["pipeline_aware"]
        )
        a, b = (
            next(c.pipeline_aware for c in e.clips if c.language == code) for e in (before, after)
        )
        assert a == b


def test_the_length_limit_reaches_the_primary(make_model, utterance, clips):
    model = make_model()
    row = utterance("clip", "en", clips[3])
    long = evaluate(model, [row], GREEDY).clips[0].agnostic.hyp
    short = evaluate(model, [row], replace(GREEDY, max_new_tokens=2)).clips[0].agnostic.hyp
    assert len(short) < len(long) and long.startswith(short)


def test_write_report(make_model, spoken, tmp_path):
    model = make_model(("north", "ky"))
    perfect = replace(spoken[0], text=say(model, spoken[0]).text)
    evaluation = evaluate(model, [perfect, *spoken[1:]], GREEDY)
    folder = tmp_path / "new" / "reports"
    for name in ("first.json", "first"):  # the ending is not doubled, a former report is replaced
        write_report(folder / name, evaluation, COMMAND)
        assert {path.suffix for path in folder.iterdir()} == {".jsonl", ".json", ".md", ".html"}
    assert json.loads((folder / "first.json").read_text()) == evaluation.report | {
        "command": COMMAND
    }
    text = (folder / "first.md").read_text()
    assert COMMAND in text and model.backbone.name in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert all(f"| {code} |" in tables[0] for code in ("en", "ky", "ga", "xx", "mean"))
    rows = [json.loads(line) for line in (folder / "first.clips.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(row.id for row in spoken)
    rates = [row["agnostic_errors"] / row["characters"] for row in rows]
    assert rates == sorted(rates, reverse=True) and rates[-1] == 0
    assert rows[-1]["id"] == perfect.id and rows[-1]["agnostic"]["hyp"] == perfect.text


def test_the_worst_clips_are_shown_with_their_words(make_model, spoken, utterance, clips, tmp_path):
    """One clip is too short to be heard, one is gone by then."""
    model = make_model(("north", "ky"))
    short = utterance("short", "en", clips[0][:200])
    gone = utterance("gone", "en", clips[1])
    evaluation = evaluate(model, [*spoken, short, gone], GREEDY)
    assert [clip.id for clip in evaluation.clips] == [
        Path(s.sound.path).stem for s in evaluation.sounds
    ]
    gone.audio.unlink()
    write_report(tmp_path / "words", evaluation, model=model)
    write_report(tmp_path / "plain", evaluation)
    pages = {name: (tmp_path / f"{name}.html").read_text() for name in ("words", "plain")}
    for page in pages.values():
        shown = re.findall(r'aria-label="Spectrogram of (\S+)"', page)
        assert sorted(shown) == sorted([row.id for row in spoken] + ["short"])
        pictures = re.findall(r"data:image/png;base64,([^\"]*)", page)
        assert len(pictures) == len(shown) and max(map(len, pictures)) * 3 / 4 <= 40_000
    for clip, sound in zip(evaluation.clips, evaluation.sounds, strict=True):
        if clip.id in ("short", "gone"):
            continue
        words = words_of_clip(model, load_audio(sound.sound), sound.windows)
        assert "".join(word.word for word in words).split() == clip.agnostic.hyp.split()
        [figure] = re.findall(
            rf'<svg [^>]*aria-label="Spectrogram of {clip.id}".*?</svg>', pages["words"], re.DOTALL
        )
        written = [
            html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", figure)
        ]
        assert [word.word.strip() for word in words] == written[len(written) - len(words) :]
    files = [
        (tmp_path / f"{name}{ending}").read_text()
        for name in pages
        for ending in (".json", ".md", ".clips.jsonl")
    ]
    assert files[:3] == files[3:], "a picture is of the page alone"


def test_a_report_that_cannot_be_written_leaves_nothing(make_model, spoken, tmp_path):
    evaluation = evaluate(make_model(), spoken[:1], GREEDY)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=re.escape(str(tmp_path / "file" / "report"))):
        write_report(tmp_path / "file" / "report", evaluation)
    folder = tmp_path / "taken"
    (folder / "report.md").mkdir(parents=True)  # a folder stands where the first file should go
    with pytest.raises(RunError, match=re.escape(str(folder / "report"))):
        write_report(folder / "report", evaluation)
    assert [path.name for path in folder.iterdir()] == ["report.md"]


def test_words_for_silence_and_noise_are_counted(make_model, spoken):
    model = make_model(("north", "ky"))
    report = evaluate(model, spoken[:1], replace(GREEDY, probes=8)).report["hallucination"]
    sounds = dict(probes(8))
    assert report["probes"] == len(sounds) == 8
    assert [name.split()[0] for name in sounds] == ["silence", "noise", "hum", "music"] * 2
    assert report["examples"], "the random model is silent"
    assert report["with_words"] == len(report["examples"])
    assert report["words"] == sum(
        len(normalise(row["text"], "marks").split()) for row in report["examples"]
    )
    decode = DecodeOptions(beam=1, generate={"max_new_tokens": 100})
    for row in report["examples"]:
        said = transcribe(model, sounds[row["sound"]], options=TranscribeOptions(decode=decode))
        assert (row["text"], row["route"]) == (said.text, said.route)
    assert not any(sound.any() for name, sound in sounds.items() if name.startswith("silence"))
    assert all(
        np.array_equal(sound, again)
        for (_, sound), (_, again) in zip(probes(8), probes(8), strict=True)
    )
