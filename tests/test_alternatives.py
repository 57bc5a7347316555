"""What ours is compared with: whole Whispers and other packs, trained on the same clips."""

import copy
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, get_peft_model

from dualasr.data.corpus import Utterance
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.search import Hypothesis
from dualasr.model.secondary import LORA_TARGETS, Secondary, SecondaryOptions
from dualasr.model.selector import PRIMARY, Calibration, PackScore, SelectorOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.training.options import TrainingOptions
from dualasr.training.trunk_cache import TrunkCache

TEXTS = ["Тоодо кар жаады.", "Апам нан бышырды.", "Балдар мектепке барды.", "Ат суу ичти."] * 12


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "fleurs"))
    yield importlib.import_module("alternatives")
    sys.path.pop(0)


@pytest.fixture
def spoken(clips, tmp_path):
    rows = []
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000)
        rows.append(
            Utterance(str(i), TEXTS[i], "ky", tmp_path / f"{i}.wav", len(clip) / 16_000, "train")
        )
    return rows


def test_labels_are_the_bases_own(recipe, backbone, spoken):
    row = recipe.examples_of(backbone, spoken, "tr")[1]
    names = backbone.tokenizer.convert_ids_to_tokens(row.tokens)
    assert names[:4] == ["<|startoftranscript|>", "<|tr|>", "<|transcribe|>", "<|notimestamps|>"]
    assert (
        names[-1] == "<|endoftext|>"
        and backbone.tokenizer.decode(row.tokens[4:-1]).strip() == TEXTS[1]
    )
    assert row.frames == backbone.frames(int(2.3 * 16_000))


def test_tags_that_nobody_needs_are_borrowed_first(recipe):
    assert recipe.borrow_tags(["ky", "ga"], ["en", "es", "de", "tr"], ["en", "tr"]) == {
        "ky": "es",
        "ga": "de",
    }
    assert recipe.borrow_tags(["ky", "ga", "om"], ["en", "es"], ["en", "es"]) == {
        "ky": "en",
        "ga": "es",
        "om": "en",
    }


def test_the_whole_encoder_is_transformers_own(recipe, backbone, clips):
    mel = backbone.features(clips)
    with torch.no_grad():
        assert torch.allclose(
            recipe.encode(backbone.model, mel, backbone.positions),
            backbone.encoder(mel).last_hidden_state,
            atol=1e-5,
        )


@pytest.mark.parametrize(("rank", "precision"), [(0, "float32"), (4, "float32"), (0, "bfloat16")])
def test_a_whole_whisper_learns_and_the_base_stays(
    recipe, backbone, spoken, tmp_path, rank, precision
):
    options = TrainingOptions(
        steps=12, batch=4, learning_rate=2e-2 if rank else 2e-3, variants=1, precision=precision
    )
    examples = recipe.examples_of(backbone, spoken, "tr")
    variants, before = TrunkCache(tmp_path, backbone, 0), backbone.checksum
    model, count = recipe.train_whole(backbone, examples, options, variants, rank=rank, padded=0.5)
    assert replace(backbone).checksum == before != replace(backbone, model=model).checksum
    everything = sum(p.numel() for p in backbone.model.parameters())
    assert count == everything if rank == 0 else 0 < count < everything

    def loss(model) -> float:
        with torch.no_grad():
            sounds = [soundfile.read(u.audio, dtype="float32")[0] for u in spoken]
            encoded = recipe.encode(model, backbone.features(sounds), 200)
            total = 0.0
            for row, states in zip(examples, encoded, strict=True):
                tokens = torch.tensor([row.tokens])
                output = model(
                    encoder_outputs=(states[None],),
                    decoder_input_ids=tokens[:, :-1],
                    labels=tokens[:, 1:],
                )
                total += float(output.loss)
        return total

    assert loss(model) < 0.96 * loss(backbone.model)
    again, _ = recipe.train_whole(backbone, examples, options, variants, rank=rank, padded=0.5)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_as_many_parameters(recipe, backbone):
    tokenizer = PackTokenizer.train(TEXTS, ("ky",))
    las = SecondaryOptions(rank=0, fork=backbone.layers, decoder="las")
    for make in (Secondary, recipe.Supplementary):
        wanted = recipe.parameters(make, backbone, tokenizer, las)
        units = recipe.units_for(make, backbone, tokenizer, las, wanted)
        assert (
            recipe.parameters(
                make, backbone, tokenizer, replace(las, las=replace(las.las, units=units))
            )
            == wanted
        )
    smallest = recipe.units_for(recipe.Supplementary, backbone, tokenizer, las, 10)
    assert smallest == 4


