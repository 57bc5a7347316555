"""Training examples by hand: what a clip of each kind shows to the decoder, and the batches."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch

from dualasr.training import dataset
from dualasr.training.dataset import (
    MOST_BYTES,
    NEGATIVE_FRAMES,
    CachedClips,
    Clip,
    check_label,
    collate,
    plan_batches,
    share_frames,
    shares_of,
)
from dualasr.training.options import TrainingOptions

TEXT = "Тоодо кар жаады."


@pytest.fixture
def entry(tmp_path):
    """A file of cached activations: (frames, 2), every frame another."""

    def make(frames, name="a"):
        values = np.arange(2.0 * frames).reshape(frames, 2)
        np.save(tmp_path / f"{name}.npy", values.astype(np.float16))
        return tmp_path / f"{name}.npy"

    return make


@pytest.fixture
def tokenizer(backbone, make_secondary):
    return make_secondary(backbone, ("ky", "ga")).tokenizer


def test_what_each_kind_of_clip_teaches(tokenizer, entry):
    """A clip of the pack's n-th language its own tag and text, a negative `<|other|>` alone."""
    tokens = tuple(tokenizer.encode(TEXT))
    spelled = tuple(tokenizer.encode_characters(TEXT))
    labelled = {"text": TEXT, "tokens": tokens, "characters": spelled}
    clips = [
        Clip("ky", (entry(9),), 9, language=1, **labelled),
        Clip("ga", (entry(9),), 9, language=2, **labelled),
        Clip("negative", (entry(9),), 9),
    ]
    dataset = CachedClips(clips, tokenizer, TrainingOptions(time_mask=0.0))
    assert len(dataset) == 3
    end, other, ky, ga = tokenizer.end, tokenizer.other, tokenizer.tag("ky"), tokenizer.tag("ga")
    assert (end, other, ky, ga) == (0, 1, 2, 3), "ids that packs on disk depend on"
    assert tokens and min(tokens) >= tokenizer.first_text == 4
    for index, tag in ((0, ky), (1, ga)):
        item = dataset[(index, 5)]
        assert item["tokens"].tolist() == [end, tag, *tokens]
        assert item["labels"].tolist() == [tag, *tokens, end]
        assert item["characters"].tolist() == list(spelled)
        assert item["characters"].dtype == torch.long
    item = dataset[(2, 5)]
    assert item["tokens"].tolist() == [end] and item["labels"].tolist() == [other]
    assert item["characters"].tolist() == [] and item["characters"].dtype == torch.long
    for index in range(3):  # a clip that only fills a process's share
        item = dataset[(index, None)]
        assert set(item["labels"].tolist()) == {-100} and not len(item["characters"])
        assert len(item["labels"]) == len(item["tokens"])
        assert item["tokens"].tolist() == dataset[(index, 5)]["tokens"].tolist()


def test_variants_masks_and_seeds_are_of_seed_and_position(tokenizer, entry):
    clips = [Clip("a", (entry(100), entry(50, "b")), 50, 1, TEXT, (4,), (1,))]
    dataset = CachedClips(clips, tokenizer, TrainingOptions(time_mask=0.2, seed=3))
    other = CachedClips(clips, tokenizer, TrainingOptions(time_mask=0.2, seed=4))
    items = [dataset[(0, position)] for position in range(40)]
    assert {len(item["trunk"]) for item in items} == {50, 100}, "both variants are drawn"
    again = [dataset[(0, position)] for position in range(40)]
    assert all(torch.equal(a["trunk"], b["trunk"]) for a, b in zip(items, again, strict=True))
    assert [item["seed"] for item in items] == [item["seed"] for item in again]
    assert len({item["seed"] for item in items}) == 40
    assert not {item["seed"] for item in items} & {other[(0, p)]["seed"] for p in range(40)}
    assert max(item["seed"] for item in items) < 2**60 and items[0]["trunk"].dtype == torch.float32

    masked = []
    for item in items:
        values, count = item["trunk"].numpy(), len(item["trunk"])
        plain = np.arange(2.0 * count).reshape(count, 2)
        changed = np.flatnonzero((values != plain).any(1))
        masked.append(len(changed) / count)
        runs = np.split(changed, np.flatnonzero(np.diff(changed) > 1) + 1)
        assert len(changed) <= 2 * 0.2 * count and len(runs) <= 3
        for run in runs:
            assert len({tuple(values[i]) for i in run}) <= 2, "one value a mask"
        # the first mask is the mean of the clip itself
        assert not len(changed) or (values[changed] == plain.mean(0)).all(1).any() or len(runs) == 1
    assert 0.1 < np.mean(masked) < 0.25 and min(masked) < 0.05 and max(masked) > 0.25


