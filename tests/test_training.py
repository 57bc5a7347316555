"""Training: the fast way against the obvious one, resuming, and corpora with something wrong in
them.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from processes import run_dualasr, start_dualasr
from safetensors.torch import load_file

from dualasr.audio.load import Sound
from dualasr.cli.main import main
from dualasr.errors import CorpusError, RunError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.las_decoder import LASOptions
from dualasr.model.secondary import SecondaryOptions, slice_trunk
from dualasr.packs.format import load_pack, read_pack
from dualasr.training.add_language import add_language
from dualasr.training.dataset import CachedClips, Clip, check_label, collate, plan_batches
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.training.plan import plan
from dualasr.training.prepare import find_negatives, read_corpora, trunk_cache
from dualasr.training.trainer import train_secondary
from dualasr.training.trunk_cache import TrunkCache

WORDS = "кар тоо суу ат нан апа бала үй жол күн".split()


def make_corpus(folder: Path, count: int = 14, extra: tuple[dict, ...] = ()) -> Path:
    """Sounds that spell: every word is a chord of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        words = list(rng.choice(WORDS, rng.integers(2, 4)))
        time_ = np.arange(6400) / 16_000
        parts = [
            np.sin(2 * np.pi * (200 + 90 * WORDS.index(w)) * time_) * np.hanning(6400)
            for w in words
        ]
        soundfile.write(folder / f"{i}.wav", 0.3 * np.concatenate(parts), 16_000)
        split = "dev" if i % 5 == 4 else "train"
        rows.append(
            {
                "id": f"c{i}",
                "audio": f"{i}.wav",
                "text": " ".join(words),
                "lang": "ky",
                "split": split,
            }
        )
    with (folder / "manifest.jsonl").open("w") as file:
        for row in [*rows, *extra]:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def make_options(base: Path, folder: Path) -> AddLanguageOptions:
    return AddLanguageOptions(
        base=str(base),
        generated_negatives=False,
        corpora=(make_corpus(folder / "corpus"),),
        languages={"ky": "Kyrgyz"},
        out=folder / "packs" / "ky",
        secondary=SecondaryOptions(rank=2),
        training=TrainingOptions(
            steps=4, batch=4, variants=2, save_every=2, evaluate_every=2, precision="float32"
        ),
    )


@pytest.fixture
def options(tiny_folder, tmp_path):
    return make_options(tiny_folder, tmp_path)


def cached(backbone, secondary, folder, clips):
    """Clips in a cache, with labels."""
    cache = TrunkCache(folder, backbone, secondary.options.fork)
    paths = []
    for i, clip in enumerate(clips):
        path = folder / f"{i}.wav"
        soundfile.write(path, clip, 16_000, subtype="FLOAT")
        paths.append(path)
    entries = cache.fill([(path, 0) for path in paths], progress=False)
    text = "Тоодо кар жаады."
    tokens, characters = (
        secondary.tokenizer.encode(text),
        secondary.tokenizer.encode_characters(text),
    )
    frames = [np.load(entry).shape[0] for entry in entries]
    return [
        Clip(str(i), (entry,), n, 1, text, tuple(tokens), tuple(characters))
        for i, (entry, n) in enumerate(zip(entries, frames, strict=True))
    ]


def test_cached_equals_uncached(backbone, make_secondary, clips, tmp_path):
    secondary = make_secondary(backbone)
    labelled = cached(backbone, secondary, tmp_path, clips)
    dataset = CachedClips(labelled, secondary.tokenizer, TrainingOptions(time_mask=0.0))
    batch = collate([dataset[(i, i)] for i in range(len(clips))])
    trunk = backbone.trunk(backbone.features(clips), secondary.options.fork)
    sliced, lengths = slice_trunk(trunk, [backbone.frames(len(clip)) for clip in clips])
    assert torch.equal(lengths, batch["lengths"])
    fresh = batch | {"trunk": sliced}
    with torch.no_grad():
        for i, n in enumerate(lengths.tolist()):
            # float16
            assert torch.allclose(batch["trunk"][i, :n], sliced[i, :n], rtol=1e-3, atol=1e-4)
        assert secondary(**batch)["loss"].item() == pytest.approx(
            secondary(**fresh)["loss"].item(), rel=1e-4
        )


