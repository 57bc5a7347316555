"""Kept answers: the same report with less decoding, after a kill, for another pack, and never for
other weights.
"""

import hashlib
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import soundfile
import torch

from dualasr.data.corpus import Utterance
from dualasr.errors import RunError
from dualasr.evaluation import hypothesis_cache
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.hypothesis_cache import HypothesisCache, digest, pipeline_key
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback
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


ANOTHER = {  # of every setting of decoding, another value than its default
    "beam": 4,
    "ctc_weight": 0.25,
    "prompt": "Bishkek",
    "context": "before",
    "timestamps": True,
    "fallback": Fallback(),
    "generate": {"max_new_tokens": 7},
}


def test_every_part_of_a_key_makes_another_key(make_model, tiny_folder, monkeypatch):
    """What a hypothesis depends on; of a pack also the pack, of the primary no pack."""
    decode = DecodeOptions(beam=2, generate={"max_new_tokens": 9})
    model = make_model(("north", "ky"))

    def keys(model, options=decode):
        return tuple(pipeline_key(model, route, options) for route in ("primary", "north"))

    def with_pack(**changes):
        pack = model.packs["north"]
        if "secondary" not in changes:
            changes = {"info": replace(pack.info, **changes)}
        return replace(model, packs={"north": replace(pack, **changes)})

    first = keys(model)
    assert keys(make_model(("north", "ky"))) == first, "a second process finds what the first kept"

    # 1. both pipelines: the base's weights, the number format, the kind of device, the settings
    backbone = Backbone.load(tiny_folder)
    with torch.no_grad():
        backbone.decoder.layer_norm.bias[0] += 1
    bf16 = Backbone.load(tiny_folder, dtype=torch.bfloat16)
    assert bf16.checksum == model.backbone.checksum
    elsewhere = Backbone.load(tiny_folder)
    assert elsewhere.checksum == model.backbone.checksum
    elsewhere.model.to("meta")
    others = [replace(model, backbone=other) for other in (backbone, bf16, elsewhere)]
    both = [keys(other) for other in others]
    assert {field.name for field in fields(DecodeOptions)} == ANOTHER.keys()
    both += [keys(model, replace(decode, **{name: ANOTHER[name]})) for name in ANOTHER]
    limits = [replace(decode, fallback=Fallback(logprob_threshold=-t)) for t in (0.5, 0.75)]
    both += [keys(model, options) for options in limits]
    monkeypatch.setattr(hypothesis_cache, "VERSION", hypothesis_cache.VERSION + 1)
    both.append(keys(model))
    monkeypatch.undo()
    for side in (0, 1):
        found = [first[side], *(key[side] for key in both)]
        assert len(set(found)) == len(found), side
    assert not {key for key, _ in both} & {key for _, key in both}

    # 2. a pack alone: its weights, its languages in their order, its weight of CTC
    secondary = make_model(("north", "ky")).packs["north"].secondary
    with torch.no_grad():
        secondary.layer_norm.bias[0] += 1
    packs = [
        with_pack(secondary=secondary),
        with_pack(ctc_weight=0.25),
        with_pack(ctc_weight=0.75),
        with_pack(languages={"ky": "Kyrgyz", "ga": "Irish"}),
        with_pack(languages={"ga": "Irish", "ky": "Kyrgyz"}),
    ]
    found = [keys(other) for other in packs]
    assert {primary for primary, _ in found} == {first[0]}
    assert len({first[1], *(key for _, key in found)}) == len(packs) + 1
    # 3. neither: what does not change the hypothesis
    assert keys(replace(model, selector=SelectorOptions(tau=9.0))) == first
    assert keys(with_pack(scores={"cer": 0.5}, training={"steps": 3})) == first


def test_names_of_kept_files_stay(make_model):
    """What an earlier version kept serves on."""
    model, options = make_model(("north", "ky")), DecodeOptions(beam=2)
    settings = {
        "beam": 2,
        "context": "",
        "ctc_weight": None,
        "fallback": None,
        "generate": {},
        "prompt": "",
        "timestamps": False,
    }
    about = [1, model.backbone.checksum, "torch.float32", "cpu", settings]
    pack = [model.packs["north"].secondary.checksum, ["ky"], 0.5]
    for route, parts in (("primary", about), ("north", about + pack)):
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        assert pipeline_key(model, route, options) == key


def test_the_digest_of_a_window_is_that_of_its_samples():
    """SHA-256 of the float32 samples; kept files depend on it."""
    samples = np.array([0.5, -0.25, 0.125])
    first = hashlib.sha256(samples.astype("<f4").tobytes()).hexdigest()[:32]
    assert digest(samples) == digest(samples.astype(np.float32)) == first
    assert digest(np.repeat(samples, 2)[::2]) == first, "a view with steps"
    others = [digest(samples[:2]), digest(samples[::-1]), digest(-samples)]
    assert len({first, *others}) == 4


def test_what_is_kept_is_one_line_a_batch(make_model, tmp_path):
    model, decode = make_model(("north", "ky")), DecodeOptions(beam=2)
    kept = HypothesisCache.open(tmp_path / "new" / "folder", model, "north", decode)
    name = f"north-{pipeline_key(model, 'north', decode)}.jsonl"
    assert kept.path == tmp_path / "new" / "folder" / name and not kept.known
    one = (Hypothesis((3, 4), "Тоо", -1.25, False, 0.5), "ky")
    two = (Hypothesis((), "", -0.5), "ky")
    kept.keep({"a": one, "b": two})
    kept.keep({"a": two, "c": two})  # what is known stays
    kept.keep({"a": one, "c": two})
    lines = kept.path.read_text(encoding="utf-8").splitlines()
    assert [list(json.loads(line)) for line in lines] == [["a", "b"], ["c"]] and "Тоо" in lines[0]
    again = HypothesisCache.open(tmp_path / "new" / "folder", model, "north", decode)
    assert again.known == kept.known == {"a": one, "b": two, "c": two}
    assert not HypothesisCache.open(tmp_path / "new" / "folder", model, "primary", decode).known

    whole = kept.path.read_bytes()
    kept.path.write_bytes(whole + b'{"d": [[1], "cut')
    assert HypothesisCache.open(kept.path.parent, model, "north", decode).known == kept.known
    assert kept.path.read_bytes() == whole, "the rest of a killed process is removed"


def test_a_cache_that_cannot_be_written_says_so(make_model, tmp_path):
    kept = HypothesisCache.open(tmp_path, make_model(), "primary", DecodeOptions())
    kept.path.mkdir()
    with pytest.raises(RunError, match=f"Cannot write {kept.path}: Is a directory.*Free some"):
        kept.keep({"a": (Hypothesis((), "", 0.0), "en")})
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be kept in \S+file: .*(exists|directory).*Choose"):
        HypothesisCache.open(tmp_path / "file", make_model(), "primary", DecodeOptions())