def test_a_supplementary_layer_is_all_that_is_added(recipe, backbone):
    tokenizer = PackTokenizer.train(TEXTS, ("ky",))
    secondary = recipe.Supplementary(backbone, tokenizer, SecondaryOptions(decoder="las"))
    last = dict(backbone.encoder.layers[-1].named_parameters())
    own = dict(secondary.own_tensors())
    assert not any("lora" in name for name in own) and secondary.options.fork == backbone.layers
    for name, parameter in last.items():
        mine = own[f"layers.0.{name}"]
        assert (
            torch.equal(mine, parameter)
            and mine.data_ptr() != parameter.data_ptr()
            and mine.requires_grad
        )


def test_a_comparison(recipe, tiny_folder, tmp_path, capsys, monkeypatch):
    compare, corpus = importlib.import_module("compare"), tmp_path / "corpus"
    rng = np.random.default_rng(0)
    for config in ("en_us", "ky_kg", "ga_ie"):
        for split, count in (("train", 6), ("dev", 3), ("test", 3)):
            folder = corpus / "data" / config
            (folder / "audio" / split).mkdir(parents=True)
            with (folder / f"{split}.tsv").open("w", encoding="utf-8") as table:
                for i in range(count):
                    samples = 0.1 * rng.standard_normal(int(rng.integers(14_000, 20_000)))
                    soundfile.write(folder / "audio" / split / f"{i}.wav", samples, 16_000)
                    text = f"{TEXTS[i % 4]} {config} {split} {i}"
                    table.write(
                        f"{i}\t{i}.wav\t{text}\t{text.lower()}\tx\t{len(samples)}\tFEMALE\n"
                    )
    arguments = [
        str(a)
        for a in (
            "ky",
            "ga",
            "--corpus",
            corpus,
            "--base",
            tiny_folder,
            "--out",
            tmp_path / "out",
            "--steps",
            2,
            "--batch",
            4,
            "--variants",
            1,
            "--rank",
            2,
            "--rates",
            1e-3,
            1e-2,
            "--seeds",
            1,
            "--systems",
            "full fine-tuning, replay",
            "supplementary layer",
        )
    ]
    assert compare.main(arguments) == 0
    text = capsys.readouterr().out
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert [row["system"] for row in rows] == [
        "zero-shot",
        "full fine-tuning, replay",
        "supplementary layer",
        "ours, whisper",
    ]
    assert (
        rows[2]["base_change"] == rows[3]["base_change"] == rows[3]["bwt"] == 0
        and rows[1]["parameters"] == 0
    )
    assert (
        rows[1]["tuned"].keys() == {"0.001", "0.01"}
        and rows[2]["ours_relative"][1] <= rows[2]["ours_relative"][2]
    )
    assert "| ours, whisper |" in text and (tmp_path / "out" / "compare.png").stat().st_size > 5000
    monkeypatch.setattr(compare, "fit_whole", None)  # all cells are there: nothing is trained again
    monkeypatch.setattr(compare, "fit_shape", None)
    assert compare.main(arguments) == 0
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"] == rows
    lost = next((tmp_path / "out" / "cells" / "full-fine-tuning-replay").glob("*-1-1-test.json"))
    lost.unlink()  # its weights went when the system was done
    assert compare.main(arguments) == 1
    assert "the same command trains it again" in capsys.readouterr().err
    assert compare.main([*arguments, "LoRA"]) == 1
    assert (
        "No system is named LoRA; there are: full fine-tuning; LoRA, encoder"
        in capsys.readouterr().err
    )
    (corpus / "data" / "en_us").rename(tmp_path / "en_us")
    for name in ("compare", "tables"):
        more = ["--joint", "nowhere"] if name == "tables" else []
        assert (
            importlib.import_module(name).main(
                [*arguments[:6], "--out", str(tmp_path / name), *more]
            )
            == 1
        )
        assert not (tmp_path / name).exists()
    assert "must hold a language of it" in capsys.readouterr().err