def test_padding_in_a_batch_does_not_change_the_loss(backbone, make_secondary, clips, tmp_path):
    secondary = make_secondary(backbone)
    labelled = cached(backbone, secondary, tmp_path, clips)
    dataset = CachedClips(labelled, secondary.tokenizer, TrainingOptions(time_mask=0.0))
    items = [dataset[(i, i)] for i in range(len(clips))]
    with torch.no_grad():
        together = secondary(**collate(items), num_items_in_batch=1)["loss"].item()
        apart = sum(
            secondary(**collate([item]), num_items_in_batch=1)["loss"].item() for item in items
        )
    assert together == pytest.approx(apart, rel=1e-4)


def test_the_share_of_a_process_that_gets_no_clip_teaches_nothing(
    backbone, make_secondary, clips, tmp_path
):
    secondary = make_secondary(backbone)
    dataset = CachedClips(
        cached(backbone, secondary, tmp_path, clips), secondary.tokenizer, TrainingOptions()
    )
    loss = secondary(**collate([dataset[(0, None)]]), num_items_in_batch=8)["loss"]
    own = [p for _, p in secondary.own_tensors()]
    grads = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
    assert loss.item() == 0 and all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_accumulating_twice_b_equals_once_two_b(backbone, make_secondary, clips, tmp_path, dropout):
    finals = []
    for batch, accumulation in ((4, 1), (2, 2)):
        secondary = make_secondary(backbone, las=LASOptions(dropout=dropout))
        labelled = cached(backbone, secondary, tmp_path, clips)
        training = TrainingOptions(
            steps=3,
            batch=batch,
            accumulation=accumulation,
            save_every=100,
            evaluate_every=100,
            precision="float32",
        )
        train_secondary(secondary, labelled, (), (), tmp_path / f"run{batch}", training)
        finals.append({name: p.clone() for name, p in secondary.own_tensors()})
    for name, tensor in finals[0].items():
        apart = ((tensor - finals[1][name]).abs() > 2e-5).sum()
        # a gradient that is nothing but rounding behind the softmax: Adam makes a step of it in one
        # or two of 128 places
        assert apart <= 2 * name.endswith(
            ("q_proj.lora_B.default.weight", "k_proj.lora_B.default.weight")
        ), name


