"""Transcription of files: every format and length is read; a broken file costs only itself."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.errors import AudioError, NoSamplesError, PackError
from dualasr.model.dual_whisper import DecodeOptions, WindowResult
from dualasr.model.fallback import Fallback, compression_ratio
from dualasr.model.search import Hypothesis
from dualasr.model.selector import SelectorOptions
from dualasr.transcription.recording import Piece, Recording, _join
from dualasr.transcription.request import TranscribeOptions, TranscribeRequest
from dualasr.transcription.transcribe import transcribe, transcribe_files
from dualasr.transcription.transcript import Segment

EVERY = DecodeOptions(fallback=Fallback((0.0,), no_speech_threshold=None))
ALL = TranscribeOptions(decode=EVERY)  # random weights: no window is called no speech


@pytest.fixture
def model(make_model):
    return make_model(("north", "ky"), ("west", "ga"))


@pytest.fixture
def write(tmp_path):
    """Write samples to a sound file and give its path."""

    def write(name, samples, rate=SAMPLE_RATE, **kind):
        soundfile.write(tmp_path / name, samples, rate, **kind)
        return tmp_path / name

    return write


def warble(seconds, rate=SAMPLE_RATE):
    """A tone whose pitch and loudness change, with noise, so that every window holds something
    else.
    """
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(1).standard_normal(len(time)) * 0.03
    pitch = 2 * np.pi * (300 * time + 40 * np.sin(time))
    return (0.3 * np.sin(pitch) * np.sin(2 * np.pi * 1.5 * time) ** 2 + noise).astype(np.float32)


def test_every_format_gives_the_same_length(model, clips, write):
    # libsndfile rounds floats differently in wav and flac
    sound, results = (clips[1] * 32767).astype(np.int16), {}
    for suffix in ("wav", "flac", "mp3", "ogg"):
        results[suffix] = transcribe(model, write(f"a.{suffix}", sound), route="north", options=ALL)
        assert results[suffix].duration == pytest.approx(2.3), suffix
        assert results[suffix].text, suffix
    assert results["wav"] == results["flac"]


@pytest.mark.parametrize("route", ["primary", "north"])
def test_a_file_is_transcribed_like_its_samples(model, clips, write, route):
    path = write("a.wav", clips[2], subtype="FLOAT")
    expected = transcribe(model, clips[2], route=route, options=ALL)
    assert transcribe(model, path, route=route, options=ALL) == expected
    assert transcribe(model, str(path), route=route, options=ALL) == expected
    window = model.transcribe_windows([clips[2]], route=route)[0]
    assert expected.text == window.text != ""
    assert expected.language == window.language
    assert expected.segments[0].avg_logprob == window.avg_logprob


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 2), (8_000, 1), (44_100, 1), (44_100, 2)])
def test_rates_and_channels(model, write, rate, channels):
    sound = warble(2, rate)
    path = write("a.wav", np.stack([sound] * channels, axis=1), rate)
    result = transcribe(model, path, options=ALL)
    assert result.duration == pytest.approx(2, abs=1e-3)
    assert result.text
    if rate == SAMPLE_RATE:
        assert result.text == transcribe(model, write("mono.wav", sound), options=ALL).text


@pytest.mark.parametrize(
    "sound", [np.zeros(0), warble(0.02), np.zeros(3 * SAMPLE_RATE), np.full(SAMPLE_RATE, 9e-5)]
)
@pytest.mark.parametrize("forced", [{}, {"route": "north"}, {"language": "ky"}])
def test_no_sound_gives_no_text(model, sound, forced):
    result = transcribe(model, sound.astype(np.float32), options=ALL, **forced)
    assert (result.text, result.language, result.route, result.segments) == (
        "",
        None,
        "primary",
        (),
    )
    assert result.language_probs == {}
    assert result.duration == len(sound) / SAMPLE_RATE
    assert result.scores["windows"] == {
        "text": 0,
        "empty": 0,
        "no_speech": 0,
        "silent": int(len(sound) > 0),
    }


def test_the_shortest_window_is_decoded(model):
    for samples, silent in ((399, 1), (400, 0)):
        result = transcribe(model, warble(1)[:samples], options=ALL)
        assert result.scores["windows"]["silent"] == silent
        assert bool(result.language_probs) != bool(silent)


def test_no_speech_needs_both_thresholds(model, clips):
    for route in ("primary", "north"):
        for no_speech, logprob, kept in ((-1.0, 1.0, False), (-1.0, -1e9, True), (1.0, 1.0, True)):
            fallback = Fallback((0.0,), no_speech_threshold=no_speech, logprob_threshold=logprob)
            options = TranscribeOptions(decode=DecodeOptions(fallback=fallback))
            result = transcribe(model, clips[3], route=route, options=options)
            assert (
                result.scores["windows"]["no_speech"] == (not kept)
                and result.scores["windows"]["silent"] == 0
            )
            assert kept or (not result.text and not result.segments and result.language is None)
            # it had sound, so it was asked
            assert sum(result.language_probs.values()) == pytest.approx(1)


@pytest.mark.parametrize("route", ["primary", "north"])
def test_segments_of_a_long_file_cover_it(model, write, route):
    result = transcribe(model, write("a.wav", warble(35)), route=route, options=ALL)
    segments = result.segments
    assert len(segments) >= 3
    assert (segments[0].start, segments[-1].end) == (0, result.duration) == (0, 35)
    for segment in segments:
        spelt = (
            model.backbone.tokenizer.decode(segment.tokens, skip_special_tokens=True)
            if route == "primary"
            else model.pack(route).secondary.tokenizer.decode(segment.tokens)[0]
        )
        assert (
            segment.seek == round(100 * segment.start)
            and spelt.strip() == segment.text
            and segment.temperature == 0
        )
        assert segment.compression_ratio == compression_ratio(segment.text)
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.end == after.start
    for segment in segments:
        assert 0 < segment.end - segment.start <= model.backbone.window_s
    assert result.text == " ".join(segment.text for segment in segments)


def test_a_silent_window_is_left_out(model):
    sound = warble(40)
    sound[10 * SAMPLE_RATE : 32 * SAMPLE_RATE] = 0
    result = transcribe(model, sound, route="north", options=ALL)
    assert result.scores["windows"] == {"text": 2, "empty": 0, "no_speech": 0, "silent": 1}
    first, second = result.segments
    assert (
        first.start == 0 and 10 <= first.end < 15 and 25 < second.start <= 32 and second.end == 40
    )


def test_the_whole_is_the_majority_and_the_mean_by_seconds(model):
    sound = np.concatenate([warble(8), np.zeros(12 * SAMPLE_RATE, np.float32), warble(30)])
    result = transcribe(model, sound, options=ALL)
    segments = result.segments
    assert len(segments) == result.scores["windows"]["text"] >= 3
    seconds = np.array([segment.end - segment.start for segment in segments])
    for found, key in ((result.route, "route"), (result.language, "language")):
        total = Counter()
        for segment, length in zip(segments, seconds, strict=True):
            total[getattr(segment, key)] += length
        assert total[found] == max(total.values())
        assert result.scores[f"{key}_seconds"] == pytest.approx(total)
    for code, prob in result.language_probs.items():
        shares = [segment.language_probs[code] for segment in segments]
        assert prob == pytest.approx(float(np.average(shares, weights=seconds)))
    assert list(result.language_probs.values()) == sorted(
        result.language_probs.values(), reverse=True
    )
    assert sum(result.language_probs.values()) == pytest.approx(1)
    assert {"ky", "ga", *model.backbone.languages} == set(result.language_probs)


def test_the_majority_may_be_a_later_window(model):
    """Seconds decide, not the number or the order of windows."""
    for options in (ALL, replace(ALL, detect_only=True)):
        file = Recording("x.wav", options)
        for start, end, route, code in (
            (0, 3, "primary", "de"),
            (3, 6, "primary", "de"),
            (6, 13, "north", "ky"),
        ):
            file.pieces.append(Piece(start, end, replace(make_result(route, 0.0), language=code)))
        whole = file.result()
        assert (whole.route, whole.language) == ("north", "ky")
        assert whole.scores["route_seconds"] == {"primary": 6, "north": 7}


def test_forced_route_and_language_appear(model, clips):
    for asked, expected in (
        ({"route": "west"}, ("west", "ga")),
        ({"language": "ky"}, ("north", "ky")),
        ({"route": "north", "language": "ky"}, ("north", "ky")),
        ({"language": "de"}, ("primary", "de")),
        ({"route": "primary", "language": "tr"}, ("primary", "tr")),
    ):
        result = transcribe(model, clips[1], options=ALL, **asked)
        assert (result.route, result.language) == expected
        assert {(segment.route, segment.language) for segment in result.segments} == {expected}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"route": "south"}, ("'south'", "primary, north, west")),
        ({"language": "xx"}, ("'xx'", "nearest: ")),
        ({"route": "north", "language": "ga"}, ("'north'", "'ga'", "ky")),
        ({"route": "primary", "language": "ky"}, ("'primary'", "'ky'", "de")),
        ({"route": "south", "language": "ky"}, ("'south'", "primary, north, west")),
    ],
)
def test_unknown_route_or_language(model, asked, words):
    for call in (
        lambda: transcribe(model, np.zeros(16_000, np.float32), **asked),
        lambda: transcribe(model, "no such file.wav", **asked),
        lambda: transcribe_files(model, [], TranscribeRequest(**asked)),
    ):
        with pytest.raises(PackError) as error:
            call()
        assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([0.1, np.nan] * 400, np.float32), "NaN"),
        (np.array([0.1, -np.inf] * 400, np.float32), "infinite"),
        (np.zeros((16_000, 2), np.float32), r"\(16000, 2\)"),
        (np.float32(0.5), r"shape \(\)"),
        (np.zeros(16_000, np.int16), "int16"),
        (np.zeros(16_000, complex), "complex128"),
    ],
)
def test_arrays_that_are_refused(model, array, words):
    with pytest.raises(AudioError, match=words):
        transcribe(model, array)


def test_float64_samples_are_taken(model, clips):
    assert transcribe(model, clips[0].astype(np.float64), options=ALL) == transcribe(
        model, clips[0], options=ALL
    )


def test_broken_files_cost_only_themselves(model, clips, write, tmp_path):
    good = [write("first.wav", clips[0]), write("last.flac", clips[1])]
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is no sound.\n" * 50)
    (tmp_path / "cut.wav").write_bytes(good[0].read_bytes()[:9000])
    (tmp_path / "cut.flac").write_bytes(good[1].read_bytes()[:9000])
    write("nan.wav", np.full(16_000, np.nan, np.float32), subtype="FLOAT")
    names = ("missing.wav", "empty.wav", "text.wav", "cut.wav", "cut.flac", "nan.wav", ".")
    broken = [tmp_path / name for name in names]
    paths = [good[0], *broken, good[1]]
    alone = replace(ALL, batch=1)
    results = list(
        transcribe_files(model, map(str, paths), TranscribeRequest("north", options=alone))
    )
    assert [path for path, _ in results] == paths
    for path, result in results[1:-1]:
        assert isinstance(result, AudioError), path
        assert str(result).startswith(str(path)) and "\n" not in str(result)
    assert [result for _, result in (results[0], results[-1])] == [
        transcribe(model, path, route="north", options=alone) for path in good
    ]


def test_files_are_done_as_they_are_asked_for(model, clips, write, tmp_path):
    later = tmp_path / "b.wav"
    results = transcribe_files(
        model, [write("a.wav", clips[0]), later], TranscribeRequest(options=replace(ALL, batch=1))
    )
    assert next(results)[0].name == "a.wav"
    write("b.wav", clips[0])
    path, result = next(results)
    assert path == later and result.duration == pytest.approx(1)
    assert next(results, None) is None


@pytest.mark.parametrize("route", [None, "primary", "north"])
def test_batch_size_changes_no_text(model, route):
    sound = warble(50)
    one, eight = (
        transcribe(model, sound, route=route, options=replace(ALL, batch=batch)) for batch in (1, 8)
    )
    assert len(one.segments) >= 4
    assert [(s.start, s.text, s.route) for s in one.segments] == [
        (s.start, s.text, s.route) for s in eight.segments
    ]
    assert one.text == eight.text


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_windows_of_several_files_are_decoded_together(model, clips, write, tmp_path, batch):
    """The same as one by one, in order, though a batch spans files and one of them breaks off after
    windows of it waited.
    """
    long = np.tile(np.concatenate(clips), 4)
    paths = [
        write("a.wav", clips[0]),
        write("b.wav", long),
        write("c.wav", clips[2]),
        write("d.wav", clips[1]),
    ]
    broken = write("broken.flac", long)
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    order = [paths[0], broken, *paths[1:]]
    together = list(
        transcribe_files(model, order, TranscribeRequest(options=replace(ALL, batch=batch)))
    )
    assert [path for path, _ in together] == order
    for path, result in together:
        if path == broken:
            assert isinstance(result, AudioError)
            continue
        alone = transcribe(model, path, options=replace(ALL, batch=1))
        assert (result.text, result.route, result.duration) == (
            alone.text,
            alone.route,
            alone.duration,
        )
        assert [(s.start, s.end, s.text, s.route) for s in result.segments] == [
            (s.start, s.end, s.text, s.route) for s in alone.segments
        ]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_segments_are_told_as_they_are_settled(model, clips, write, batch):
    """File after file, each once, before its transcript comes and, of a long file, before the rest
    of it is heard.
    """
    paths, events = (
        [
            write("a.wav", clips[0]),
            write("b.wav", warble(50)),
            write("c.wav", clips[2]),
        ],
        [],
    )
    results = transcribe_files(
        model,
        paths,
        TranscribeRequest(options=replace(ALL, batch=batch)),
        on_audio=lambda seconds: events.append(("heard", seconds)),
        on_segment=lambda path, segment: events.append((path, segment)),
    )
    for path, result in results:
        assert [what for who, what in events if who == path] == list(result.segments)
        events.append(("done", path))
    who = [name for name, _ in events]
    assert [name for name in who if name in paths] == sorted(name for name in who if name in paths)
    assert batch == 8 or who.index(paths[1]) < len(who) - who[::-1].index("heard") - 1


def test_a_prompt_is_said_before_a_files_first_window_or_carried_on(model, write):
    """Each window is decoded with the prompt that it would get alone."""
    sounds, decode = [warble(35), warble(12)[::-1].copy()], replace(EVERY, prompt="Und das Licht")
    paths = [write(f"{i}.wav", sound) for i, sound in enumerate(sounds)]
    size = model.backbone.window_samples
    for carry in (False, True):
        options = replace(ALL, decode=decode, carry_prompt=carry)
        for _, result in transcribe_files(
            model, paths, TranscribeRequest("primary", options=options)
        ):
            assert len(result.segments) >= 2 or result.duration < 20
            for k, segment in enumerate(result.segments):
                sound = load_audio(paths[0] if result.duration > 20 else paths[1])
                clip = sound[round(segment.start * SAMPLE_RATE) : round(segment.end * SAMPLE_RATE)][
                    :size
                ]
                asked = decode if carry or k == 0 else replace(decode, prompt="")
                assert (
                    segment.text
                    == model.transcribe_windows([clip], route="primary", options=asked)[0].text
                )
    with_it, without = (
        model.transcribe_windows([sounds[0][:size]], route="primary", options=o)[0].tokens
        for o in (decode, EVERY)
    )
    assert with_it != without, "the prompt matters here"


def test_stretches_behind_the_end_cost_the_others_nothing(model, clips, write):
    path = write("a.wav", clips[1])
    asked = replace(ALL, stretches=((0.0, 1.0), (50.0, 60.0), (70.0, None)))
    assert transcribe(model, path, options=asked) == transcribe(
        model, path, options=replace(asked, stretches=((0.0, 1.0),))
    )
    with pytest.raises(NoSamplesError, match="a.wav"):
        transcribe(model, path, options=replace(asked, stretches=asked.stretches[1:]))


def test_only_the_stretches_that_are_asked_for_are_heard(model, clips, write):
    path, sound = write("long.wav", np.concatenate(clips)), np.concatenate(clips)
    asked = replace(ALL, stretches=((1.0, 2.5), (4.0, None)))
    for audio in (path, sound):
        result = transcribe(model, audio, route="north", options=asked)
        assert [(s.start, s.end) for s in result.segments] == [
            (1.0, 2.5),
            (4.0, len(sound) / 16_000),
        ]
    alone = transcribe(model, load_audio(path)[16_000:40_000], route="north", options=ALL)
    assert result.segments[0].text == alone.text


def make_result(route: str, log_odds: float, silence: float = 0.0) -> WindowResult:
    return WindowResult(
        text="a",
        language="ky",
        route=route,
        language_probs={},
        no_speech_prob=silence,
        reason="said",
        runner_up="north",
        scores={"north": {"log_odds": log_odds}},
    )


@pytest.mark.parametrize(
    "beta, log_odds, close",
    [
        (-0.75, 2.5, True),  # its lead is 1.75; without beta it would be 2.5
        (-0.75, 2.625, True),
        (-0.75, 2.75, False),  # 2 is the limit, and no longer below it
        (0.75, 1.5, False),  # 2.25
        (0.75, 1.0, True),
    ],
)
def test_the_lead_of_a_lone_window_is_that_of_the_selector(beta, log_odds, close):
    file = Recording("x.wav", TranscribeOptions(smoothing=2.0))
    for k, (to, z) in enumerate([("primary", -5.0), ("north", log_odds), ("primary", -5.0)]):
        file.add(
            Piece(k, k + 1, make_result(to, z)),
            np.zeros(100, np.float32),
            lambda samples, to: (make_result(to, 0.5), ()),
            SelectorOptions(beta=beta),
        )
    assert file.pieces[1].result.route == ("primary" if close else "north")


@pytest.mark.parametrize("log_odds, route", [(1.5, "primary"), (4.0, "north")])
def test_a_lone_window_in_doubt_goes_with_its_neighbours(log_odds, route):
    """Both neighbours agree on another route; what leads by more stays."""
    file, asked = Recording("x.wav", TranscribeOptions()), []

    def again(samples, to):
        asked.append((len(samples), to))
        return make_result(to, log_odds), ()

    for k, (to, z) in enumerate(
        [("primary", -5.0), ("north", log_odds), ("primary", -5.0), ("primary", -5.0)]
    ):
        file.add(
            Piece(k, k + 1, make_result(to, z)),
            np.zeros(100 + k, np.float32),
            again,
            SelectorOptions(),
        )
    assert [piece.result.route for piece in file.pieces] == ["primary", route, "primary", "primary"]
    assert asked == ([(101, "primary")] if route == "primary" else [])
    assert ("both neighbours" in file.pieces[1].result.reason) == (route == "primary")


def test_neighbours_do_not_lift_a_window_over_the_floor():
    for floor, route in ((1.0, "primary"), (0.0, "north")):
        file = Recording("x.wav", TranscribeOptions())
        for k, (to, z) in enumerate([("north", 5.0), ("primary", 0.5), ("north", 5.0)]):
            file.add(
                Piece(k, k + 1, make_result(to, z)),
                np.zeros(100, np.float32),
                lambda samples, to: (make_result(to, 0.5), ()),
                SelectorOptions(floors={"north": floor}),
            )
        assert file.pieces[1].result.route == route


def test_neighbours_that_disagree_outvote_nobody():
    file = Recording("x.wav", TranscribeOptions())
    for k, (to, z) in enumerate([("primary", -5.0), ("north", 0.8), ("west", 5.0)]):
        file.add(
            Piece(k, k + 1, make_result(to, z)), np.zeros(100, np.float32), None, SelectorOptions()
        )
    assert [piece.result.route for piece in file.pieces] == ["primary", "north", "west"]


def test_what_the_next_window_is_told():
    """Back to a failure, a pack's window or a text drawn at random; without what is left out as no
    speech.
    """

    def piece(text, route="primary", **more):
        result = replace(make_result(route, -5.0), text=text, **more)
        said = Hypothesis((1,), text, more.get("avg_logprob", 0.0))
        return Piece(0, 1, replace(result, hypotheses={"primary": (said, "en")}))

    silence = {"no_speech_prob": 0.95, "avg_logprob": -1.8}
    for pieces, told in (
        ([], "Before."),
        ([piece("One."), piece("Two.")], "Before. One. Two."),
        ([piece("One."), piece("Thanks for watching!", **silence)], "Before. One."),
        ([piece("One."), piece("so", temperature=0.8), piece("Two.")], "Two."),
        ([piece("One."), piece("la " * 50), piece("Two.")], "Two."),
        ([piece("One.", "north"), piece("Two.")], "Two."),
    ):
        decode = DecodeOptions(prompt="Before.", fallback=Fallback())
        for carry in (False, True):
            file = Recording(
                "x.wav", TranscribeOptions(decode=decode, carry_prompt=carry), pieces=pieces
            )
            found = file.next_options()
            assert f"{found.prompt} {found.context}".strip() == (
                "Before. " + told.removeprefix("Before. ") if carry and told != "Before." else told
            )


def test_what_is_no_speech_neither_votes_nor_is_outvoted():
    for silent in range(3):
        file = Recording("x.wav", TranscribeOptions())
        for k, (to, z) in enumerate([("primary", -5.0), ("north", 0.8), ("primary", -5.0)]):
            answer = make_result(to, z, 0.9 if k == silent else 0.0)
            file.add(Piece(k, k + 1, answer), np.zeros(100, np.float32), None, SelectorOptions())
        assert [piece.result.route for piece in file.pieces] == ["primary", "north", "primary"]


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        TranscribeOptions(batch=0)


def test_to_dict_survives_json(model, clips):
    for sound in (clips[1], np.zeros(800, np.float32)):
        result = transcribe(model, sound, options=ALL)
        plain = result.to_dict()
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert list(plain) == [
            "text",
            "language",
            "route",
            "language_probs",
            "segments",
            "duration",
            "scores",
        ]
        assert [Segment(**segment) for segment in plain["segments"]] == [
            replace(segment, tokens=list(segment.tokens)) for segment in result.segments
        ]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), ""),
        ((("de", "ein"), ("de", "Satz")), "ein Satz"),
        ((("ja", "これは"), ("ja", "文")), "これは文"),
        ((("ja", "これは"), ("de", "Satz"), ("zh", "文")), "これは Satz 文"),
    ],
)
def test_texts_are_joined_as_the_language_is_written(parts, text):
    segments = [
        Segment(
            start=i,
            end=i + 1,
            text=words,
            language=code,
            route="primary",
            avg_logprob=0,
            no_speech_prob=0,
            language_probs={},
            scores={},
            reason="",
        )
        for i, (code, words) in enumerate(parts)
    ]
    assert _join(tuple(segments)) == text
