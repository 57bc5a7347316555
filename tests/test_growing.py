"""A pack that goes on from another: what it keeps, what it hears again, and what it never reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualasr.errors import RunError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.secondary import DECODERS, SecondaryOptions
from dualasr.packs.format import load_pack, read_fingerprints, read_pack
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.training.prepare import read_corpora, read_text

SENTENCES = {
    "ky": ["ат суу", "кар нан", "суу кар"],
    "ga": ["tá sé", "an lá", "sé an"],
    "om": ["bara gaarii", "mana"],
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """A manifest folder for each language, 10 training and 3 dev clips of noise and tones."""
    folders, rng = {}, np.random.default_rng(0)
    for code, sentences in SENTENCES.items():
        folders[code] = tmp_path_factory.mktemp(code)
        with (folders[code] / "manifest.jsonl").open("w") as file:
            for i in range(13):
                soundfile.write(
                    folders[code] / f"{i}.wav", 0.1 * rng.standard_normal(14_000 + 400 * i), 16_000
                )
                row = {
                    "id": f"{code}{i}",
                    "audio": f"{i}.wav",
                    "text": f"{sentences[i % len(sentences)]} {i % 4}",
                    "lang": code,
                    "split": "train" if i < 10 else "dev",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folders


def options(base, corpora, out: Path, new: str, earlier: str = "", **more) -> AddLanguageOptions:
    codes = [*earlier.split(), new]
    return AddLanguageOptions(
        base=str(base),
        generated_negatives=False,
        corpora=(corpora[new],),
        languages={code: code for code in codes},
        out=out,
        rehearsal=tuple(corpora[code] for code in earlier.split()),
        secondary=SecondaryOptions(rank=2, decoder="ctc"),
        training=TrainingOptions(steps=2, batch=4, variants=1),
        **more,
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_inherited(backbone, make_secondary, clips, decoder):
    old = make_secondary(backbone, ("ky",), decoder=decoder, seed=1)
    new = make_secondary(backbone, ("ky", "ga"), decoder=decoder, seed=2)
    untouched = {name: p.clone() for name, p in new.own_tensors()}
    new.inherit(old)
    encoded = torch.randn(2, 40, backbone.width, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([40, 30])
    text = [old.tokenizer.encode("Ат суу")] * 2
    before, after = (
        torch.tensor(
            [
                [
                    s.tokenizer.end,
                    s.tokenizer.tag("ky"),
                    *(t - old.tokenizer.first_text + s.tokenizer.first_text for t in row),
                ]
                for row in text
            ]
        )
        for s in (old, new)
    )
    with torch.no_grad():
        said, says = old.decoder(encoded, lengths, before), new.decoder(encoded, lengths, after)
        assert torch.equal(old.ctc_log_probs(encoded), new.ctc_log_probs(encoded))
    # after the tag step the new tag is not asked for, and nothing has changed
    if said.shape[1] > 1:
        assert torch.allclose(said[:, 1:, 3:], says[:, 1:, 4:], atol=1e-6)
    ratios = (says[:, 0, 1] - says[:, 0, 2]) - (said[:, 0, 1] - said[:, 0, 2])
    assert torch.allclose(ratios, torch.zeros(2), atol=1e-5)  # other against ky, whatever ga says
    assert torch.equal(
        dict(new.own_tensors())["language_head.weight"], untouched["language_head.weight"]
    )


def test_a_pack_goes_on(tiny_folder, backbone, corpora, tmp_path):
    later = (corpora["ga"], corpora["om"])
    first = add_language(
        options(tiny_folder, corpora, tmp_path / "one", "ky", vocabulary_corpora=later)
    )
    asked = options(
        tiny_folder,
        corpora,
        tmp_path / "two",
        "ga",
        "ky",
        init=tmp_path / "one",
        vocabulary_corpora=later,
    )
    second = add_language(asked)
    tokenizers = [pack.secondary.tokenizer for pack in (first, second)]
    assert tokenizers[0].bpe.to_str() == tokenizers[1].bpe.to_str()
    assert (
        set("".join(SENTENCES["om"]))
        <= set(tokenizers[0].characters)
        == set(tokenizers[1].characters)
    )
    assert [t.languages for t in tokenizers] == [("ky",), ("ky", "ga")]
    loaded = load_pack(tmp_path / "two", backbone)
    assert (
        list(loaded.info.languages) == ["ky", "ga"]
        and read_pack(tmp_path / "two")["training"]["goes on from"] == "one"
    )
    # what the first was trained on, the new, what was rehearsed
    assert len(read_fingerprints(loaded.folder)) == 10 + 10 + 3
    assert DualWhisper(backbone).with_pack(loaded).route_of("ky") == loaded.name


def test_rehearsal_is_a_share_of_earlier_new_languages_and_no_base_data(
    tiny_folder, corpora, tmp_path
):
    asked = options(
        tiny_folder,
        corpora,
        tmp_path / "p",
        "om",
        "ky ga",
        rehearse=0.4,
        negatives=(corpora["ky"],),
    )
    found = read_corpora(asked, 15.0)
    train, dev = found.train, found.dev
    assert [u.language for u in train].count("om") == 10
    assert len(train) == 10 + 8 and {u.language for u in train} == {"ky", "ga", "om"}
    assert [u.language for u in dev[:3]] == ["om", "ky", "ga"] and len(dev) == 9
    again = read_corpora(asked, 15.0).train
    assert [u.id for u in again] == [u.id for u in train]


def test_negatives_are_never_labels(tiny_folder, corpora, tmp_path):
    """Base data comes as negatives: a text there that nobody may read would be in the vocabulary or
    the labels.
    """
    secret = tmp_path / "base"
    secret.mkdir()
    for i in range(3):
        soundfile.write(
            secret / f"{i}.wav", 0.1 * np.random.default_rng(i).standard_normal(16_000), 16_000
        )
    rows = [
        {"id": f"b{i}", "audio": f"{i}.wav", "text": "ZZZ QQQ", "lang": "en", "split": "train"}
        for i in range(3)
    ]
    (secret / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    add_language(options(tiny_folder, corpora, tmp_path / "one", "ky", negatives=(secret,)))
    asked = options(
        tiny_folder,
        corpora,
        tmp_path / "two",
        "ga",
        "ky",
        init=tmp_path / "one",
        negatives=(secret,),
    )
    pack = add_language(asked)
    train = read_corpora(asked, 15.0).train
    assert not any("Z" in text or "Q" in text for text in read_text(asked, train))
    assert not {"Z", "Q"} & set(pack.secondary.tokenizer.characters)
    assert pack.info.calibration.negatives


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"languages": {"ga": "ga", "ky": "ky"}}, "must hold these first"),
        ({"secondary": SecondaryOptions(rank=3, decoder="ctc")}, "other settings"),
    ],
)
def test_what_cannot_go_on(tiny_folder, corpora, tmp_path, change, says):
    add_language(options(tiny_folder, corpora, tmp_path / "one", "ky"))
    asked = replace(
        options(tiny_folder, corpora, tmp_path / "two", "ga", "ky", init=tmp_path / "one"), **change
    )
    with pytest.raises(RunError, match=says):
        add_language(asked)
    assert not (tmp_path / "two").exists()
