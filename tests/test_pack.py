"""A pack is data: what is saved is what loads, and what is damaged, foreign or unsafe does not."""

import hashlib
import json
import locale
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dualasr.audio.load import Sound
from dualasr.data.fingerprints import fingerprint
from dualasr.errors import PackError, RunError
from dualasr.model.language_statistics import fit_statistics
from dualasr.model.ngrams import CharacterModel
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.selector import Calibration, Logistic
from dualasr.model.whisper import Backbone
from dualasr.packs.folder import add_pack
from dualasr.packs.format import (
    FORMAT_VERSION,
    REGRESSION,
    attach_regression,
    load_pack,
    model_card,
    read_fingerprints,
    read_pack,
    save_pack,
)
from dualasr.packs.load import load_model

CALIBRATION = Calibration(
    Logistic((2.0,), -1.0),
    Logistic((0.5, 1.5, 0.25), 3.0),
    Logistic((0.75, 0.5, 6.0), -2.0),
    Logistic((6.5, 0.5)),
    -1.5,
    negatives=True,
)
INFO = PackInfo(
    "north",
    {"ky": "Kyrgyz"},
    target="normalised",
    ctc_weight=0.25,
    calibration=CALIBRATION,
    training={"corpus": "tales", "data": {"hours": 2}, "steps": 30},
    scores={"dev CER": 0.2, "dev WER": 0.5},
)


@pytest.fixture
def pack(backbone, make_secondary, tmp_path):
    folder = tmp_path / "north"
    save_pack(folder, Pack(INFO, make_secondary(backbone)), backbone)
    return folder


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def reseal(folder, change=lambda record: None):
    """Edit pack.json as an attacker who knows the format would, the files' hashes too."""
    record = json.loads((folder / "pack.json").read_text())
    for name in record["files"]:
        record["files"][name] = sha256((folder / name).read_bytes())
    change(record)
    del record["seal"]
    sealed = json.dumps(record, sort_keys=True, ensure_ascii=False)
    record["seal"] = sha256(sealed.encode())
    (folder / "pack.json").write_text(json.dumps(record))


def test_what_is_saved_is_what_loads(backbone, make_secondary, pack, clips):
    loaded = load_pack(pack, backbone)
    assert loaded.info == INFO
    original = make_secondary(backbone)
    own = dict(loaded.secondary.own_tensors())
    assert not any(module.training for module in loaded.secondary.modules())
    assert not any(tensor.requires_grad for tensor in own.values())
    assert loaded.folder == pack and loaded.statistics is None
    assert own and all(torch.equal(tensor, own[name]) for name, tensor in original.own_tensors())
    trunk = backbone.trunk(backbone.features(clips), original.options.fork)
    assert torch.equal(original.encode(trunk), loaded.secondary.encode(trunk))
    assert original.tokenizer.encode("Тоодо кар.") == loaded.secondary.tokenizer.encode(
        "Тоодо кар."
    )
    assert not [path for path in pack.parent.iterdir() if path.name.startswith(".")]


