"""The language head: a convex fit on cached trunk activations."""

import numpy as np
import pytest
import torch

from dualasr.model.secondary import Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.training.dataset import Clip
from dualasr.training.language_head import NO_CLIPS, fit_language_head


@pytest.fixture
def cached(backbone, tmp_path):
    """Makes clips of a class whose activations lie about a centre of their own; every clip has two
    variants.
    """

    def make(language: int, count: int, seed: int) -> list[Clip]:
        rng = np.random.default_rng([language, seed])
        clips = []
        for i in range(count):
            entries = []
            for variant in range(2):
                values = rng.normal(0.3 * language, 1, (int(rng.integers(30, 60)), backbone.width))
                entries.append(tmp_path / f"{language}-{seed}-{i}-{variant}.npy")
                np.save(entries[-1], values.astype(np.float16))
            clips.append(Clip(f"{language}-{i}", tuple(entries), 30, language))
        return clips

    return make


def make_secondary(backbone, languages):
    return Secondary(
        backbone, PackTokenizer.train(["тоо суу", "нан апа"], languages), SecondaryOptions(rank=2)
    )


def logits(secondary, clips):
    rows = [
        torch.from_numpy(np.load(entry).astype(np.float32))
        for clip in clips
        for entry in clip.entries
    ]
    lengths = torch.tensor([len(row) for row in rows])
    return secondary.language_logits(
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths
    ).detach()


@pytest.mark.parametrize("languages", [("ky",), ("ky", "ga")])
def test_unseen_clips_are_told_apart(backbone, cached, languages):
    secondary = make_secondary(backbone, languages)
    count = len(languages)
    mine = [clip for k in range(count) for clip in cached(k + 1, 12, 0)]
    fit_language_head(secondary, mine, cached(0, 40, 0))
    for language in range(count + 1):
        assert (logits(secondary, cached(language, 6, 1)).argmax(-1) == language).all()


def test_a_large_class_is_no_likelier_than_a_small_one(backbone, cached):
    """The same sound under both labels tells nothing, however many clips of one there are."""
    secondary = make_secondary(backbone, ("ky",))
    same = cached(0, 40, 0)
    mine = [Clip(clip.id, clip.entries, clip.frames, 1) for clip in same[:20]]
    fit_language_head(secondary, mine, [*same, *same])
    assert logits(secondary, cached(0, 20, 2)).softmax(-1).mean(0)[1] == pytest.approx(0.5, abs=0.2)


def test_without_negatives_nothing_is_known_of_others(backbone, cached):
    one, two = make_secondary(backbone, ("ky",)), make_secondary(backbone, ("ky", "ga"))
    fit_language_head(one, cached(1, 5, 0), [])
    assert logits(one, cached(1, 2, 1)).tolist() == [[NO_CLIPS, 0.0]] * 4
    fit_language_head(two, [*cached(1, 12, 0), *cached(2, 12, 0)], [])
    found = logits(two, cached(2, 6, 1))
    assert (found.argmax(-1) == 2).all() and (found[:, 0] == NO_CLIPS).all()
