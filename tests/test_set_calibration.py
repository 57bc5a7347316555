"""A set of packs, calibrated: thresholds against brute force, the file against the model that reads
it.
"""

import hashlib
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import Sound
from dualasr.cli.main import main
from dualasr.errors import CorpusError, PackError, RunError
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY, Calibration, Logistic, PackScore, SelectorOptions
from dualasr.packs.format import read_selector, save_pack, write_selector
from dualasr.training.calibrate_set import calibrate_set, read_unknown, score_clips
from dualasr.training.set_calibration import ScoredClip, SetOptions, decide, fit_set, measure

SECOND_PASS = Calibration(second_pass=Logistic((1.0, 1.0, 0.0)))


def scored_clip(pipeline, log_odds, gap=0.0, language="ky", name="north"):
    """A clip of one second whose leading pack, of two, has these log-odds, and gap more after the
    second pass.
    """
    pack_scores = tuple(
        PackScore(
            name=one,
            languages=(code,),
            head=0.0,
            calibration=SECOND_PASS,
            shares=(1.0,),
            tag=log_odds if one == name else -50.0,
        )
        for one, code in (("north", "ky"), ("west", "ga"))
    )
    return ScoredClip(
        language=language,
        pipeline=pipeline,
        seconds=1.0,
        pack_scores=pack_scores,
        runner_up=name,
        first=Hypothesis((1,), "", -9.0, True),
        second=Hypothesis((1,), "", gap - 9.0, True),
    )


def draw(rng, count, unknown=0, name="north"):
    dev = [
        scored_clip(side, rng.normal(2 * sign, 2.5), rng.normal(sign, 2.0), name=name)
        for side, sign in ((name, 1.0), (PRIMARY, -1.0))
        for _ in range(count)
    ]
    return dev, [
        scored_clip(None, rng.normal(0.5, 2.0), rng.normal(1.0, 2.0), "und", name)
        for _ in range(unknown)
    ]


def cost(dev, selector, taken=2.0):
    routes = [decide(one, selector)[0] for one in dev]
    return sum(
        (taken if one.pipeline == PRIMARY else 1.0)
        for one, route in zip(dev, routes, strict=True)
        if route != one.pipeline
    )


def accepted(unknown, selector):
    return sum(decide(one, selector)[0] != PRIMARY for one in unknown)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_beta_and_no_other_floors_route_dev_better(seed):
    """The slow way: every clip decided anew by the selector itself, for all betas and then all
    pairs of two packs' floors.
    """
    rng = np.random.default_rng(seed)
    sides = [draw(rng, 15, 20, name) for name in ("north", "west")]
    dev, unknown = (
        [one for mine, _ in sides for one in mine],
        [one for _, foreign in sides for one in foreign],
    )
    start, options = SelectorOptions(tau=1.5), SetOptions(max_false_accept_rate=0.1)
    fitted = fit_set(dev, unknown, start, options)
    assert accepted(unknown, fitted) <= 4
    grid = np.arange(-9.0, 9.0, 0.15)
    assert cost(dev, replace(fitted, floors={})) <= min(
        cost(dev, replace(start, beta=float(-t))) for t in grid
    )
    pairs = [
        replace(fitted, floors={"north": float(a), "west": float(b)})
        for a in grid[::4]
        for b in grid[::4]
    ]
    assert cost(dev, fitted) <= min(cost(dev, one) for one in pairs if accepted(unknown, one) <= 4)


def test_a_decision_by_hand():
    """A first lead of 0.5, then one of 2 log-probabilities over 4 s, either way; beta -0.75."""
    selector = SelectorOptions(beta=-0.75, tau=3.0)
    for gap, odds, route in ((2.0, 1.0, "north"), (-2.0, 0.0, PRIMARY), (1.0, 0.75, PRIMARY)):
        clip = replace(scored_clip("north", 0.5, gap), seconds=4.0)
        found, share, both, row = decide(clip, selector)
        assert (found, both) == (route, True)
        assert [score.rescored for score in row] == [pytest.approx(odds), None]
        odd = np.exp(odds)
        known = (odd if route == "north" else 1.0) / (1.0 + odd)
        assert share == pytest.approx(known, rel=1e-6)
    final = decide(scored_clip("north", 4.0, -99.0), selector)
    assert final[0] == "north" and not final[2] and final[3][0].rescored is None
    silent = replace(scored_clip("north", 4.0), no_speech_prob=0.9)
    assert decide(silent, selector)[0] == PRIMARY