def test_a_batch_is_padded_so_that_padding_counts_for_nothing():
    rows = [
        {
            "trunk": torch.ones(length, 2),
            "tokens": torch.tensor([0, 2, 7][:count]),
            "labels": torch.tensor([2, 7, 0][:count]),
            "characters": torch.tensor([5, 6][: count - 1], dtype=torch.long),
            "seed": count,
        }
        for length, count in ((3, 1), (5, 3))
    ]
    batch = collate(rows)
    assert batch["trunk"].shape == (2, 5, 2) and batch["trunk"].sum() == 16
    assert batch["lengths"].tolist() == [3, 5]
    assert batch["tokens"].tolist() == [[0, 0, 0], [0, 2, 7]]
    assert batch["labels"].tolist() == [[2, -100, -100], [2, 7, 0]]
    assert batch["characters"].tolist() == [[0, 0], [5, 6]]
    assert batch["character_lengths"].tolist() == [0, 2] and batch["seeds"].tolist() == [1, 3]


def test_borders_of_a_label(tokenizer, monkeypatch):
    """A frame for each character, and one more between two equal ones."""
    spelled = tokenizer.encode_characters("Тоодо")
    assert len(spelled) == 5 and spelled[1] == spelled[2]
    assert check_label(tokenizer, "Тоодо", 6, 0.02) is None
    assert "5 characters, too many for 0.1 s" in check_label(tokenizer, "Тоодо", 5, 0.02)
    assert check_label(tokenizer, "карк", 4, 0.02) is None
    assert check_label(tokenizer, "карк", 3, 0.02) is not None
    assert check_label(tokenizer, "", 5, 0.02) == "its label is empty"
    count = len(tokenizer.encode(TEXT))
    monkeypatch.setattr("dualasr.training.dataset.MOST_TOKENS", count)
    assert check_label(tokenizer, TEXT, 999, 0.02) is None
    monkeypatch.setattr("dualasr.training.dataset.MOST_TOKENS", count - 1)
    assert check_label(tokenizer, TEXT, 999, 0.02) == (
        f"its label has {count} tokens, the decoder holds {count - 1}"
    )


def used(batches):
    return [i for batch in batches for i, _ in batch]


def test_a_plan_uses_every_clip_once_an_epoch():
    """Five clips in steps of two: an epoch has three steps, the last of one clip."""
    options = TrainingOptions(steps=6, batch=2, negatives=0.5, seed=1)
    batches = plan_batches([10, 20, 30, 40, 50], [], options)
    assert len(batches) == 6 and sorted(map(len, batches[:3])) == [1, 2, 2]
    assert sorted(used(batches[:3])) == sorted(used(batches[3:])) == list(range(5))
    assert [p for batch in batches for _, p in batch] == list(range(10)), "positions count uses"
    assert batches == plan_batches([10, 20, 30, 40, 50], [], options)
    assert used(batches[:3]) != used(batches[3:])
    assert batches != plan_batches([10, 20, 30, 40, 50], [], replace(options, seed=2))
    assert len(plan_batches([10] * 5, [], replace(options, steps=4))) == 4


