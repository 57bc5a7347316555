"""The trainer: losses and gradients against the plain sum, however a step is divided; which weights
are kept.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from dualasr.errors import RunError
from dualasr.model.las_decoder import LASOptions
from dualasr.training.dataset import CachedClips, Clip, collate
from dualasr.training.options import TrainingOptions
from dualasr.training.trainer import (
    SecondaryTrainer,
    dev_cer,
    train_secondary,
    training_arguments,
)
from dualasr.training.trunk_cache import TrunkCache

# of unequal length, so that the labels of one share are not those of another
TEXTS = ("ат", "Тоодо кар жаады.", "Ат суу ичти.", "Апам нан бышырды. Балдар барды.")
STEP = TrainingOptions(
    steps=1, batch=4, variants=1, time_mask=0.0, evaluate_every=1, seed=3, precision="float32"
)


@pytest.fixture
def labelled(backbone, make_secondary, clips, tmp_path):
    """Three clips with their texts, and a negative."""
    secondary = make_secondary(backbone)
    tokenizer, sounds = secondary.tokenizer, []
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000, subtype="FLOAT")
        sounds.append((tmp_path / f"{i}.wav", 0))
    cache = TrunkCache(tmp_path / "cache", backbone, secondary.options.fork)
    entries = cache.fill(sounds, progress=False)
    frames = [len(np.load(entry)) for entry in entries]
    found = [
        Clip(text, (entry,), n, 1, text, *map(tuple, units))
        for text, entry, n in zip(TEXTS, entries, frames, strict=True)
        for units in [(tokenizer.encode(text), tokenizer.encode_characters(text))]
    ]
    return [*found[:3], Clip("negative", (entries[3],), frames[3])]


def fresh(backbone, make_secondary):
    return make_secondary(backbone, las=LASOptions(dropout=0.0))


def whole_loss(secondary, clips, **options):
    """The loss of a step at once, over its labels."""
    dataset = CachedClips(clips, secondary.tokenizer, STEP)
    batch = collate([dataset[(i, i)] for i in range(len(clips))])
    return secondary.train()(**batch, **options)["loss"]


DIVIDED = [(4, 1, 1), (2, 2, 1), (1, 4, 1), (4, 1, 2), (4, 1, 3), (2, 2, 2)]


@pytest.mark.parametrize("batch, accumulation, cores", DIVIDED)
def test_a_step_has_the_loss_of_its_labels_however_it_is_divided(
    backbone, make_secondary, labelled, tmp_path, batch, accumulation, cores
):
    """Among cores, and among micro-batches: the sum over all labels, divided by their number."""
    expected = float(whole_loss(fresh(backbone, make_secondary), labelled))
    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        options = replace(STEP, batch=batch, accumulation=accumulation)
        secondary = fresh(backbone, make_secondary)
        train_secondary(secondary, labelled, (), (), tmp_path / "run", options)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    [found] = [row["train_loss"] for row in map(json.loads, lines) if "train_loss" in row]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("cores", [1, 2, 3, 9])
def test_gradients_of_shares_add_up_to_those_of_the_step(
    backbone, make_secondary, labelled, tmp_path, cores
):
    """Divided by a given number of labels; a second micro-batch is added to the first."""
    secondary = fresh(backbone, make_secondary)
    loss = whole_loss(secondary, labelled, num_items_in_batch=37, ctc_weight=0.25)
    own = {n: p for n, p in secondary.own_tensors() if not n.startswith("language_head")}
    known = torch.autograd.grad(loss, list(own.values()))
    dataset = CachedClips(labelled, secondary.tokenizer, STEP)
    with ThreadPoolExecutor(cores) as pool:
        trainer = SecondaryTrainer(
            run=tmp_path,
            model=secondary,
            args=training_arguments(STEP, tmp_path, cpu=True, precision="float32", dev=False),
            train_dataset=dataset,
            batches=[],
            pool=pool,
            cores=cores,
            options=replace(STEP, ctc_weight=0.25),
            precision="float32",
        )
        for parameter in secondary.parameters():
            parameter.requires_grad_(any(parameter is p for p in own.values()))
        inputs = collate([dataset[(i, i)] for i in range(4)])
        for times in (1, 2):
            found = trainer.training_step(secondary, dict(inputs), num_items_in_batch=37)
            assert float(found) == pytest.approx(float(loss), rel=1e-4)
            for (name, parameter), grad in zip(own.items(), known, strict=True):
                assert torch.allclose(parameter.grad, times * grad, rtol=1e-3, atol=1e-6), name


def test_the_weight_of_ctc_is_the_options(backbone, make_secondary, labelled, tmp_path):
    """Without it the CTC head learns nothing."""
    heads = []
    for weight in (0.0, 1.0):
        secondary = fresh(backbone, make_secondary)
        start = secondary.ctc_head.bias.detach().clone()
        options = replace(STEP, ctc_weight=weight, learning_rate=1e-2, warmup=0.0)
        train_secondary(secondary, labelled, (), (), tmp_path / str(weight), options)
        heads.append(torch.equal(start, secondary.ctc_head.bias))
    assert heads == [True, False]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_which_weights_become_the_pack(
    backbone, make_secondary, labelled, tmp_path, monkeypatch, keep
):
    """Dev gets better and worse again: the best are those of step 3, the first of two as good."""
    rates = iter([0.9, 0.5, 0.2, 0.4, 0.2, 0.7])
    weights = []

    def measured(secondary, dev):
        weights.append(secondary.layer_norm.bias.detach().clone())
        return next(rates)

    monkeypatch.setattr("dualasr.training.trainer.dev_cer", measured)
    secondary = fresh(backbone, make_secondary)
    options = replace(STEP, steps=6, keep=keep, learning_rate=1e-2)
    train_secondary(secondary, labelled, (), labelled[:3], tmp_path / "run", options)
    step = {"best": 3, "last": 6}[keep]
    assert torch.equal(secondary.layer_norm.bias, weights[step - 1])
    assert len({tuple(w.tolist()) for w in weights}) == 6
    assert not secondary.training and not any(p.requires_grad for p in secondary.parameters())
    assert (tmp_path / "run" / "best.json").exists() == (keep == "best")
    if keep == "best":
        assert json.loads((tmp_path / "run" / "best.json").read_text()) == {"cer": 0.2, "step": 3}


@pytest.mark.parametrize("every, steps", [(2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_dev_is_measured_at_these_steps(backbone, make_secondary, labelled, tmp_path, every, steps):
    secondary = fresh(backbone, make_secondary)
    options = replace(STEP, steps=5, evaluate_every=every)
    train_secondary(secondary, labelled, (), labelled[:3], tmp_path / "run", options)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "dev_cer" in row]
    assert [row["step"] for row in rows] == steps
    assert rows[-1]["dev_cer"] == dev_cer(secondary, labelled[:3])


def test_the_rate_on_dev_is_of_all_clips_whatever_their_batch(backbone, make_secondary, labelled):
    """Errors over characters, marks-safe: a head that always says one letter has that one right."""
    secondary = fresh(backbone, make_secondary)
    ident = secondary.tokenizer.encode_characters("т")[0]
    with torch.no_grad():
        secondary.ctc_head.weight.zero_()
        secondary.ctc_head.bias.zero_()
        secondary.ctc_head.bias[ident] = 9.0
    assert [clip.text for clip in labelled[:3]] == list(TEXTS[:3])
    # wrong are 1 letter of 2 of "ат", 14 of 15 of "тоодо кар жаады", 10 of 11 of "ат суу ичти"
    for batch in (1, 2, 16):
        assert dev_cer(secondary, labelled[:3], batch) == pytest.approx((1 + 14 + 10) / 28)


def test_a_run_that_diverges_is_stopped(backbone, make_secondary, labelled, tmp_path):
    """The message says where to look and what to do, and the plot is there."""
    options = TrainingOptions(
        steps=300, batch=3, variants=1, learning_rate=1e9, warmup=0.0, precision="float32"
    )
    with pytest.raises(RunError, match=r"Training was stopped at step \d+ of 300: .*lower") as told:
        train_secondary(
            make_secondary(backbone), labelled[:3], (), labelled[:3], tmp_path / "run", options
        )
    assert "1e+09" in str(told.value) and str(tmp_path / "run" / "loss.png") in str(told.value)
    assert (tmp_path / "run" / "loss.png").exists()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] < 300
