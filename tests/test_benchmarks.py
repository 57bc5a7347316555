"""What the benchmarks compare is what they say; none is timed here."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone
from dualasr.packs.load import load_model

RECIPES = Path(__file__).parents[1] / "recipes" / "micro"


@pytest.fixture
def recipes(monkeypatch):
    """The recipes as modules, imported from their folder as a script there imports them."""
    monkeypatch.syspath_prepend(str(RECIPES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == RECIPES:
            del sys.modules[name]


def test_a_whisper_of_random_weights_has_whispers_ids_and_its_packs_lose(recipes, tmp_path):
    shape = recipes("whisper_shape")
    shape.SHAPES["tiny"] = (64, 2, 2)
    shape.write_whisper(tmp_path / "tiny", "tiny")
    backbone = Backbone.load(tmp_path / "tiny")
    ident = backbone.tokenizer.convert_tokens_to_ids
    known = {
        "<|endoftext|>": 50257,
        "<|startoftranscript|>": 50258,
        "<|en|>": 50259,
        "<|su|>": 50357,
        "<|transcribe|>": 50359,
        "<|nospeech|>": 50362,
        "<|notimestamps|>": 50363,
        "<|0.00|>": 50364,
        "<|30.00|>": 51864,
    }
    assert {token: ident(token) for token in known} == known
    folders = shape.write_packs(
        tmp_path / "packs", backbone, 3, ["the quick brown fox", "jumps over the lazy dog"]
    )
    model = load_model(tmp_path / "tiny", folders)
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    [result] = model.transcribe_windows(
        [noise], options=DecodeOptions(generate={"max_new_tokens": 6})
    )
    assert result.route == PRIMARY and len(result.tokens) == 6 and len(model.packs) == 3


def test_renamed_packs_keep_apart_and_decode_under_their_new_languages(
    recipes, make_model, backbone, clips, tmp_path
):
    from dualasr.packs.format import save_pack

    save_pack(tmp_path / "north", make_model(("north", "ky")).packs["north"], backbone)
    routing = recipes("bench_routing")
    packs = routing.packs_from_disk(backbone, [tmp_path / "north"], 3)
    assert [pack.name for pack in packs] == ["north-0", "north-1", "north-2"]
    model = routing.with_packs(backbone, packs, head_threshold=-np.inf)
    assert (
        sum(
            score.tag is not None
            for score in model.score_packs(model.encode_audio(clips[:1]))[0][0]
        )
        == 2
    )
    texts = {model.transcribe_windows(clips[:1], language=f"ky-x-{k}")[0].text for k in range(3)}
    assert len(texts) == 1 and texts != {""}


def test_the_ways_of_a_row_take_turns_and_a_ratio_is_of_sums_of_medians(recipes, backbone):
    side_by_side, visits = recipes("side_by_side"), []
    ways = {
        name: lambda clip, name=name: visits.append((name, clip)) or f"{name}{clip}"
        for name in "ab"
    }
    times = side_by_side.take_turns(ways, [1, 2], backbone, rounds=3, clock="wall")
    assert len(visits) == 2 * 2 * (3 + 1) and {v: visits.count(v) for v in visits} == dict.fromkeys(
        visits, 4
    )
    assert [name for name, _ in visits[4:8]] == list("abab") and [
        name for name, _ in visits[8:12]
    ] == list("baba")
    assert times.outputs == {"a": ["a1", "a2"], "b": ["b1", "b2"]}
    a, b = np.array([[1.0, 4.0], [1.0, 4.0], [7.0, 7.0]]), np.ones((3, 2))
    row = side_by_side.Times({"a": a, "b": b}, times.outputs, times.calls).row(
        1, "a against b", "a", "b"
    )
    assert (row.median, row.mean) == (2.5, 4.0)


def test_a_long_file_is_as_long_as_it_should_be_and_windows_are_full(recipes, tmp_path):
    clips = [np.full(16_000 * seconds, 0.5, np.float32) for seconds in (1, 2, 3)]
    recipes("bench_transcription").write_long(tmp_path / "long.flac", clips, 0.5)
    assert soundfile.info(tmp_path / "long.flac").frames == 30 * 16_000
    joined, pause = recipes("side_by_side").joined, 16_000 // 3
    assert len(joined(clips, 16_000 * 4)) == 3 * 16_000 + pause
    assert len(joined(clips, 16_000 // 2)) == 16_000 // 2


def test_what_a_whisper_takes_lies_on_a_line_through_two_depths(recipes):
    """Counted at 2 and 4 layers, it is at 6 what is counted at 6; and a product of matrices is
    twice its multiplications.
    """
    run_sheet, shape = recipes("run_sheet"), recipes("whisper_shape")
    shape.SHAPES["tiny"] = (64, 2, 2)
    args = SimpleNamespace(rank=2, seconds=1.0, tokens=5)
    tokenizer = run_sheet.PackTokenizer.train(["the quick brown fox"], ("xx",))
    counts = [
        run_sheet.count_all(shape.random_whisper("tiny", layers=layers), tokenizer, args)
        for layers in (2, 4, 6)
    ]
    assert run_sheet.at_depth(6, counts[:2]) == counts[2]
    layer, sound = torch.nn.Linear(7, 5, bias=False), torch.randn(3, 7)
    flops, kept = run_sheet.count(lambda: layer(sound).sum(), layer)
    # forward, and the gradient of the weights
    assert flops == 2 * (2 * 3 * 7 * 5) and kept == 4 * sound.numel()
