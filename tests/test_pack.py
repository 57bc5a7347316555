"""A pack is data: what is saved is what loads, and what is damaged, foreign or unsafe does not."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from dualasr.errors import PackError, RunError
from dualasr.model.language_statistics import fit_statistics
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.selector import Calibration, Logistic
from dualasr.model.whisper import Backbone
from dualasr.packs.folder import add_pack
from dualasr.packs.format import (
    FORMAT_VERSION,
    REGRESSION,
    attach_regression,
    load_pack,
    read_pack,
    save_pack,
)
from dualasr.packs.load import load_model

CALIBRATION = Calibration(Logistic((2.0,), -1.0), negatives=True)
INFO = PackInfo("north", {"ky": "Kyrgyz"}, calibration=CALIBRATION, scores={"dev CER": 0.2})


@pytest.fixture
def pack(backbone, make_secondary, tmp_path):
    folder = tmp_path / "north"
    save_pack(folder, Pack(INFO, make_secondary(backbone)), backbone)
    return folder


def reseal(folder, change):
    """Edit pack.json as an attacker who knows the format would."""
    from dualasr.packs.format import _seal

    record = json.loads((folder / "pack.json").read_text())
    change(record)
    record["seal"] = _seal(record)
    (folder / "pack.json").write_text(json.dumps(record))


def test_what_is_saved_is_what_loads(backbone, make_secondary, pack, clips):
    loaded = load_pack(pack, backbone)
    assert loaded.info == INFO
    original = make_secondary(backbone)
    own = dict(loaded.secondary.own_tensors())
    assert own and all(torch.equal(tensor, own[name]) for name, tensor in original.own_tensors())
    trunk = backbone.trunk(backbone.features(clips), original.options.fork)
    assert torch.equal(original.encode(trunk), loaded.secondary.encode(trunk))
    assert original.tokenizer.encode("Тоодо кар.") == loaded.secondary.tokenizer.encode(
        "Тоодо кар."
    )
    assert not [path for path in pack.parent.iterdir() if path.name.startswith(".")]


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


def test_adapter_is_in_pefts_own_format(tiny_folder, backbone, pack, clips):
    """Plain peft reads the folder and computes the same encoder output, up to our own LayerNorm."""
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    plain = PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(tiny_folder), pack
    ).eval()
    mel = backbone.features(clips)
    secondary = load_pack(pack, backbone).secondary
    # its LayerNorm still equals the base's
    ours = secondary.encode(backbone.trunk(mel, secondary.options.fork))
    assert torch.allclose(plain.get_encoder()(mel).last_hidden_state, ours, atol=1e-5)


def test_another_base_is_refused(tiny_folder, pack, tmp_path):
    other = Backbone.load(tiny_folder)
    with torch.no_grad():
        other.model.model.encoder.conv1.bias[0] += 1e-3
    with pytest.raises(PackError, match="was trained on"):
        load_pack(pack, other)


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
    with pytest.raises(PackError):
        load_pack(pack, backbone)


def test_a_missing_file_is_refused(backbone, pack):
    (pack / "decoder.safetensors").unlink()
    with pytest.raises(PackError, match="lacks decoder.safetensors"):
        load_pack(pack, backbone)


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "sub/file.json"])
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
    with pytest.raises(RunError, match="Cannot write the pack"):
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
