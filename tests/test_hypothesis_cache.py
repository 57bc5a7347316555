"""Kept answers: the same report with less decoding, after a kill, for another pack, and never for
other weights.
"""

from dataclasses import replace

import pytest
import soundfile

from dualasr.data.corpus import Utterance
from dualasr.errors import RunError
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.hypothesis_cache import HypothesisCache, digest, pipeline_key
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.search import Hypothesis
from dualasr.model.selector import SelectorOptions
from dualasr.model.whisper import Backbone

OPTIONS = EvaluationOptions(beam=2, batch=2, bootstrap=20, probes=0)


@pytest.fixture
def spoken(tmp_path, clips):
    """Two clips each of a language of the primary and of two packs."""
    rows = []
    sounds = [*clips, *(-clip[:20_000] for clip in clips[:2])]
    for i, (code, clip) in enumerate(zip(("en", "ky", "ga") * 2, sounds, strict=True)):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, clip, 16_000)
        rows.append(Utterance(str(i), "one two three", code, path, None, "test"))
    return rows


def counted(monkeypatch):
    """How many windows each pipeline decodes from here on."""
    counts = {"primary": 0, "pack": 0}
    primary, pack = Backbone.decode, DualWhisper._decode_pack

    def count_primary(self, encoded, *args, **kwargs):
        counts["primary"] += len(encoded)
        return primary(self, encoded, *args, **kwargs)

    def count_pack(self, which, encoded, *args):
        counts["pack"] += len(encoded)
        return pack(self, which, encoded, *args)

    monkeypatch.setattr(Backbone, "decode", count_primary)
    monkeypatch.setattr(DualWhisper, "_decode_pack", count_pack)
    return counts


def same(a, b):
    drop = {"seconds", "real_time_factor", "decoded"}
    assert a.clips == b.clips
    assert {k: v for k, v in a.report.items() if k not in drop} == {
        k: v for k, v in b.report.items() if k not in drop
    }


@pytest.mark.parametrize("selector", [SelectorOptions(), SelectorOptions(tau=1e9)])
def test_a_cached_report_equals_an_uncached_one(
    make_model, spoken, tmp_path, monkeypatch, selector
):
    model = replace(make_model(("north", "ky"), ("west", "ga")), selector=selector)
    plain = evaluate(model, spoken, OPTIONS)
    same(plain, evaluate(model, spoken, OPTIONS, answers=tmp_path / "kept"))
    counts = counted(monkeypatch)
    again = evaluate(model, spoken, OPTIONS, answers=tmp_path / "kept")
    same(plain, again)
    assert counts == {"primary": 0, "pack": 0} and set(again.report["decoded"].values()) == {0}


def test_with_another_pack_the_primary_says_nothing_anew_of_its_own_languages(
    make_model, spoken, tmp_path, monkeypatch
):
    old = [row for row in spoken if row.language == "en"]
    evaluate(make_model(), old, OPTIONS, answers=tmp_path / "kept")
    model = make_model(("north", "ky"), ("west", "ga"))
    plain = evaluate(model, old, OPTIONS)
    counts = counted(monkeypatch)
    again = evaluate(model, old, OPTIONS, answers=tmp_path / "kept")
    same(plain, again)
    assert counts["primary"] == 0 and plain.report["decoded"]["primary"] == len(old)
    assert again.report["decoded"] == {"primary": 0} | {
        name: plain.report["decoded"][name] for name in model.packs
    }
    assert counts["pack"] == sum(again.report["decoded"].values())


def test_a_killed_evaluation_goes_on_to_the_same_report(make_model, spoken, tmp_path, monkeypatch):
    model = make_model(("north", "ky"), ("west", "ga"))
    plain = evaluate(model, spoken, OPTIONS)
    with monkeypatch.context() as broken:
        decode, calls = Backbone.decode, []

        def dies(self, *args, **kwargs):
            calls.append(1)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return decode(self, *args, **kwargs)

        broken.setattr(Backbone, "decode", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluate(
                replace(model, selector=SelectorOptions(tau=1e9)),
                spoken,
                OPTIONS,
                answers=tmp_path / "kept",
            )
    files = list((tmp_path / "kept").glob("primary-*.jsonl"))
    assert files, "the first batch was kept"
    with files[0].open("a") as file:
        file.write('{"half a li')  # the kill came in the middle of a line
    same(plain, evaluate(model, spoken, OPTIONS, answers=tmp_path / "kept"))
    assert "half" not in files[0].read_text()


def test_an_answer_belongs_to_weights_settings_and_sound(make_model, tmp_path, clips):
    model = make_model(("north", "ky"))
    decode = DecodeOptions(beam=2)
    keys = [
        pipeline_key(model, "primary", decode),
        pipeline_key(model, "north", decode),
        pipeline_key(model, "primary", DecodeOptions(beam=3)),
        pipeline_key(model, "north", DecodeOptions(beam=3)),
        pipeline_key(make_model(("west", "ga"), ("north", "ky")), "north", decode),
    ]
    assert len(set(keys)) == len(keys), "another seed gave the pack other weights"
    assert pipeline_key(make_model(("north", "ky"), ("west", "ga")), "primary", decode) == keys[0]
    assert digest(clips[0]) != digest(clips[0][:-1]) and digest(clips[0]) == digest(clips[0].copy())

    kept = HypothesisCache.open(tmp_path, model, "north", decode)
    kept.keep({"a": (Hypothesis((3, 4), "Тоо “кар”\n", -1.25, False), "ky")})
    again = HypothesisCache.open(tmp_path, model, "north", decode)
    assert again.known == {"a": (Hypothesis((3, 4), "Тоо “кар”\n", -1.25, False), "ky")}


def test_a_place_where_nothing_can_be_kept(make_model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        HypothesisCache.open(tmp_path / "file", make_model(), "primary", DecodeOptions())
