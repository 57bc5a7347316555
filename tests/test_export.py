"""Export: the secondary alone says what the pack says, the primary is the base, and a folder
appears whole or not at all.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from dualasr.cli.main import QUIET, main
from dualasr.errors import PackError, RunError
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import DECODERS, slice_trunk
from dualasr.model.tokenizer import byte_of_character
from dualasr.model.whisper import Backbone, base_path
from dualasr.packs.export import export, save_base
from dualasr.packs.format import save_pack
from dualasr.packs.load import load_model

ALONE = """
import json, sys
import numpy as np
sys.modules["peft"] = None  # `import peft` raises
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.packs.load import load_model
clips, found = list(np.load(sys.argv[1]).values()), {}
for folder in sys.argv[2:]:
    model = load_model(folder + "/base", [folder])
    for beam in (1, 5):
        results = model.transcribe_windows(clips, options=DecodeOptions(beam=beam))
        found[f"{folder} {beam}"] = [(r.route, r.language, r.text, r.avg_logprob) for r in results]
print(json.dumps(found))
"""


@pytest.fixture
def make_pack(backbone, make_secondary, tmp_path):
    def make(name="north", language="ky", **options):
        pack = Pack(
            PackInfo(name, {language: language}), make_secondary(backbone, (language,), **options)
        )
        save_pack(tmp_path / name, pack, backbone)
        return tmp_path / name

    return make


def test_the_secondary_alone_says_what_the_pack_says(tiny_folder, make_pack, clips, tmp_path):
    """Without peft, the pack or the base; in a language that the base has, too, for nothing is
    routed to it.
    """
    np.savez(tmp_path / "clips.npz", *clips)
    base, expected, folders = shutil.copytree(tiny_folder, tmp_path / "base"), {}, []
    for kind in DECODERS:
        pack, to = make_pack(kind, "tr", decoder=kind), tmp_path / f"out-{kind}"
        model = load_model(base, [pack])
        export(pack, to, base)
        folders.append(str(to / "secondary"))
        for beam in (1, 5):
            results = model.transcribe_windows(
                clips, route=kind, language="tr", options=DecodeOptions(beam=beam)
            )
            expected[f"{folders[-1]} {beam}"] = [
                (kind, "tr", r.text, r.avg_logprob) for r in results
            ]
        shutil.rmtree(pack)
    shutil.rmtree(base)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "clips.npz"), *folders]
    run = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | QUIET | {"OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        assert any(row[2] for row in rows), key
        assert [tuple(row[:3]) for row in found[key]] == [row[:3] for row in rows]
        assert [row[3] for row in found[key]] == pytest.approx([row[3] for row in rows], abs=1e-3)


def test_merged_layers_hear_what_lora_heard(tiny_folder, backbone, make_pack, clips, tmp_path):
    pack = make_pack(decoder="whisper")
    export(pack, tmp_path / "out", tiny_folder)
    before = load_model(tiny_folder, [pack])
    after = load_model(tmp_path / "out" / "secondary" / "base", [tmp_path / "out" / "secondary"])
    assert not any(
        ".lora_" in name for name, _ in after.packs["north"].secondary.named_parameters()
    )
    heard = []
    for model in (before, after):
        secondary = model.packs["north"].secondary
        trunk = model.backbone.trunk(model.backbone.features(clips), secondary.options.fork)
        heard.append(
            secondary.encode(
                *slice_trunk(trunk, [model.backbone.frames(len(clip)) for clip in clips])
            )
        )
    bare = backbone.upper(backbone.trunk(backbone.features(clips), 1), 1)[:, : heard[0].shape[1]]
    assert torch.allclose(*heard, atol=1e-4) and not torch.allclose(heard[0], bare, atol=1e-1)
    assert load_model(tiny_folder).backbone.checksum == before.backbone.checksum, (
        "the base is as it was"
    )


def test_a_pack_without_lora_stands_on_the_base_itself(tiny_folder, backbone, make_pack, tmp_path):
    export(make_pack(decoder="whisper", rank=0), tmp_path / "out", tiny_folder)
    assert Backbone.load(tmp_path / "out" / "secondary" / "base").checksum == backbone.checksum


def test_the_primary_is_the_base_bit_for_bit(tmp_path):
    base, out = base_path("micro"), tmp_path / "primary"
    save_base(out, Backbone.load("micro"))
    again, micro = Backbone.load(out), Backbone.load("micro")
    theirs = micro.model.state_dict()
    assert all(
        torch.equal(tensor, theirs[name]) for name, tensor in again.model.state_dict().items()
    )
    assert (out / "model.safetensors").stat().st_size <= (
        base / "model.safetensors"
    ).stat().st_size * 1.01
    generation = json.loads((base / "generation_config.json").read_text())
    assert (
        generation.items()
        <= (
            json.loads((out / "generation_config.json").read_text())
            | {"transformers_version": generation["transformers_version"]}
        ).items()
    )
    assert again.extractor.to_dict() == micro.extractor.to_dict()
    text = "Die Kälte, el niño, снегът."
    ids = micro.tokenizer(text).input_ids
    assert again.tokenizer(text).input_ids == ids
    assert again.tokenizer.decode(ids, skip_special_tokens=True) == micro.tokenizer.decode(
        ids, skip_special_tokens=True
    )


def test_the_primary_has_what_older_converters_open(tmp_path):
    """whisper.cpp's script reads vocab.json, byte by byte, added_tokens.json and these keys; slow
    tokenizers the other two.
    """
    save_base(tmp_path, Backbone.load("micro"))
    files = {
        path.name: path.read_text(encoding="utf-8")
        for path in tmp_path.iterdir()
        if path.suffix != ".safetensors"
    }
    config, vocabulary, added, special = (
        json.loads(files[f"{name}.json"])
        for name in ("config", "vocab", "added_tokens", "special_tokens_map")
    )
    keys = (
        "vocab_size",
        "max_source_positions",
        "d_model",
        "encoder_attention_heads",
        "encoder_layers",
        "max_length",
        "decoder_attention_heads",
        "decoder_layers",
        "num_mel_bins",
    )
    assert all(isinstance(config[key], int) for key in keys)
    assert sorted([*vocabulary.values(), *added.values()]) == list(range(config["vocab_size"]))
    assert all(set(token) <= byte_of_character().keys() for token in vocabulary)
    assert {"<|endoftext|>", "<|startoftranscript|>", "<|tr|>"} <= set(
        special["additional_special_tokens"]
    )
    assert "<|0.00|>" in added and "<|0.00|>" not in special["additional_special_tokens"]
    assert (
        files["merges.txt"].startswith("#version") and len(files["merges.txt"].splitlines()) > 500
    )
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "generation_config.json",
    } <= files.keys()


def test_the_readme_says_what_is_what(tiny_folder, make_pack, tmp_path):
    export(make_pack(), tmp_path / "out", tiny_folder)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "primary",
        "secondary",
        "README.md",
    }
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("`primary/`", "`secondary/`", "ky", "The selector is not exported", "15 s"):
        assert part in text


def test_what_is_there_is_not_overwritten(tiny_folder, make_pack, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match="out exists; choose another --to"):
        export(make_pack(), tmp_path / "out", tiny_folder)


def test_a_missing_pack_and_one_of_another_base(tiny_folder, make_pack, tmp_path):
    with pytest.raises(PackError, match="no pack at"):
        export(tmp_path / "nowhere", tmp_path / "out", tiny_folder)
    with pytest.raises(PackError, match="was trained on"):
        export(make_pack(), tmp_path / "out", "micro")
    assert not (tmp_path / "out").exists()


def test_a_pack_is_named_as_elsewhere(tiny_folder, make_pack, tmp_path, capsys):
    make_pack(), make_pack("west", "ga")
    asked = ["--base", str(tiny_folder), "--packs_dir", str(tmp_path)]
    assert (
        main(["export", "north", "--to", str(tmp_path / "out"), *asked]) == 0
        and (tmp_path / "out" / "README.md").exists()
    )
    assert (
        main(["export", "nort", "--to", str(tmp_path / "two"), *asked]) == 1
        and "nearest: north" in capsys.readouterr().err
    )
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "two"), *asked]) == 1
    assert "name one of them" in capsys.readouterr().err and not (tmp_path / "two").exists()


def test_a_place_that_cannot_be_written(tiny_folder, make_pack, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot write the export .*: Not a directory"):
        export(make_pack(), tmp_path / "file" / "out", tiny_folder)


# not even the weights; the primary's weights, not its tokenizer
@pytest.mark.parametrize("limit", [4096, 100_000])
def test_a_full_disk_leaves_nothing(tiny_folder, make_pack, tmp_path, limit):
    import resource
    import signal

    pack, old = make_pack(), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(Exception) as caught:
            export(pack, tmp_path / "out", tiny_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert isinstance(caught.value, RunError) and "Cannot write the export" in str(caught.value), (
        repr(caught.value)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["north"]