def test_a_floor_is_above_the_score_it_is_for():
    for score in (4.35, 0.29, -0.57, 1.005):  # that have no exact hundredth
        fitted = fit_set(
            [scored_clip("north", 9.0)],
            [scored_clip(None, score)],
            SelectorOptions(beta=9.0),
            SetOptions(max_false_accept_rate=0.0),
        )
        assert score < fitted.floors["north"] <= score + 0.021


def test_a_pack_that_is_taken_in_easily_costs_the_others_nothing():
    dev = [
        scored_clip("north", 4.0),
        scored_clip("west", 9.0, name="west"),
        scored_clip(PRIMARY, -9.0),
    ]
    unknown = [scored_clip(None, 6.0, name="west") for _ in range(5)]
    fitted = fit_set(dev, unknown, SelectorOptions(), SetOptions(max_false_accept_rate=0.0))
    assert (
        fitted.floors == {"west": 6.01}
        and cost(dev, fitted) == 0
        and accepted(unknown, fitted) == 0
    )


def test_speech_that_is_none_to_the_primary_raises_the_limit():
    heard = [replace(scored_clip("north", 5.0), no_speech_prob=p) for p in (0.7, 0.8)] + [
        scored_clip(PRIMARY, -5.0)
    ]
    fitted = fit_set(heard, [], SelectorOptions())
    assert (
        fitted.no_speech == pytest.approx(0.8, abs=0.01) and decide(heard[0], fitted)[0] == "north"
    )
    assert (
        fit_set(
            [replace(one, no_speech_prob=0.1) for one in heard], [], SelectorOptions()
        ).no_speech
        == 0.6
    )
    assert decide(replace(scored_clip(None, 9.0), no_speech_prob=0.95), fitted)[0] == PRIMARY


def test_a_share_is_a_limit_and_a_smaller_one_costs_no_less():
    dev, unknown = draw(np.random.default_rng(7), 40, 60)
    costs = []
    for share in (0.0, 0.01, 0.05, 0.2, 1.0):
        fitted = fit_set(dev, unknown, SelectorOptions(), SetOptions(max_false_accept_rate=share))
        assert accepted(unknown, fitted) <= share * len(unknown)
        costs.append(cost(dev, fitted))
    assert costs == sorted(costs, reverse=True)
    assert cost(dev, fitted) <= cost(dev, replace(fitted, floors={})), (
        "where all may be taken a floor is there for dev alone"
    )


def test_what_dev_cannot_tell_stays():
    sure = [
        scored_clip("north", 6.0),
        scored_clip("north", 7.0),
        scored_clip(PRIMARY, -6.0),
        scored_clip(PRIMARY, -7.0),
    ]
    assert fit_set(sure, [], SelectorOptions()).beta == SelectorOptions().beta
    one_sided = fit_set(
        [scored_clip("north", -4.0), scored_clip("north", 5.0)],
        [scored_clip(None, 1.003)] * 3,
        SelectorOptions(),
    )
    assert one_sided.beta == SelectorOptions().beta and one_sided.floors == {"north": 1.01}
    assert one_sided.posterior == Logistic(), "with one pipeline alone there is nothing to weigh"


def test_beta_moves_to_the_middle_of_what_separates():
    shifted = [
        scored_clip("north", 9.0),
        scored_clip("north", 8.0),
        scored_clip(PRIMARY, 4.0),
        scored_clip(PRIMARY, 3.0),
    ]
    fitted = fit_set(shifted, [], SelectorOptions(tau=0.0))
    assert fitted.beta == pytest.approx(-6.0, abs=0.02) and fitted.floors == {}
    again = fit_set(shifted, [], fitted)
    assert again == fitted, "fitted again it stays"