def test_training_moves_the_pack_and_nothing_else(backbone, make_secondary, clips, tmp_path):
    secondary = make_secondary(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    own = {name: tensor.clone() for name, tensor in secondary.own_tensors()}
    mel = backbone.features(clips)
    tokens = backbone.model.generate(mel)
    train_secondary(
        secondary,
        cached(backbone, secondary, tmp_path, clips),
        (),
        (),
        tmp_path / "run",
        TrainingOptions(steps=2, batch=4, save_every=100, evaluate_every=100, precision="float32"),
    )
    assert all(
        torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items()
    )
    assert torch.equal(tokens, backbone.model.generate(mel))
    still = [name for name, tensor in secondary.own_tensors() if torch.equal(own[name], tensor)]
    assert still == [
        "language_head.weight",
        "language_head.bias",
    ], "the head alone is fitted afterwards"


def test_plan_covers_every_clip_and_repeats():
    options = TrainingOptions(steps=30, batch=4, negatives=0.5, seed=3)
    lengths, negatives = list(range(10, 50)), [5, 60, 20]
    batches = plan_batches(lengths, negatives, options)
    assert batches == plan_batches(lengths, negatives, options)
    assert batches != plan_batches(lengths, negatives, replace(options, seed=4))
    assert {i for batch in batches[:10] for i, _ in batch if i < 40} == set(range(40))
    assert all(sum(i >= 40 for i, _ in batch) == 2 for batch in batches)
    positions = [position for batch in batches for _, position in batch]
    assert len(set(positions)) == len(positions)


def test_labels_the_decoder_cannot_hold(backbone, make_secondary):
    tokenizer = make_secondary(backbone).tokenizer
    assert check_label(tokenizer, "Апам нан бышырды.", 100, 0.02) is None
    assert "17 characters, too many for 0.2 s of sound" in check_label(
        tokenizer, "Апам нан бышырды.", 10, 0.02
    )
    assert "17 characters, too many for 0.8 s of sound" in check_label(
        tokenizer, "Апам нан бышырды.", 10, 0.08
    )
    assert "the decoder holds" in check_label(tokenizer, "Тоодо кар жаады. " * 200, 100_000, 0.02)
    assert "empty" in check_label(tokenizer, "", 100, 0.02)


def test_add_language_end_to_end(options, backbone):
    pack = add_language(options)
    loaded = load_pack(options.out, backbone)
    assert loaded.info.languages == {"ky": "Kyrgyz"} and not loaded.info.calibration.negatives
    assert all(
        torch.equal(a, b)
        for (_, a), (_, b) in zip(
            pack.secondary.own_tensors(), loaded.secondary.own_tensors(), strict=True
        )
    )
    steps = [
        json.loads(line)["step"]
        for line in (options.run / "metrics.jsonl").read_text().splitlines()
    ]
    assert 4 in steps
    assert not list(options.run.glob("checkpoint-*"))


def one_recording(corpus: Path, folder: Path) -> Path:
    """The clips of a corpus joined into one recording a split, with a manifest of segments."""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    folder.mkdir()
    for split in ("train", "dev"):
        sounds, at = [], 0
        for row in (row for row in rows if row["split"] == split):
            sounds.append(soundfile.read(corpus / row["audio"])[0])
            row |= {
                "audio": f"{split}.flac",
                "start": at / 16_000,
                "end": (at + len(sounds[-1])) / 16_000,
            }
            at += len(sounds[-1])
        soundfile.write(folder / f"{split}.flac", np.concatenate(sounds), 16_000)
    (folder / "manifest.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    return folder


def test_segments_of_a_recording_train_the_pack_that_their_clips_do(options, tmp_path):
    cut = replace(
        options,
        corpora=(one_recording(options.corpora[0], tmp_path / "long"),),
        out=tmp_path / "packs" / "cut",
    )
    whole, segments = add_language(options), add_language(cut)
    assert segments.info.training["clips"] == whole.info.training["clips"] == 12
    for (name, a), (_, b) in zip(
        whole.secondary.own_tensors(), segments.secondary.own_tensors(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_whole_file_keeps_its_cache_entry_and_a_stretch_has_its_own(backbone, clips, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, clips[3], 16_000, subtype="FLOAT")
    cache = TrunkCache(tmp_path / "cache", backbone, 1)
    digest = hashlib.sha256(path.read_bytes()).digest()
    whole, same, head, tail, last = cache.fill(
        [
            (sound, 0)
            for sound in (
                path,
                Sound(path),
                Sound(path, 0.0, 1.0),
                Sound(path, 3.0, 4.0),
                Sound(path, 3.0),
            )
        ],
        progress=False,
    )
    assert whole == same == cache.path(digest, 0) and len({whole, head, tail, last}) == 4
    assert np.array_equal(np.load(tail), np.load(last)) and not np.array_equal(
        np.load(head), np.load(tail)
    )
    soundfile.write(tmp_path / "tail.wav", clips[3][48_000:], 16_000, subtype="FLOAT")
    (alone,) = cache.fill([(tmp_path / "tail.wav", 0)], progress=False)
    assert np.array_equal(np.load(alone), np.load(tail))


def test_clips_of_every_split_are_not_their_own_dev(options, tmp_path):
    folder = make_corpus(tmp_path / "undivided", count=60)
    manifest = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text(
        "".join(
            json.dumps(row | {"split": None, "text": f"{row['text']} {row['id']}"}) + "\n"
            for row in rows
        )
    )
    found = read_corpora(replace(options, corpora=(folder, *options.corpora)), 15.0)
    train, dev = found.train, found.dev
    assert len(train) + len(dev) == 74 and 2 < len(dev) < 20
    assert not {u.sound for u in train} & {u.sound for u in dev}


def test_readings_of_one_sentence_are_on_one_side(options, tmp_path):
    """Where a corpus has no dev, and where its clips are of every split: by sentence, whatever its
    case and punctuation. So no dev text is learnt by heart.
    """
    for split in ("train", None):
        folder = make_corpus(tmp_path / f"{split}", count=2)
        rows = []
        for i in range(90):
            for k, text in enumerate((f"Кар {i} тоо.", f"кар {i}, тоо", f"КАР {i} ТОО!")):
                shutil.copy(folder / f"{k % 2}.wav", folder / f"{i}-{k}.wav")
                row = {"id": f"{i}-{k}", "audio": f"{i}-{k}.wav", "text": text, "lang": "ky"}
                rows.append(row | {"split": split})
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read_corpora(replace(options, corpora=(folder,)), 15.0)
        train, dev = ({u.id.split("-")[0] for u in side} for side in (found.train, found.dev))
        assert not train & dev and train | dev == {str(i) for i in range(90)}
        assert len(found.train) == 3 * len(train) and len(found.dev) == 3 * len(dev)
        assert 1 <= len(dev) <= 15, "one sentence in sixteen"


def test_dev_is_that_of_the_corpora_that_have_one(options, tmp_path):
    manifest = make_corpus(tmp_path / "more") / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
    found = read_corpora(options, 15.0)
    own, dev = found.train, found.dev
    both = read_corpora(replace(options, corpora=(*options.corpora, tmp_path / "more")), 15.0)
    assert dev and both.dev == dev and len(both.train) == len(own) + len(rows)


def test_negatives_are_calibrated(options, tmp_path):
    sounds = tmp_path / "others"
    sounds.mkdir()
    rng = np.random.default_rng(1)
    for i in range(20):
        soundfile.write(sounds / f"{i}.wav", rng.standard_normal(16_000) * 0.1, 16_000)
    pack = add_language(replace(options, negatives=(sounds,)))
    assert pack.info.calibration.negatives and pack.info.training["negatives"] == 12
    weight = pack.info.calibration.head.weights[0]
    assert weight > 0, "the pack's own clips are on the side of the higher scores"


def test_a_pack_knows_how_its_language_sounds(options, backbone):
    """The mean of its training clips, each heard alone, every other one augmented; and none of a
    dev clip.
    """
    pack = add_language(options)
    train = sorted(read_corpora(options, backbone.window_s).train, key=lambda u: u.duration)
    cache, model = trunk_cache(options, backbone), DualWhisper(backbone)
    heard = [
        model.encode_audio([cache.samples(u.sound, i % 2)]).pooled_features[0].numpy()
        for i, u in enumerate(train)
    ]
    assert np.allclose(pack.statistics.means[0], np.mean(heard, 0), atol=1e-4)
    assert load_pack(options.out, backbone).statistics.means.shape == (1, 3 * backbone.width)


def test_a_large_folder_of_negatives_does_not_crowd_out_the_others(tmp_path):
    for name, count in (("large", 80), ("small", 7), ("other", 8)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.wav").touch()
    train, dev = find_negatives(
        [tmp_path / name for name in ("large", "small", "other")], ["ky"], seed=1
    )
    assert len({*train, *dev}) == len(train) + len(dev)
    assert [sound.path.parent.name for sound in train] == ["large", "small", "other"] * 4 + [
        "large",
        "other",
    ]
    assert [sound.path.parent.name for sound in dev] == ["large", "small", "other"] * 3
    alone, _ = find_negatives([tmp_path / "large"], ["ky"], seed=1)
    assert len(alone) == 70 and alone != sorted(alone, key=str)
    assert find_negatives([], ["ky"], seed=1) == ([], [])


def test_negatives_of_a_corpus_with_dev_are_calibrated_on_that(tmp_path):
    """What training hears is of train alone, all of it, and dev is dev."""
    corpus = make_corpus(tmp_path / "others")
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    splits = {
        split: {Sound(corpus / row["audio"]) for row in rows if row["split"] == split}
        for split in ("train", "dev")
    }
    train, dev = find_negatives([corpus], ["en"], seed=1)
    assert set(train) == splits["train"] and set(dev) == splits["dev"]


def test_the_packs_own_languages_are_no_negatives(tmp_path):
    """Of a corpus that holds them, too; neither for training nor for the calibration."""
    corpus = make_corpus(tmp_path / "mixed", count=20)
    manifest = corpus / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["lang"] = ("ky", "en", "ga")[i % 3]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for own, others in (
        (["ky"], {"en", "ga"}),
        (["ga", "ky"], {"en"}),
        (["tr"], {"ky", "en", "ga"}),
    ):
        found = dict(zip(("train", "dev"), find_negatives([corpus], own, seed=1), strict=True))
        for split, sounds in found.items():
            assert set(sounds) == {
                Sound(corpus / row["audio"])
                for row in rows
                if row["split"] == split and row["lang"] in others
            }


def test_a_corpus_that_has_only_test_is_no_negatives(tmp_path):
    corpus = make_corpus(tmp_path / "others")
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(
        manifest.read_text().replace('"train"', '"test"').replace('"dev"', '"test"')
    )
    with pytest.raises(CorpusError, match="no train split, only test"):
        find_negatives([corpus], ["en"], seed=1)


def test_what_cannot_be_used_is_skipped_and_counted(options, tmp_path, caplog):
    folder = tmp_path / "broken"
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 20), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(3200), 16_000)
    (tmp_path / "noise.wav").write_bytes(b"this is no sound" * 20)
    soundfile.write(
        tmp_path / "cut.flac", np.random.default_rng(0).standard_normal(32_000) * 0.1, 16_000
    )
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    row = {"lang": "ky", "split": "train", "text": "кар тоо"}
    extra = (
        row | {"id": "no-audio"},
        row | {"id": "no-text", "text": "", "audio": "0.wav"},
        row | {"id": "long", "audio": str(tmp_path / "long.wav")},
        row | {"id": "no-sound", "audio": str(tmp_path / "noise.wav")},
        row | {"id": "cut", "audio": str(tmp_path / "cut.flac")},
        row | {"id": "dense", "audio": str(tmp_path / "short.wav"), "text": "кар тоо " * 20},
    )
    make_corpus(folder, extra=extra)
    broken = replace(options, corpora=(folder,))
    with caplog.at_level(logging.INFO, "dualasr"):
        add_language(broken)
    skipped = {
        item["id"]: item["reason"] for item in json.loads((broken.run / "skipped.json").read_text())
    }
    assert len(skipped) == 6 and "6 skipped" in caplog.text
    assert (
        "window is 15 s" in skipped["long"]
        and "too many for" in skipped["dense"]
        and "cut.flac" in skipped["cut"]
    )
    assert read_pack(broken.out)["training"]["clips"] == 12
    with pytest.raises(CorpusError, match="manifest.jsonl:15"):
        add_language(replace(broken, out=tmp_path / "packs" / "strict", strict=True))


def test_an_existing_folder_is_never_overwritten(options, tmp_path):
    add_language(options)
    seal = read_pack(options.out)["seal"]
    for resume in (False, True):
        with pytest.raises(RunError, match="exists"):
            add_language(options, resume=resume)
    assert read_pack(options.out)["seal"] == seal
    unfinished = replace(options, out=tmp_path / "packs" / "other")
    unfinished.run.mkdir(parents=True)
    (unfinished.run / "arguments.json").write_text(json.dumps({"base": "another"}))
    with pytest.raises(RunError, match="--resume"):
        add_language(unfinished)
    with pytest.raises(RunError, match="other settings"):
        add_language(unfinished, resume=True)


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ([], "{'ky': 'Kyrgyz'}"),
        (["--language-name", "Kirgiz"], "{'ky': 'Kirgiz'}"),
    ],
)
def test_a_language_is_shown_by_its_name(options, capsys, more, shown):
    asked = [
        "add-language",
        "--base",
        options.base,
        "--corpus",
        str(options.corpora[0]),
        "--language",
        "ky",
        "--no-generated-negatives",
        *more,
    ]
    assert main([*asked, "--out", str(options.out), "--rank", "2", "--dry-run"]) == 0
    assert f"languages      {shown}\n" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["Kyrgyz", "k", "ky_KG", ""])
