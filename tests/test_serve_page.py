"""The page without a browser: its sentences, its HTML, and its handlers on a tiny model."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import gradio
import numpy as np
import pytest
import soundfile
from dualasr_serve import page
from dualasr_serve.explanation import explain, odds
from dualasr_serve.markdown import markdown_html
from dualasr_serve.page_html import (
    View,
    bars_html,
    clock,
    comparison_html,
    note_html,
    percent,
    transcript_html,
)
from dualasr_serve.page_packs import packs_html, scores_html
from dualasr_serve.routes import Route, by_route, language_choices, language_name, routes_of
from dualasr_serve.scheduler import Limits, Scheduler
from dualasr_serve.session import Session

from dualasr.errors import AudioError, DualasrError
from dualasr.model.selector import PRIMARY, Calibration, PackScore, SelectorOptions, rescore, select
from dualasr.transcription.transcript import Segment, Transcription, Word

ROUTES = (
    Route(PRIMARY, {"en": "English", "de": "German"}),
    Route("ky", {"ky": "Kyrgyz"}),
    Route("ga", {"ga": "Irish"}),
)
VIEW = View(ROUTES, "gradio_api/file=/tmp/clip.wav")
EVIL = "<script>alert(1)</script>\"'&<img src=https://evil.example/x.png>"


def segment(
    start=0.0,
    end=2.0,
    text="Ат суу ичти.",
    language="ky",
    route="ky",
    reason="no pack is loaded",
    **more,
):
    probs = more.pop("language_probs", {"ky": 0.9, "en": 0.07, "de": 0.02, "ga": 0.01})
    return Segment(
        start=start,
        end=end,
        text=text,
        language=language,
        route=route,
        avg_logprob=-0.2,
        no_speech_prob=0.1,
        language_probs=probs,
        scores={},
        reason=reason,
        **more,
    )


def transcription(*segments, duration=9.0):
    first = segments[0] if segments else None
    text = " ".join(segment.text for segment in segments)
    probs = first.language_probs if first else {}
    return Transcription(
        text=text,
        language=first and first.language,
        route=first.route if first else PRIMARY,
        language_probs=probs,
        segments=segments,
        duration=duration,
        scores={"windows": {"text": len(segments), "empty": 0, "no_speech": 0, "silent": 0}},
    )


# sentences


class Transcript:
    def __init__(self, logprob, tokens=10):
        self.logprob, self.avg_logprob = logprob, logprob / tokens


def pack_score(log_odds):
    return PackScore(
        name="ky",
        languages=("ky",),
        head=log_odds,
        calibration=Calibration(),
        shares=(1.0,),
        tag=0.0,
        best_tag=log_odds,
    )


def explained(log_odds, pack=None, primary=None, options=SelectorOptions()):
    """The selector's own reason for a pack with these log-odds, explained; after a second pass with
    two log-probabilities, if they are given.
    """
    decision = select(-0.5, [pack_score(log_odds)], options)
    if pack is not None:
        decision, _ = rescore(
            decision, pack_score(log_odds), Transcript(primary), Transcript(pack), 5.0, options
        )
    return explain(decision.reason, decision.route)


PAPER = SelectorOptions.paper()


@pytest.mark.parametrize(
    "explanation, wanted",
    [
        (
            explain(select(-0.5, [], SelectorOptions()).reason, PRIMARY),
            "No language pack is loaded",
        ),
        (explain("the caller chose the route", "ky"), "You chose pack ky"),
        (
            explain(select(0, [pack_score(1.0)], SelectorOptions(), primary=False).reason, "ky"),
            "Whisper knows none of the languages",
        ),
        (explained(9.0), "Pack ky recognised its language: more than 1,000 to 1"),
        (explained(-5.0), "so Whisper kept it"),
        (
            explained(0.2, options=SelectorOptions(floors={"ky": 0.5})),
            "may be in a language that no pack here knows",
        ),
        (
            explain(
                select(0, [pack_score(1.0)], SelectorOptions(), no_speech_prob=0.9).reason, PRIMARY
            ),
            "Whisper finds no speech",
        ),
        (
            explained(1.0),
            "It was close between Whisper and pack ky (about even); pack ky was ahead",
        ),
        (explained(1.0, pack=-5.0, primary=-30.0), "Pack ky's text fits the sound better"),
        (explained(0.3, pack=-30.0, primary=-5.0), "Whisper's text fits the sound better"),
        (
            explained(3.5, pack=-6.0, primary=-5.0),
            "Although Whisper's text fits the sound a little better, all evidence",
        ),
        (explained(1.0, pack=-5.0, primary=-5.0), "Both texts fit the sound alike"),
        (explained(0.5, options=PAPER), "Pack ky was more certain of its language"),
        (explained(-2.0, options=PAPER), "Whisper was more certain of its language"),
        (
            explained(-0.4, pack=-1.0, primary=-30.0, options=PAPER),
            "pack ky's text is more probable",
        ),
        (
            explain("ky: log-odds +1.00, within tau 3.0; both neighbours go to primary", PRIMARY),
            "would have gone to pack ky",
        ),
        (
            explain("ky: log-odds -1.00, within tau 3.0; both neighbours go to ky", "ky"),
            "would have gone to Whisper",
        ),
        (explain("something new", PRIMARY), "The selector says: something new."),
    ],
)
def test_the_reason_is_a_sentence(explanation, wanted):
    assert wanted in explanation and "log-odds" not in explanation
    assert explanation.endswith(".") and explanation[0].isupper()


def bars(**probs):
    """Probabilities of Kyrgyz, English, German and Irish."""
    return {"ky": probs.pop("ky"), "en": probs.pop("en", 0.0), "de": 0.0, "ga": 0.0} | probs


@pytest.mark.parametrize(
    "reason, route, probs, wanted, unwanted",
    [
        # the selector's odds are exp(9), exp(2.3) and so on; the bars' are told
        ("ky: log-odds +9.00, beyond tau 3.0", "ky", bars(ky=0.8, en=0.2), "about 4 to 1", "1,000"),
        (
            "ky: log-odds +9.00, beyond tau 3.0",
            "ky",
            {"ky": 0.75, "en": 0.1, "de": 0.05, "ga": 0.1},
            "about 5 to 1 against Whisper",
            "1,000",
        ),
        ("ky: log-odds +9.00, beyond tau 3.0", "ky", bars(ky=1.0), "more than 1,000 to 1", "even"),
        ("ky: log-odds +3.50, beyond tau 3.0", "ky", bars(ky=0.3, en=0.7), "recognised", " to 1"),
        (
            "ky: log-odds -7.00, beyond tau 3.0",
            PRIMARY,
            bars(ky=0.09, en=0.91),
            "(the most likely one, ky: about 10 to 1 against it)",
            "1,000",
        ),
        (
            "ky: log-odds -0.50, within tau 3.0",
            PRIMARY,
            bars(ky=0.55, en=0.45),
            "the selector's threshold decided for Whisper",
            "was ahead",
        ),
        (
            "ky: log-odds +1.00, within tau 3.0",
            "ky",
            bars(ky=0.8, en=0.2),
            "(about 4 to 1); pack ky was ahead",
            "about 3",
        ),
        (
            "ky: log-odds +1.00, within tau 3.0; log-odds +6.00 after both were decoded (+1.0"
            " log-probability a second)",
            "ky",
            bars(ky=0.9, en=0.1),
            "fits the sound better: about 9 to 1.",
            "400",
        ),
    ],
)
def test_odds_in_the_sentence_are_those_of_the_bars(reason, route, probs, wanted, unwanted):
    language = "ky" if route == "ky" else "en"
    said = segment(reason=reason, route=route, language=language, language_probs=probs)
    lone = transcript_html(transcription(said), VIEW)
    of_a_part = transcript_html(transcription(said, segment(3, 4, "x", "ga", "ga")), VIEW)
    for html in (lone, of_a_part):
        text = re.sub("<[^>]*>", "", html.replace("&#x27;", "'"))
        assert wanted in text and unwanted not in text, text


def test_packs_that_the_languages_exclude_are_loaded_all_the_same():
    alone = View(ROUTES[:1])
    said = segment(language="en", route=PRIMARY, language_probs={"en": 1.0})
    assert "No pack knows a language that you allow" in transcript_html(transcription(said), VIEW)
    assert "No language pack is loaded" in transcript_html(transcription(said), alone)


IRISH, ENGLISH, GERMAN = ("ga", "ga"), ("en", PRIMARY), ("de", PRIMARY)


@pytest.mark.parametrize(
    "parts, title, chips",
    [
        ([(*IRISH, 10), (*ENGLISH, 6), (*GERMAN, 2)], "Mostly Irish", ["Pack ga"]),
        # the primary wrote most, but of two languages
        ([(*IRISH, 10), (*ENGLISH, 8), (*GERMAN, 1)], "Mostly Irish", ["Pack ga"]),
        (
            [(*IRISH, 10), (*ENGLISH, 8), (*GERMAN, 7)],
            "Irish, English, German",
            ["Whisper", "Pack ga"],
        ),
        (
            [(*ENGLISH, 10), (*IRISH, 6), (*GERMAN, 6)],
            "English, Irish, German",
            ["Whisper", "Pack ga"],
        ),
        ([(*ENGLISH, 10), (*IRISH, 2)], "Mostly English", ["Whisper"]),
        ([(*ENGLISH, 5), (*ENGLISH, 3)], "English", ["Whisper"]),
        ([("ga", "ga", 5), ("ga", PRIMARY, 3)], "Irish", ["Pack ga", "Whisper"]),
    ],
)
def test_the_headline_names_the_routes_of_the_languages_that_it_names(parts, title, chips):
    segments, start = [], 0.0
    for number, (language, route, seconds) in enumerate(parts):
        segments.append(segment(start, start + seconds, f"{number}", language, route, f"{number}"))
        start += seconds
    html = transcript_html(transcription(*segments), VIEW)
    head = re.search("<h3>(.*?)</h3>", html)[1]
    assert re.search('class="language">(.*?)</span>', head)[1] == title
    assert re.findall('class="chip">(.*?)</span>', head) == chips


@pytest.mark.parametrize(
    "lead, wanted",
    [
        (0.1, "about even"),
        (0.7, "about 2 to 1"),
        (-3.0, "about 20 to 1"),
        (5.7, "about 300 to 1"),
        (40.0, "more than 1,000 to 1"),
        (float("inf"), "more than 1,000 to 1"),
        (float("nan"), "about even"),
    ],
)
def test_odds(lead, wanted):
    assert odds(lead) == wanted


# routes


def test_probabilities_are_grouped_by_the_route_that_knows_the_language():
    found = by_route({"en": 0.2, "ky": 0.7, "de": 0.06, "ga": 0.04, "xx": 0.0}, ROUTES)
    assert [(route.name, list(probs)) for route, probs in found] == [
        ("ky", ["ky"]),
        (PRIMARY, ["en", "de"]),
        ("ga", ["ga"]),
    ]


def test_routes_of_a_model_and_their_languages(make_model):
    primary, north = routes_of(make_model(("north", "ky")))
    assert primary.languages["en"] == "English" and primary.label == "Whisper (5 languages)"
    assert (north.label, north.title) == ("Pack north (ky)", "pack north")
    names = [
        name
        for name, _ in language_choices(
            (Route("a", {"x": "Same"}), Route("b", {"y": "Same", "z": "Other"}))
        )
    ]
    assert names == ["Other", "Same (x)", "Same (y)"]
    assert (
        language_name("ga", ()) == "Irish"
        and language_name("qq", ()) == "qq"
        and language_name(None, ())
    )


# HTML


def test_an_answer_names_language_route_times_and_reason():
    words = (Word(0.0, 1.0, "Ат", 0.9, False), Word(1.0, 2.0, " суу", 0.9, False))
    said = segment(words=words, reason="the caller chose the route")
    html = transcript_html(transcription(said), VIEW)
    for wanted in (
        "Kyrgyz",
        "Pack ky",
        "route-1",
        "You chose pack ky",
        'lang="ky"',
        'data-at="0.00"',
        "<audio controls",
        'data-end="2.00">суу<',
        "90&nbsp;%",
        "2 languages: 9&nbsp;%",
    ):
        assert wanted in html, wanted
    assert "<details" not in html, "one part: its evidence is open"


def test_parts_of_a_long_answer_have_their_own_evidence():
    parts = [
        segment(),
        segment(2.0, 4.0),
        segment(4.0, 6.0, "Hello", "en", PRIMARY, "ky: log-odds -7.00, beyond tau 3.0"),
    ]
    html = transcript_html(transcription(*parts), VIEW)
    assert html.count("<details") == 2, "two windows, the first of two sentences"
    assert "Of 2 parts of the sound, 1 went to pack ky (Kyrgyz) and 1 to Whisper (English)." in html
    assert "Mostly Kyrgyz" in html and "Why Whisper?" in html and html.count('class="line"') == 3
    assert 'class="caption"' not in html and 'class="caption"' in transcript_html(
        transcription(*parts, *parts), VIEW
    )


def test_an_answer_under_way_has_no_verdict_and_no_player():
    html = transcript_html(transcription(segment()), VIEW, "Transcribing: 0:09 so far")
    assert (
        "Transcribing" in html
        and "verdict" not in html
        and "<audio" not in html
        and "Ат суу" in html
    )


@pytest.mark.parametrize(
    "duration, windows, wanted",
    [
        (0.0, {}, "no sound"),
        (3.0, {"silent": 1}, "only silence"),
        (3.0, {"no_speech": 1}, "No speech"),
    ],
)
def test_an_empty_answer_says_why(duration, windows, wanted):
    empty = replace(transcription(duration=duration), scores={"windows": windows})
    assert wanted in transcript_html(empty, VIEW)


def test_of_what_others_would_have_said_the_same_text_alone_is_the_one_above():
    above, other = (
        transcription(segment()),
        transcription(segment(text="Suu içti.", language="tr", route=PRIMARY)),
    )
    html = comparison_html([(PRIMARY, other), ("ky", above), ("ga", None)], above.text, VIEW)
    cards = html.split("<article")
    assert [("the transcript above" in card) for card in cards[1:]] == [False, True, False]


def test_whatever_a_text_holds_is_text():
    routes = (Route(PRIMARY, {"en": EVIL}), Route(EVIL, {EVIL: EVIL}))
    view = View(routes, f"gradio_api/file={EVIL}")
    words = (Word(0.0, 1.0, EVIL, 0.9, False),)
    probs = {"en": 0.5, EVIL: 0.5}
    one = transcription(segment(0, 1, EVIL, EVIL, EVIL, EVIL, words=words, language_probs=probs))
    two = transcription(
        *one.segments, segment(1, 2, EVIL, "en", PRIMARY, EVIL, language_probs=probs)
    )
    made = [
        transcript_html(one, view),
        transcript_html(two, view),
        transcript_html(two, view, EVIL),
        note_html(EVIL, "error"),
        comparison_html([(EVIL, one), (PRIMARY, None)], EVIL, view),
        bars_html(probs, view),
        markdown_html(EVIL),
        markdown_html(
            f"# {EVIL}\n- {EVIL}\n\n| {EVIL} | a |\n|---|---|\n| `{EVIL}` | **{EVIL}** |\n"
        ),
        markdown_html(f"```\n{EVIL}\n```\n    {EVIL}"),
        markdown_html(
            f'![x](https://evil.example/x.png) [{EVIL}](javascript:alert) [a](https://b"onclick=1)'
        ),
        scores_html({EVIL: {EVIL: 0.5, "CER": 0.1, "x": EVIL}}),
    ]
    for html in made:
        assert (
            "<script" not in html
            and "<img" not in html
            and not re.search(r"(?<!&quot;)(?<!%22)onclick=", html)
        )


def test_clock_and_percent():
    assert [clock(s) for s in (-1, 7.9, 61, 3723)] == ["0:00", "0:07", "1:01", "1:02:03"]
    assert [percent(p) for p in (0, 0.004, 0.5, 0.997, 1)] == [
        "0&nbsp;%",
        "&lt;1&nbsp;%",
        "50&nbsp;%",
        "&gt;99&nbsp;%",
        "100&nbsp;%",
    ]


def test_markdown_of_a_card():
    text = (
        "# Title\n\nA `b` and **c**,\nsee [d](https://e.example/f).\n\n| | x |\n|---|---|\n| 1 |"
        " 2 |\n"
    )
    html = markdown_html(f"{text}\n    code <\n\n- one\n- two").replace("\n", "")
    assert (
        '<h4>Title</h4><p>A <code>b</code> and <strong>c</strong>,see <a href="https://e.example/f"'
        ' rel="noopener' in html
    )
    assert (
        "<th>x</th>" in html and "<td>1</td><td>2</td>" in html and "<code>code &lt;</code>" in html
    )
    assert "<li>one</li><li>two</li>" in html
    assert (
        markdown_html("![plot](plot.png) [a](javascript:alert(1)) [b](card.md)")
        == "<p> <a>a</a> <a>b</a></p>\n"
    )


# packs


def test_packs_with_their_languages_scores_card_and_plots(make_model, tmp_path):
    model = make_model(("north", "ky"))
    pack = model.packs["north"]
    info = replace(
        pack.info,
        languages={"ky": "Kyrgyz"},
        scores={"dev CER": 0.083, "note": "x", "after": {"CER": {"en": 0.13}}},
    )
    model = replace(model, packs={"north": replace(pack, info=info, folder=tmp_path)})
    (tmp_path / "README.md").write_text("# The card\n")
    (tmp_path / "regression.md").write_text(
        "| after | en |\n|---|---|\n| + ky | 9.4 |\n\n![](regression.png)\n"
    )
    (tmp_path / "regression.png").write_bytes(b"\x89PNG....")
    (tmp_path / "no.png").write_bytes(b"<svg onload=alert(1)>")
    html = packs_html(model)
    for wanted in (
        "Kyrgyz",
        "8.3&nbsp;%",
        "after · CER · en",
        "The card",
        "<td>9.4</td>",
        "data:image/png;base64,",
        "LSTM with attention",
        "MB",
        "trained without audio in other languages",
    ):
        assert wanted in html, wanted
    assert html.count("<img") == 1, "a PNG by its first bytes"
    assert "a dualasr language pack" in packs_html(make_model(("north", "ky"))), (
        "a card of a pack that is on no disk"
    )
    assert "no language pack loaded" in packs_html(make_model())


# handlers


@pytest.fixture
def serve(make_model):
    schedulers = []

    def serve(*packs, **limits):
        schedulers.append(Scheduler(make_model(*packs), Limits(**limits)))
        return schedulers[-1]

    yield serve
    for scheduler in schedulers:
        scheduler.close()


@pytest.fixture
def clip(tmp_path, clips):
    path = tmp_path / "clip.wav"
    soundfile.write(path, clips[2], 16_000)
    return path


def collected(generator):
    async def collect():
        return [item async for item in generator]

    return asyncio.run(collect())


def test_a_sound_is_transcribed_with_files_to_download(serve, clip):
    scheduler = serve(("north", "ky"))
    session, seen = Session(), {}

    async def use():
        async for html, _, downloads, *rest in page.transcribe(
            scheduler, str(clip), "north", None, session
        ):
            seen["html"], seen["shown"] = html, downloads.visible
            seen["files"] = [Path(file) for file in rest[:4] if isinstance(file, str)]
            seen["contents"] = [file.read_text() for file in seen["files"]]

    asyncio.run(use())
    assert (
        session.result.route == "north" and "You chose pack north" in seen["html"] and seen["shown"]
    )
    assert [file.name for file in seen["files"]] == [
        "clip.srt",
        "clip.vtt",
        "clip.txt",
        "clip.json",
    ]
    assert (
        "-->" in seen["contents"][0]
        and seen["contents"][1].startswith("WEBVTT")
        and '"route"' in seen["contents"][3]
    )
    assert not seen["files"][0].exists(), "gone once gradio has its copies"
    assert session.ticket is None, "it would keep replaced packs in memory"
    last, _ = collected(page.compare_routes(scheduler, session))[-1]
    assert (
        "Whisper" in last
        and "Pack north" in last
        and "busy" not in last
        and "the transcript above" in last
    )


@pytest.mark.parametrize(
    "name, content, route, languages, wanted",
    [
        (None, b"", "auto", [], page.NO_SOUND),
        ("my.wav", b"nonsense", "auto", [], "my.wav"),
        ("my.wav", b"nonsense", "gone", [], "There is no route"),
        ("my.wav", b"nonsense", "north", ["en", "de"], "does not know English, German"),
    ],
)
def test_errors_are_sentences_without_places(
    serve, tmp_path, name, content, route, languages, wanted
):
    path = name and tmp_path / name
    if path:
        path.write_bytes(content)
    with pytest.raises(gradio.Error) as caught:
        collected(
            page.transcribe(serve(("north", "ky")), path and str(path), route, languages, Session())
        )
    assert wanted in caught.value.message and str(tmp_path) not in caught.value.message


def test_who_records_is_not_told_that_there_is_no_sound(serve):
    scheduler, session = serve(), Session()

    def refused():
        with pytest.raises(gradio.Error) as caught:
            collected(page.transcribe(scheduler, None, "auto", [], session))
        return caught.value.message

    assert "There is no sound yet" in refused()
    session.record()
    assert "There is no sound" not in refused() and "wait until it can be played" in refused()
    session.receive()
    assert "There is no sound yet" in refused()
    events = {
        target[1]: fn.fn for fn in page.build_page(scheduler).fns.values() for target in fn.targets
    }
    assert events["start_recording"] is Session.record and events["change"] is Session.receive


def test_progress_is_told_with_its_total(serve, tmp_path, clips):
    sound = np.concatenate([clips[3]] * 9)
    soundfile.write(tmp_path / "long.wav", sound, 16_000)
    shown = collected(
        page.transcribe(serve(batch=1), str(tmp_path / "long.wav"), "auto", [], Session())
    )
    told = [re.search("Transcribing: [^<]*", html) for html, *_ in shown]
    progress = [match[0] for match in told if match]
    assert progress and all(text.endswith(" of 0:36") for text in progress), progress
    assert page._progress(61.0, 0.0) == "Transcribing: 1:01 so far", "of an unknown length"
    assert page._progress(61.0, 30.0) == "Transcribing: 1:01 so far", "the header lies"


def test_an_unexpected_error_is_written_only_to_the_log(serve, clip, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise KeyError("/secret/place")

    monkeypatch.setattr(page, "model_request", broken)
    with pytest.raises(gradio.Error) as caught:
        collected(page.transcribe(serve(), str(clip), "auto", [], Session()))
    assert (
        caught.value.message.replace("&#x27;", "'") == page.UNEXPECTED
        and "/secret/place" in caplog.text
    )


def test_messages_of_errors_are_escaped():
    assert page.error_text(AudioError("/a/b/x.wav: bad"), "/a/b/x.wav") == "x.wav: bad"
    assert "<" not in page.gradio_error(EVIL).message
    assert page.error_text(DualasrError("plain"), "x.wav") == "plain"


def test_the_page_asks_for_words_where_they_can_be_had(make_model, without_torchaudio):
    model = make_model(("north", "ky"))
    wanted = {
        route: page.model_request(model, route, []).request.options.words
        for route in ("auto", "north", PRIMARY)
    }
    assert wanted == {"auto": False, "north": False, PRIMARY: True}
    assert page.model_request(make_model(), "auto", []).request.options.words, (
        "no pack that would need it"
    )


def test_who_leaves_is_not_waited_for(serve, clip):
    scheduler = serve()

    async def leave():
        request = page.model_request(scheduler.model, "auto", [])
        transcripts = Session().transcribe(scheduler, clip, request)
        task = asyncio.ensure_future(anext(transcripts))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            if not len(scheduler):
                return True
            await asyncio.sleep(0.05)

    assert asyncio.run(leave())


def test_stop_ends_with_a_word_and_the_next_sound_without_one(serve, clip):
    scheduler = serve()

    async def last(session, act):
        """The last that is shown of a request after `act`, in the midst of it."""
        shown = []
        async for html, *_ in page.transcribe(scheduler, str(clip), "auto", [], session):
            shown.append(html)
            asyncio.get_running_loop().call_soon(act)
        return shown[-1]

    async def replaced(session):
        first = asyncio.ensure_future(last(session, lambda: None))
        await asyncio.sleep(0.01)
        second = await last(session, lambda: None)
        return await first, second

    session = Session()
    assert "Stopped." in asyncio.run(last(session, session.stop)) and session.result is None
    first, second = asyncio.run(replaced(Session()))
    assert "busy" in first and "busy" not in second


def test_the_page_shows_the_packs_that_are_loaded_now(serve, make_model):
    scheduler = serve()
    built = page.build_page(scheduler)
    refresh = next(
        fn.fn for fn in built.fns.values() if any(target[1] == "load" for target in fn.targets)
    )

    def seen():
        route, languages, *rest = refresh()
        return [name for _, name in route.choices], dict(map(reversed, languages.choices)), rest

    routes, languages, rest = seen()
    assert routes == ["auto", PRIMARY] and "ky" not in languages
    examples = {
        file.stem: button.visible for file, button in zip(page.EXAMPLES, rest, strict=False)
    }
    assert examples["en"] and not examples["ky"] and not examples["en_ky"]
    scheduler.model = make_model(("north", "ky"))
    routes, languages, rest = seen()
    assert routes == ["auto", PRIMARY, "north"] and "ky" in languages and "north" in rest[-1]
    examples = {
        file.stem: button.visible for file, button in zip(page.EXAMPLES, rest, strict=False)
    }
    assert examples["ky"] and examples["en_ky"] and not examples["ga"]


def test_the_page_names_no_other_host():
    settings = page.page_settings()
    assert not settings["theme"]._stylesheets, "fonts of the system alone"
    for file in (*settings["css_paths"], page.HERE / "page.js"):
        assert "http" not in Path(file).read_text(), file
    assert all(file.is_file() for file in page.EXAMPLES)
    assert sum(file.stat().st_size for file in page.EXAMPLES) < 120_000