def test_the_files_of_a_pack_are_those_that_later_versions_read(backbone, pack):
    record = json.loads((pack / "pack.json").read_text())
    hashes = {path.name: sha256(path.read_bytes()) for path in pack.iterdir()}
    del hashes["pack.json"]
    assert record.pop("files") == hashes and len(record.pop("seal")) == 64
    assert record == {
        "format_version": 4,
        "base": {"name": backbone.name, "checksum": backbone.checksum},
        "secondary": {
            "rank": 4,
            "alpha": 4.0,
            "fork": 1,
            "decoder": "las",
            "las": {"units": 0, "heads": 2, "stride": 4, "dropout": 0.2},
        },
        "name": "north",
        "languages": {"ky": "Kyrgyz"},
        "target": "normalised",
        "ctc_weight": 0.25,
        "calibration": {
            "head": {"weights": [2.0], "offset": -1.0},
            "tag": {"weights": [0.5, 1.5, 0.25], "offset": 3.0},
            "text": {"weights": [6.5, 0.5], "offset": 0.0},
            "duel": {"weights": [0.75, 0.5, 6.0], "offset": -2.0},
            "floor": -1.5,
            "negatives": True,
        },
        "training": {"corpus": "tales", "data": {"hours": 2}, "steps": 30},
        "scores": {"dev CER": 0.2, "dev WER": 0.5},
    }
    reseal(pack)
    assert load_pack(pack, backbone).info == INFO, "the seal is that of the sorted record"
    parameters = 0
    for name in ("decoder.safetensors", "adapter_model.safetensors"):
        with safe_open(pack / name, "numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}
        assert all(tensor.dtype == np.float32 for tensor in tensors.values())
        parameters += sum(tensor.size for tensor in tensors.values())
    before = "base_model.model.model.encoder.layers.1."  # peft's name of a layer in a Whisper
    places = [f"self_attn.{name}_proj" for name in "qkv"] + ["self_attn.out_proj", "fc1", "fc2"]
    assert set(tensors) == {
        f"{before}{place}.lora_{side}.weight" for place in places for side in "AB"
    }
    config = json.loads((pack / "adapter_config.json").read_text())
    del config["target_modules"]  # peft reads it in the test below
    assert config == {
        "peft_type": "LORA",
        "base_model_name_or_path": backbone.name,
        "task_type": None,
        "inference_mode": True,
        "r": 4,
        "lora_alpha": 4.0,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    assert (pack / "README.md").read_text() == (
        f"# north: a dualasr language pack\n\nKyrgyz (`ky`) for the base `{backbone.name}`"
        f" (checksum `{backbone.checksum[:12]}`), {parameters // 1000},{parameters % 1000:03}"
        " parameters, LoRA rank 4 from encoder layer 1.\n\n"
        f"    dualasr transcribe FILE --base {backbone.name} --pack THIS_FOLDER\n\n"
        "## Training\n\n| | |\n|---|---|\n| corpus | tales |\n| steps | 30 |\n\n"
        "## Scores\n\n| | |\n|---|---|\n| dev CER | 0.2 |\n| dev WER | 0.5 |\n"
    )
    two = replace(INFO, languages={"ky": "Kyrgyz", "ga": "Irish"})
    card = model_card(two, backbone, load_pack(pack, backbone).secondary)
    assert "\n\nKyrgyz (`ky`), Irish (`ga`) for the base `" in card


def test_a_pack_can_be_written_and_read_where_text_is_not_utf8(backbone, make_secondary, tmp_path):
    info = PackInfo("north", {"ky": "Кыргызча"})
    kept = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        save_pack(tmp_path / "north", Pack(info, make_secondary(backbone)), backbone)
        loaded = load_pack(tmp_path / "north", backbone)
    finally:
        locale.setlocale(locale.LC_CTYPE, kept)
    assert loaded.info == info
    text = loaded.secondary.tokenizer.encode_characters("кар")
    assert text == make_secondary(backbone).tokenizer.encode_characters("кар")
    assert "Кыргызча" in (tmp_path / "north" / "README.md").read_text("utf-8")


def test_fingerprints_go_with_a_pack(backbone, make_secondary, pack, clips, tmp_path):
    assert read_fingerprints(pack) is None and read_fingerprints(None) is None
    soundfile.write(tmp_path / "clip.wav", clips[0], 16_000)
    sound = Sound(tmp_path / "clip.wav")
    found = fingerprint([(sound, "Тоодо кар жаады.", "ky")], progress=False)
    save_pack(tmp_path / "west", Pack(INFO, make_secondary(backbone)), backbone, found)
    again = read_fingerprints(load_pack(tmp_path / "west", backbone).folder)
    assert all(np.array_equal(tensor, vars(again)[key]) for key, tensor in vars(found).items())
    assert len(again) == 1 and "fingerprints.safetensors" in read_pack(tmp_path / "west")["files"]


def test_a_pack_loads_in_the_number_format_of_its_base(tiny_folder, pack):
    half = load_pack(pack, Backbone.load(tiny_folder, dtype=torch.bfloat16)).secondary
    assert {tensor.dtype for _, tensor in half.own_tensors()} == {torch.bfloat16}


def test_statistics_come_back_and_must_fit_the_base(backbone, make_secondary, tmp_path):
    rng = np.random.default_rng(0)
    statistics = fit_statistics(rng.standard_normal((30, 3 * backbone.width)), np.zeros(30, int), 1)
    save_pack(
        tmp_path / "north", Pack(INFO, make_secondary(backbone), statistics=statistics), backbone
    )
    loaded = load_pack(tmp_path / "north", backbone).statistics
    assert all(
        np.array_equal(getattr(loaded, key), getattr(statistics, key))
        for key in ("means", "diagonal", "factors")
    )
    narrow = fit_statistics(rng.standard_normal((30, backbone.width)), np.zeros(30, int), 1)
    save_pack(tmp_path / "south", Pack(INFO, make_secondary(backbone), statistics=narrow), backbone)
    with pytest.raises(PackError, match="statistics of shape"):
        load_pack(tmp_path / "south", backbone)


def test_ngrams_come_back_and_must_fit_the_head(backbone, make_secondary, tmp_path):
    secondary = make_secondary(backbone)
    units = 1 + len(secondary.tokenizer.characters)
    texts = [secondary.tokenizer.encode_characters(text) for text in ("тоо суу", "нан кар тоо")]
    ngrams = CharacterModel.fit(texts, units)
    save_pack(tmp_path / "north", Pack(INFO, secondary, ngrams=ngrams), backbone)
    loaded = load_pack(tmp_path / "north", backbone).ngrams
    assert loaded.order == ngrams.order == 4
    for text in (*texts, [1], [], texts[0][::-1]):
        assert np.array_equal(loaded.score(text), ngrams.score(text))
    other = CharacterModel.fit([[1, 2]], units + 1)
    save_pack(tmp_path / "south", Pack(INFO, secondary, ngrams=other), backbone)
    with pytest.raises(PackError, match="n-grams of"):
        load_pack(tmp_path / "south", backbone)


def test_adapter_is_in_pefts_own_format(tiny_folder, backbone, pack, clips):
    """Plain peft reads the folder and computes the same encoder output, up to our own LayerNorm."""
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    plain = PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(tiny_folder), pack
    ).eval()
    mel = backbone.features(clips)
    secondary = load_pack(pack, backbone).secondary
    theirs = {name.replace(".default", "") for name in plain.state_dict() if ".lora_" in name}
    with safe_open(pack / "adapter_model.safetensors", "numpy") as file:
        assert theirs == set(file.keys()), "it adapts these layers and no others"
    # its LayerNorm still equals the base's
    ours = secondary.encode(backbone.trunk(mel, secondary.options.fork))
    assert torch.allclose(plain.get_encoder()(mel).last_hidden_state, ours, atol=1e-5)


def test_another_base_is_refused(tiny_folder, pack, tmp_path):
    other = Backbone.load(tiny_folder)
    with torch.no_grad():
        other.model.model.encoder.conv1.bias[0] += 1e-3
    with pytest.raises(PackError, match="was trained on") as refused:
        load_pack(pack, other)
    assert Backbone.load(tiny_folder).checksum[:12] in str(refused.value)
    assert other.checksum[:12] in str(refused.value)


def test_a_pack_that_knows_its_base_by_float32_values_is_loaded(backbone, pack):
    """Packs were written so before the checksum was of values rounded to float16."""
    now = load_pack(pack, backbone)
    reseal(pack, lambda record: record["base"].update(checksum=backbone.float32_checksum))
    assert load_pack(pack, backbone).info == now.info


@pytest.mark.parametrize(
    "name",
    [
        "pack.json",
        "decoder.safetensors",
        "adapter_model.safetensors",
        "tokenizer.json",
        "characters.json",
        "adapter_config.json",
        "README.md",
    ],
)
def test_a_changed_byte_is_refused(backbone, pack, name):
    path = pack / name
    data = bytearray(path.read_bytes())
    at = data.index(b"north") + 1 if name == "pack.json" else len(data) // 2
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(PackError, match=f"{name} was changed after"):
        load_pack(pack, backbone)


def test_a_missing_file_is_refused(backbone, pack):
    (pack / "decoder.safetensors").unlink()
    with pytest.raises(PackError, match="lacks decoder.safetensors"):
        load_pack(pack, backbone)


def test_a_pack_whose_record_is_not_one_is_refused(pack):
    for content in ("[]", "3", "{}", "{", b"\xff"):
        (pack / "pack.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        with pytest.raises(PackError, match=r"pack.json cannot be read|has pack format None"):
            read_pack(pack)


@pytest.mark.parametrize("name", ["decoder.safetensors", "tokenizer.json", None])
def test_a_record_without_the_files_is_refused(pack, name):
    def change(record):
        if name is None:
            record["files"] = list(record["files"])
        else:
            del record["files"][name]

    reseal(pack, change)
    with pytest.raises(PackError, match="lists no files"):
        read_pack(pack)


def test_files_that_are_whole_but_of_another_shape_are_refused(backbone, pack):
    """Their hashes are right: someone sealed what does not fit together."""
    kept = {path: path.read_bytes() for path in pack.iterdir()}

    def refused(name, content, why):
        for path, old in kept.items():
            path.write_bytes(old)
        if isinstance(content, dict):
            save_file(content, pack / name)
        else:
            (pack / name).write_bytes(content)
        reseal(pack)
        with pytest.raises(PackError, match=why):
            load_pack(pack, backbone)

    with safe_open(pack / "decoder.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    bias = tensors["layer_norm.bias"]
    damaged = "has no fitting tensor for layer_norm.bias"
    refused("decoder.safetensors", tensors | {"layer_norm.bias": bias[:-1]}, damaged)
    del tensors["layer_norm.bias"]
    refused("decoder.safetensors", tensors, damaged)
    refused("decoder.safetensors", b"", "cannot be loaded")
    refused("characters.json", b"{", "cannot be loaded")
    refused("tokenizer.json", b"{", "cannot be loaded .*; the pack is damaged, fetch it again")
    refused("adapter_model.safetensors", {"other": bias}, "has no fitting tensor for .*lora_")
    for key in ("base", "secondary", "calibration", "languages"):
        for path, old in kept.items():
            path.write_bytes(old)
        reseal(pack, lambda record, key=key: record.pop(key))
        with pytest.raises(PackError, match=f"cannot be loaded .KeyError: '{key}'"):
            load_pack(pack, backbone)


@pytest.mark.parametrize(
    "path", ["../outside.json", "/etc/passwd", "sub/file.json", "./decoder.safetensors"]
)
def test_paths_outside_the_folder_are_refused(backbone, pack, path):
    (pack.parent / "outside.json").write_text("{}")
    reseal(pack, lambda record: record["files"].update({path: "0" * 64}))
    with pytest.raises(PackError, match="outside its folder"):
        load_pack(pack, backbone)


def test_a_link_out_of_the_folder_is_refused(backbone, pack):
    target = pack.parent / "tokenizer.json"
    os.replace(pack / "tokenizer.json", target)
    (pack / "tokenizer.json").symlink_to(target)
    with pytest.raises(PackError, match="outside its folder"):
        load_pack(pack, backbone)


def test_a_pickle_is_refused_and_never_read(backbone, pack):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(pack.parent / "boom"),))

    (pack / "extra.pkl").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(PackError, match="neither safetensors"):
        load_pack(pack, backbone)
    (pack / "extra.pkl").unlink()
    (pack / "sub").mkdir()
    (pack / "sub" / "extra.py").write_text("raise SystemExit")
    with pytest.raises(PackError, match="holds extra.py, which is neither safetensors"):
        load_pack(pack, backbone)
    (pack / "sub" / "extra.py").unlink()
    (pack / "decoder.safetensors").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(PackError):
        load_pack(pack, backbone)
    assert not (pack.parent / "boom").exists()


def test_another_format_version_is_refused(backbone, pack):
    reseal(pack, lambda record: record.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(PackError, match=f"format {FORMAT_VERSION + 1}"):
        load_pack(pack, backbone)


def test_no_pack_there(backbone, tmp_path):
    with pytest.raises(PackError, match="no pack at"):
        read_pack(tmp_path / "nowhere")
    with pytest.raises(PackError, match="no pack.json"):
        read_pack(tmp_path)


def test_two_packs_of_one_language_are_refused(
    tiny_folder, backbone, make_secondary, pack, tmp_path
):
    save_pack(
        tmp_path / "twin",
        Pack(PackInfo("twin", {"ky": "Kyrgyz"}), make_secondary(backbone, seed=5)),
        backbone,
    )
    with pytest.raises(PackError, match="both hold ky") as refused:
        load_model(tiny_folder, [pack, tmp_path / "twin"])
    assert str(pack) in str(refused.value) and str(tmp_path / "twin") in str(refused.value)


def test_what_adding_it_cost_goes_with_a_pack(backbone, pack, tmp_path, monkeypatch):
    (tmp_path / "t.md").write_text("| after | en |\n")
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    before = load_pack(pack, backbone)
    attach_regression(pack, tmp_path / "t.md", tmp_path / "p.png")
    after = load_pack(pack, backbone)
    assert after.info == before.info and after.secondary.checksum == before.secondary.checksum
    assert (add_pack(pack, tmp_path / "packs") / REGRESSION).read_text() == "| after | en |\n"
    stands = (pack / "pack.json").stat().st_ino
    attach_regression(pack, tmp_path / "t.md", tmp_path / "p.png")
    assert (pack / "pack.json").stat().st_ino == stands, "the same again changes nothing"
    (tmp_path / "t.md").write_text("| after | en | ky |\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(RunError, match="No space left"):
        patched.setattr("shutil.copyfile", full)
        attach_regression(pack, tmp_path / "t.md", tmp_path / "p.png")
    assert (
        load_pack(pack, backbone).info == before.info
        and (pack / REGRESSION).read_text() == "| after | en |\n"
    )
    attach_regression(pack, tmp_path / "t.md", tmp_path / "p.png")
    assert (pack / REGRESSION).read_text() == "| after | en | ky |\n"
    (pack / REGRESSION).write_text("| after |\n")
    with pytest.raises(PackError, match=REGRESSION):
        read_pack(pack)


@pytest.mark.parametrize("place", ["closed", "a file", "/proc"])
def test_unwritable_place(backbone, make_secondary, tmp_path, place):
    """A folder without the right to write, which root has everywhere; and two where nobody may."""
    folder = tmp_path / place
    if place == "closed" and os.geteuid():
        folder.mkdir(mode=0o500)
    elif place != "/proc":
        folder.write_text("")
    with pytest.raises(RunError, match="Cannot write the pack .* or choose another --out; what"):
        save_pack(folder / "north", Pack(INFO, make_secondary(backbone)), backbone)
    assert not (folder / "north").exists()


def test_a_full_disk_leaves_the_last_good_pack(backbone, make_secondary, pack):
    """/dev/full stands in for the disk: writing the new decoder fails, the pack that stood there
    still loads.
    """
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    import resource
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        with pytest.raises(Exception) as caught:
            save_pack(pack, Pack(INFO, make_secondary(backbone, seed=9)), backbone)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert isinstance(caught.value, RunError), repr(caught.value)
    assert load_pack(pack, backbone).info == INFO
    assert sorted(path.name for path in pack.parent.iterdir()) == ["north"]