def test_a_clip_taken_from_the_primary_counts_by_its_price():
    """One old clip stands among three new ones: worth three errors at price 4, not at price 2."""
    dev = [scored_clip("north", z) for z in (1.0, 1.1, 1.2, 9.0, 9.1)] + [
        scored_clip(PRIMARY, z) for z in (2.0, -9.0)
    ]
    for taken, route in ((2.0, "north"), (4.0, PRIMARY)):
        fitted = fit_set(dev, [], SelectorOptions(tau=0.0), SetOptions(false_accept_cost=taken))
        assert decide(dev[5], fitted)[0] == route


def test_an_overconfident_posterior_is_drawn_to_what_happens_and_no_route_moves():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1, 400)
    dev = [
        scored_clip("north" if rng.random() < 1 / (1 + np.exp(-z)) else PRIMARY, 6 * z)
        for z in odds
    ]
    start = SelectorOptions(tau=0.0, beta=0.0)
    fitted = replace(fit_set(dev, [], start, SetOptions(false_accept_cost=1.0)), beta=0.0)
    before, after = (measure(dev, [], one, (PRIMARY, "north")) for one in (start, fitted))
    assert after["calibration"]["ece"] < 0.3 * before["calibration"]["ece"]
    assert after["confusion"] == before["confusion"] and fitted.posterior.weights[
        0
    ] == pytest.approx(1 / 6, rel=0.3)


def test_measured_is_what_was_counted():
    dev = [
        scored_clip("north", 5.0),
        scored_clip("north", -5.0),
        scored_clip(PRIMARY, -1.0, -2.0, "en"),
        scored_clip(PRIMARY, 0.0, 3.0, "en"),
    ]
    found = measure(
        dev,
        [scored_clip(None, 5.0), scored_clip(None, -5.0)],
        SelectorOptions(tau=2.0),
        (PRIMARY, "north"),
    )
    assert (
        found["accuracy"] == 0.5
        and found["false_accept_rate"] == 0.5
        and found["decoded_twice"] == 0.5
    )
    assert found["confusion"] == {"en": {PRIMARY: 1, "north": 1}, "ky": {PRIMARY: 1, "north": 1}}
    assert measure(dev, [], SelectorOptions(), (PRIMARY, "north"))["false_accept_rate"] is None


def test_another_rule_is_refused(make_model):
    with pytest.raises(PackError, match="paper rule"):
        fit_set([scored_clip("north", 1.0)], [], SelectorOptions.paper())
    with pytest.raises(PackError, match="no pack"):
        calibrate_set(make_model(), [], [])
    with pytest.raises(RunError, match="wanted a share"):
        calibrate_set(make_model(("north", "ky")), [], [], SetOptions(max_false_accept_rate=5))


@pytest.fixture
def sounds(clips, tmp_path):
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
    return [Sound(tmp_path / f"{i}.wav") for i in range(len(clips))]


def test_the_model_routes_as_was_foreseen(make_model, sounds, clips, tmp_path):
    """Claims are heard once; the model with the fitted selector, as read from its file, decides the
    same with the same odds.
    """
    model = make_model(("north", "ky"), ("west", "ga"))
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing here")
    rows = [(sound, "ky", "north") for sound in sounds[:2]] + [
        (sound, "en", PRIMARY) for sound in sounds[2:]
    ]
    scored, lost = score_clips(
        model, [*rows, (Sound(tmp_path / "broken.wav"), "ky", "north")], SetOptions(batch=3)
    )
    assert len(scored) == 4 and len(lost) == 1 and "broken.wav" in lost[0]
    leads = sorted(one.score.log_odds for one in scored)
    floors = dict.fromkeys(("north", "west"), leads[1] + 1e-3)
    for selector in (
        SelectorOptions(),
        SelectorOptions(tau=99.0),
        SelectorOptions(tau=99.0, floors=floors),
        SelectorOptions(beta=9.0, posterior=Logistic((0.5,), -1.0)),
    ):
        write_selector(tmp_path / "set.json", selector, {"command": "none"})
        read = read_selector(tmp_path / "set.json")
        assert read == selector
        results = replace(model, selector=read).transcribe_windows(clips)
        foreseen = [decide(one, selector) for one in scored]
        assert [result.route for result in results] == [route for route, *_ in foreseen]
        for result, (route, share, twice, _) in zip(results, foreseen, strict=True):
            own = {"north": "ky", "west": "ga"}
            rest = sum(p for code, p in result.language_probs.items() if code not in own.values())
            assert (
                rest if route == PRIMARY else result.language_probs[own[route]]
            ) == pytest.approx(share, abs=1e-4)
            assert ("after both" in result.reason) == twice