def test_a_pipeline_alone_hears_what_it_hears_in_an_evaluation(recipe, make_model, spoken):
    """A long clip among them, which is cut."""
    long = spoken[0].audio.with_name("long.wav")
    soundfile.write(long, np.concatenate([soundfile.read(u.audio)[0] for u in spoken * 3]), 16_000)
    clips, model = [*spoken, replace(spoken[0], id="long", audio=long)], make_model(("a", "ky"))
    assert soundfile.info(long).duration > model.backbone.window_s
    for route, known in (("a", model), (PRIMARY, replace(model, packs={}))):
        found = evaluate(known, clips, EvaluationOptions(beam=2, max_new_tokens=9, probes=0)).clips
        options = DecodeOptions(beam=2, generate={"max_new_tokens": 9})
        assert recipe.transcripts(model, clips, route, options) == [
            clip.pipeline_aware.hyp for clip in found
        ]


def test_the_papers_selector_over_tau_and_beta(recipe):
    """Clips by hand: old ones that the primary names surely, and one new clip that it claims by a
    hair.
    """
    tables = importlib.import_module("tables")

    def clip(code: str, best_tag: float, tag: float, averages: tuple[float, float]):
        score = PackScore(
            name="pack",
            languages=("ky", "ga"),
            head=0.0,
            calibration=Calibration(),
            shares=(0.5, 0.5),
            best_tag=tag,
        )
        texts = ("right", "wrong") if code == "en" else ("wrong", "right")
        both = [
            Hypothesis((1, 2), text, 3 * average, True)
            for text, average in zip(texts, averages, strict=True)
        ]
        return tables.Evidence(
            language=code,
            ref="right",
            seconds=2.0,
            best_tag=best_tag,
            score=score,
            primary=both[0],
            secondary=both[1],
        )

    sure, doubtful = clip("en", -0.01, -0.9, (-0.2, -0.9)), clip("ky", -0.1, -0.3, (-1.0, -0.9))
    rows = {(row["tau"], row["beta"]): row for row in tables.sweep([sure, doubtful], ["ky"])}
    # by tags alone the primary has it
    assert rows[0.0, 0.0]["new"] > 0 and rows[0.0, 0.0]["twice"] == 0
    assert rows[0.5, 0.0]["new"] == rows[0.5, 0.0]["old"] == 0 and rows[0.5, 0.0]["twice"] == 0.5
    assert rows[1.0, 0.0]["twice"] == 1 and rows[1.0, 0.0]["old"] == 0
    assert rows[1.0, 0.6]["old"] == 0 and rows[3.0, 0.6]["new"] == 0
    close = clip("ky", -0.1, -0.1, (-1.0, -0.9))  # the pack's tokens are likelier by 0.1
    for beta, text in ((0.0, "right"), (-0.09, "right"), (-0.11, "wrong")):
        options = SelectorOptions(rule="paper", tau=0.5, beta=beta)
        assert close.routed(options) == (text, True)
    lines = tables.table_3(list(rows.values()))
    assert any(line.startswith("| 0.5 | 0.0 |") for line in lines)


def test_ranks_that_add_as_many_parameters_as_wanted(recipe, backbone):
    tokenizer, count = PackTokenizer.train(["кар тоо суу"] * 9, ("ky",)), []
    for kind in ("whisper", "ctc"):
        shape = SecondaryOptions(decoder=kind)
        rank = recipe.rank_for(backbone, tokenizer, shape, 30_000)
        count.append(recipe.parameters(Secondary, backbone, tokenizer, replace(shape, rank=rank)))
    assert all(abs(found - 30_000) < 2_000 for found in count)
    rank = recipe.whole_rank(backbone, 30_000)
    model = get_peft_model(
        copy.deepcopy(backbone.model), LoraConfig(r=rank, target_modules=list(LORA_TARGETS))
    )
    assert abs(sum(p.numel() for p in model.parameters() if p.requires_grad) - 30_000) < 2_000