def test_no_language_code(options, code):
    with pytest.raises(RunError, match="no language code"):
        add_language(replace(options, languages={"ky": "Kyrgyz", code: "?"}))


def test_unknown_language_of_the_corpus(options):
    with pytest.raises(CorpusError, match="ga"):
        add_language(replace(options, languages={"ga": "Irish"}))


@pytest.mark.parametrize(
    "change",
    [
        {"secondary": SecondaryOptions(fork=99)},
        {"secondary": SecondaryOptions(rank=-1)},
        *(
            {"training": TrainingOptions(**{name: 0})}
            for name in ("steps", "batch", "accumulation", "variants", "save_every")
        ),
        {"training": TrainingOptions(learning_rate=float("nan"))},
    ],
)
def test_settings_that_cannot_be(options, change):
    for begin in (add_language, plan):
        with pytest.raises(RunError, match="outside the encoder|wanted"):
            begin(replace(options, **change))
    assert not options.run.exists()


def test_dry_run_writes_nothing(options):
    facts = plan(options)
    assert (
        facts["train"] == 12
        and facts["dev"] == 2
        and facts["parameters"] > 0
        and facts["minutes"] >= 0
    )
    assert not options.out.parent.exists()


DUALASR = (sys.executable, "-m", "dualasr")


def command(options: AddLanguageOptions, out: Path, *more: str) -> list[str]:
    return [
        "add-language",
        "--base",
        options.base,
        "--corpus",
        str(options.corpora[0]),
        "--language",
        "ky",
        "--out",
        str(out),
        "--cache",
        str(out.parent / "cache"),
        "--no-generated-negatives",
        "--rank",
        "2",
        "--steps",
        "12",
        "--batch",
        "4",
        "--variants",
        "2",
        "--save-every",
        "4",
        *more,
    ]


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory):
    """Options, and the pack of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    options = make_options(tiny_folder, folder)
    arguments = command(options, folder / "whole" / "ky")
    subprocess.run([*DUALASR, *arguments], check=True, capture_output=True)
    return options, folder / "whole" / "ky"


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_killed_and_resumed_equals_unbroken(unbroken, tmp_path, moment):
    """SIGKILL before, during and after the first save; the clips of an epoch do not divide the
    steps.
    """
    (options, whole), broken = unbroken, tmp_path / "broken" / "ky"
    run = broken.with_name("ky.run")
    started = start_dualasr(command(options, broken), tmp_path)
    signs = {
        "before": run / "skipped.json",
        "during": run / "saving" / "checkpoint-4",
        "after": run / "checkpoint-4",
    }
    while started.running() and not signs[moment].exists():
        time.sleep(0.001)
    started.kill()
    assert not broken.exists(), "killed too late for this test to mean anything"
    refused = run_dualasr(command(options, broken), tmp_path)
    said = refused.err.read_text()
    assert refused.wait() == 1 and "--resume" in said and "Traceback" not in said
    resumed = run_dualasr(command(options, broken, "--resume"), tmp_path)
    assert resumed.wait() == 0, resumed.err.read_text()
    for name in ("decoder.safetensors", "adapter_model.safetensors", "tokenizer.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


def test_two_processes_train_as_one_does(options, tmp_path):
    """torchrun with gloo, each process half of every batch: losses and weights of one process, up
    to rounding.
    """
    packs = [tmp_path / name / "ky" for name in ("one", "two")]
    asked = ("--steps", "50", "--learning-rate", "1e-4")
    alone = run_dualasr(command(options, packs[0], *asked), tmp_path, threads=1)
    launch = "-m torch.distributed.run --standalone --nproc_per_node 2 -m dualasr".split()
    together = subprocess.run(
        [sys.executable, *launch, *command(options, packs[1], *asked)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert alone.wait() == 0, alone.err.read_text()
    assert together.returncode == 0, together.stderr
    # a second process says nothing
    assert alone.out.read_text().count("4 train") == together.stdout.count("4 train") == 1
    logs = [(out.with_name("ky.run") / "metrics.jsonl").read_text().splitlines() for out in packs]
    logged = [
        [
            (row["step"], row["loss"], row["grad_norm"])
            for row in map(json.loads, log)
            if "loss" in row
        ]
        for log in logs
    ]
    assert np.array(logged[1]) == pytest.approx(np.array(logged[0]), rel=1e-3) and [
        row[0] for row in logged[0]
    ] == [25, 50]
    for name in ("decoder.safetensors", "adapter_model.safetensors"):
        one, two = (load_file(out / name) for out in packs)
        assert (
            max(
                float((one[key] - two[key]).abs().max())
                for key in one
                if "language_head" not in key
            )
            < 1e-3
        ), name


def test_a_full_disk_while_training(options, tmp_path):
    """The limit on file size stands in for the full disk: exit 1, a sentence, and what was saved
    before stays.
    """
    out = tmp_path / "full" / "ky"
    full = run_dualasr(command(options, out), tmp_path, file_limit=40_000)
    said = full.err.read_text()
    assert full.wait() == 1 and "Free some space" in said and "Traceback" not in said
    assert not out.exists() and not list(out.with_name("ky.run").glob("checkpoint-*"))
    resumed = run_dualasr(command(options, out, "--resume"), tmp_path)
    assert resumed.wait() == 0, resumed.err.read_text()
    assert read_pack(out)["name"] == "ky"