def test_clips_of_like_length_go_together():
    """Lengths that a factor of 0.85 to 1.15 cannot bring near each other."""
    lengths = [10, 100, 11, 101, 12, 102, 13, 103]
    batches = plan_batches(lengths, [], TrainingOptions(steps=40, batch=4, seed=1))
    kinds = [{lengths[i] >= 100 for i, _ in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds[::2] != [kinds[0]] * 20, "the groups come in random order"
    near = plan_batches([100, 104, 108, 112], [], TrainingOptions(steps=200, batch=2, seed=1))
    pairs = {tuple(sorted(i for i, _ in batch)) for batch in near}
    assert pairs == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}, "neighbours change"
    far = plan_batches([100, 100, 140, 140], [], TrainingOptions(steps=200, batch=2, seed=1))
    assert {tuple(sorted(i for i, _ in batch)) for batch in far} == {(0, 1), (2, 3)}, (
        "100 x 1.15 stays below 140 x 0.85"
    )


def test_accumulation_divides_a_step_and_does_not_change_it():
    options = TrainingOptions(steps=5, batch=6, accumulation=1, negatives=0.5, seed=2)
    lengths, negatives = list(range(50, 90)), [55, 66, 77]
    whole = plan_batches(lengths, negatives, options)
    parts = plan_batches(lengths, negatives, replace(options, batch=2, accumulation=3))
    assert len(whole) == 5 and len(parts) == 15
    for k, step in enumerate(whole):
        assert sorted(sum(parts[3 * k : 3 * k + 3], [])) == sorted(step)
        assert parts[3 * k] == step[::3] and parts[3 * k + 1] == step[1::3]


def test_each_step_gets_negatives_about_as_long_as_its_clips():
    """A quarter of a step of 8: two; of the 8 nearest on each side, or 8 from the nearest end."""
    lengths, foreign = [100] * 8, list(range(200, 0, -1))
    options = TrainingOptions(steps=400, batch=8, negatives=0.25, seed=1)
    batches = plan_batches(lengths, foreign, options)
    chosen = [[foreign[i - 8] for i, _ in batch if i >= 8] for batch in batches]
    assert {len(some) for some in chosen} == {2} and all(len(batch) == 10 for batch in batches)
    near = {length for some in chosen for length in some}
    assert near == set(range(92, 100)), "below the longest of the step, drawn again and again"
    ends = plan_batches([1] * 8, foreign, options)
    assert {foreign[i - 8] for i in used(ends) if i >= 8} == set(range(1, 9))
    few = plan_batches(lengths, [5, 300], options)
    assert {i - 8 for i in used(few) if i >= 8} == {0, 1}
    none = plan_batches(lengths, foreign, replace(options, negatives=0.0))
    assert max(used(none)) == 7
    assert plan_batches(lengths, [], options) == none
    most = plan_batches(lengths, foreign, replace(options, negatives=0.2))
    assert {sum(i >= 8 for i, _ in batch) for batch in most} == {2}, "1.6, rounded"


def batch_of(lengths, width=3):
    return collate(
        [
            {
                "trunk": torch.full((length, width), float(i + 1)),
                "tokens": torch.arange(i + 2),
                "labels": torch.arange(i + 2),
                "characters": torch.ones(i, dtype=torch.long),
                "seed": i,
            }
            for i, length in enumerate(lengths)
        ]
    )


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_shares_hold_each_clip_once_with_little_padding(cores, monkeypatch):
    monkeypatch.setattr(dataset, "FRAME_STEP", 4)
    monkeypatch.setattr(dataset, "TOKEN_STEP", 3)
    lengths = [7, 10, 3, 29, 8, 40, 1, 10, 9]
    shares = shares_of(batch_of(lengths), cores, 30)
    assert sorted(int(seed) for share in shares for seed in share["seeds"]) == [*range(9)]
    for share in shares:
        longest = int(share["lengths"].max())
        assert share["trunk"].shape[1] == ceil(longest / 4) * 4
        assert len(share["lengths"]) == 1 or len(share["lengths"]) * longest <= 30
        spoken = share["character_lengths"] > 0
        assert spoken.all() or not spoken.any(), "negatives are apart"
        seeds = share["seeds"].tolist()
        assert share["lengths"].tolist() == [lengths[i] for i in seeds]
        assert share["labels"].shape[1] == share["tokens"].shape[1]
        assert share["labels"].shape[1] == ceil((max(seeds) + 2) / 3) * 3
        assert [int((row != -100).sum()) for row in share["labels"]] == [i + 2 for i in seeds]
        assert share["characters"].shape[1] == max(seeds)
        for row, i in zip(share["trunk"], seeds, strict=True):
            assert float(row.sum()) == 3 * lengths[i] * (i + 1)
    order = [int(length) for share in shares for length in share["lengths"]]
    assert order == [*sorted(lengths[1:], reverse=True), 7]  # the first has no text


def test_a_small_batch_is_divided_among_the_cores():
    batch = batch_of([10, 50, 50, 50, 50])  # the first has no text: it is apart
    shares = shares_of(batch, 2, 1000)
    assert [share["lengths"].tolist() for share in shares] == [[50, 50], [50, 50], [10]]
    assert [len(share["lengths"]) for share in shares_of(batch, 1, 1000)] == [4, 1]


def test_of_a_long_negative_a_stretch_is_used(tokenizer, entry):
    """Another one each time; a clip with text is used whole."""
    path = entry(NEGATIVE_FRAMES + 60)
    clips = [
        Clip("negative", (path,), NEGATIVE_FRAMES + 60),
        Clip("short", (entry(30, "b"),), 30),
        Clip("a", (path,), NEGATIVE_FRAMES + 60, 1, TEXT, (4,), (1,)),
    ]
    dataset = CachedClips(clips, tokenizer, TrainingOptions(time_mask=0.0))
    stretches = [dataset[(0, position)]["trunk"] for position in range(20)]
    assert {len(stretch) for stretch in stretches} == {NEGATIVE_FRAMES}
    assert len({float(stretch[0, 0]) for stretch in stretches}) > 5
    assert len(dataset[(1, 0)]["trunk"]) == 30
    assert len(dataset[(2, 0)]["trunk"]) == NEGATIVE_FRAMES + 60


def test_the_frames_of_a_share_follow_the_size_of_the_model(backbone, make_secondary):
    """Half as many where the layers keep twice as much; a decoder without layers keeps nothing."""
    narrow, lone = make_secondary(backbone, decoder="whisper"), make_secondary(backbone)
    assert 0 < share_frames(narrow) < share_frames(lone)
    kept = 2 * share_frames(lone) * 36 * len(lone.layers) * backbone.width
    assert MOST_BYTES * 0.9 < kept <= MOST_BYTES