def test_unknown_audio_is_in_no_known_language_and_never_of_test(make_model, sounds, tmp_path):
    model = make_model(("north", "ky"))
    assert read_unknown([tmp_path], "dev", model) == sounds, "a folder of sound files"
    rows = [
        {"id": str(i), "audio": f"{i}.wav", "text": "", "lang": code, "split": split}
        for i, (code, split) in enumerate(
            [("fi", "dev"), ("ky", "dev"), ("en", "dev"), ("fi", "test")]
        )
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [sound.path.name for sound in read_unknown([tmp_path], "dev", model)] == ["0.wav"]
    (tmp_path / "manifest.jsonl").write_text(json.dumps(rows[3]) + "\n")
    with pytest.raises(CorpusError, match="splits found: test"):
        read_unknown([tmp_path], "dev", model)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(CorpusError, match="nobody here knows"):
        read_unknown([tmp_path], "dev", model)


def test_calibrate_from_the_command_line(
    tiny_folder, backbone, make_secondary, sounds, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pack, out = tmp_path / "packs" / "north", tmp_path / "out" / "set.json"
    save_pack(pack, Pack(PackInfo("north", {"ky": "Kyrgyz"}), make_secondary(backbone)), backbone)
    corpus, negatives = tmp_path / "corpus", tmp_path / "negatives"
    for folder in (corpus, negatives):
        folder.mkdir()
    rows = [
        {"id": code, "audio": f"{code}.wav", "text": "тоо", "lang": code, "split": "dev"}
        for code in ("ky", "en", "fi")
    ]
    (corpus / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for sound, path in zip(
        sounds,
        [corpus / "ky.wav", corpus / "en.wav", corpus / "fi.wav", negatives / "n.wav"],
        strict=True,
    ):
        sound.path.rename(path)
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in pack.iterdir()}
    model = ["--base", str(tiny_folder), "--pack", str(pack.parent)]
    asked = [
        "calibrate",
        *model,
        "--corpus",
        str(corpus),
        "--negatives",
        str(negatives),
        "--out",
        str(out),
        "--false_accept_cost=3",
        "--beam=2",
    ]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert (
        "routed right, %" in text
        and "What other shares would cost" in text
        and "nobody loaded knows them: fi" in text
    )
    assert {
        path.name: hashlib.sha256(path.read_bytes()).digest() for path in pack.iterdir()
    } == before, "the pack is untouched"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    record = json.loads(out.read_text())
    assert record["fitted"]["after"]["false_accept_rate"] == 0 and record["packs"] == ["north"]
    assert (
        "dualasr calibrate" in record["fitted"]["command"]
        and str(tmp_path) not in record["fitted"]["command"]
    )
    out.unlink()
    assert main(shlex.split(record["fitted"]["command"])[1:]) == 0
    assert json.loads(out.read_text()) == record, "its command makes it again"
    transcribe = ["transcribe", str(corpus / "ky.wav"), "-o", str(tmp_path), "--selector", str(out)]
    assert main([*transcribe, *model]) == 0
    assert "fitted for" not in capsys.readouterr().err
    assert main([*transcribe, "--base", str(tiny_folder)]) == 0
    assert "was fitted for the packs north, not for none" in capsys.readouterr().err
    assert main([*asked, "--split", "test"]) == 1
    assert "is for measuring" in capsys.readouterr().err
