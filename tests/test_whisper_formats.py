"""A Whisper is one base in transformers' format, CTranslate2's and OpenAI's."""

import base64
import itertools
import json
import pickle
import struct
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from dualasr.errors import BaseModelError
from dualasr.model.whisper import Backbone
from dualasr.model.whisper_formats import ALIGNMENT_HEADS

UNITS, WIDTH, LAYERS, MELS = 51865, 16, (2, 3), 8


@pytest.fixture(scope="module")
def tensors():
    """Random weights under transformers' names, rounded to float16 as OpenAI's are."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=UNITS,
        d_model=WIDTH,
        num_mel_bins=MELS,
        encoder_layers=LAYERS[0],
        decoder_layers=LAYERS[1],
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=40,
    )
    whole = WhisperForConditionalGeneration(config).state_dict()
    del whole["proj_out.weight"]
    return {
        name: (torch.randn_like(tensor) / 4 if "norm" in name or "bias" in name else tensor).half()
        for name, tensor in whole.items()
    }


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A file of tiktoken with as many units as Whisper's: all bytes, and then pairs and triples."""
    singles = [bytes([b]) for b in range(256)]
    pairs = [bytes(pair) for pair in itertools.product(range(97, 123), repeat=2)]
    triples = [bytes(three) for three in itertools.product(range(97, 123), repeat=3)]
    longer = [pair + three for three in triples for pair in (b"ab", b"yz")]
    units = [*singles, *pairs, *triples, *longer][:50257]
    assert len({*units}) == 50257
    path = tmp_path_factory.mktemp("vocabulary") / "multilingual.tiktoken"
    lines = (f"{base64.b64encode(unit).decode()} {i}" for i, unit in enumerate(units))
    path.write_text("\n".join(lines))
    return path


OPENAI = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "encoder_attn": "cross_attn",
    "self_attn": "attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "layers": "blocks",
    "embed_tokens": "token_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "embed_positions.weight": "positional_embedding",
}


def write_openai(path, tensors, vocabulary=None):
    def renamed(name):
        for ours, theirs in OPENAI.items():
            name = name.replace(ours, theirs)
        return name.removeprefix("model.")

    dims = {"n_mels": MELS, "n_audio_head": 2, "n_text_head": 4, "n_vocab": UNITS}
    weights = {renamed(name): tensor for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": dims, "model_state_dict": weights}, path)
    if vocabulary is not None:
        (path.parent / vocabulary.name).write_bytes(vocabulary.read_bytes())
    return path


def ct2_values(tensors):
    """The weights as CTranslate2 names and joins them."""

    def joined(*names):
        return torch.cat([tensors[f"{name}.weight"] for name in names]), torch.cat(
            [
                tensors.get(f"{name}.bias", torch.zeros(len(tensors[f"{name}.weight"]))).half()
                for name in names
            ]
        )

    linear, norm = {}, {}
    for i in (1, 2):
        linear[f"encoder/conv{i}"] = [f"model.encoder.conv{i}"]
    for side, count in zip(("encoder", "decoder"), LAYERS, strict=True):
        norm[f"{side}/layer_norm"] = f"model.{side}.layer_norm"
        for i in range(count):
            new, old = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            norm[f"{new}/self_attention/layer_norm"] = f"{old}.self_attn_layer_norm"
            norm[f"{new}/ffn/layer_norm"] = f"{old}.final_layer_norm"
            linear[f"{new}/self_attention/linear_0"] = [f"{old}.self_attn.{p}_proj" for p in "qkv"]
            linear[f"{new}/self_attention/linear_1"] = [f"{old}.self_attn.out_proj"]
            linear[f"{new}/ffn/linear_0"] = [f"{old}.fc1"]
            linear[f"{new}/ffn/linear_1"] = [f"{old}.fc2"]
            if side == "decoder":
                cross = f"{old}.encoder_attn"
                norm[f"{new}/attention/layer_norm"] = f"{cross}_layer_norm"
                linear[f"{new}/attention/linear_0"] = [f"{cross}.q_proj"]
                linear[f"{new}/attention/linear_1"] = [f"{cross}.k_proj", f"{cross}.v_proj"]
                linear[f"{new}/attention/linear_2"] = [f"{cross}.out_proj"]
    values = {"encoder/num_heads": np.int16(2), "decoder/num_heads": np.int16(4)}
    for side in ("encoder", "decoder"):
        name = f"{side}/position_encodings/encodings"
        values[name] = tensors[f"model.{side}.embed_positions.weight"]
    values["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"]
    for new, names in linear.items():
        values[f"{new}/weight"], values[f"{new}/bias"] = joined(*names)
    for new, old in norm.items():
        values[f"{new}/gamma"], values[f"{new}/beta"] = (
            tensors[f"{old}.{part}"] for part in ("weight", "bias")
        )
    return {name: np.asarray(value) for name, value in values.items()}


def write_ct2(folder, values, tokenizer, kind="WhisperSpec"):
    numbers = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def word(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    content = struct.pack("<I", 6) + word(kind) + struct.pack("<II", 3, len(values))
    for name, value in values.items():
        content += word(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        content += struct.pack("<BI", numbers[value.dtype.name], value.nbytes) + value.tobytes()
    content += struct.pack("<I", 1) + word("decoder/projection/weight")
    content += word("decoder/embeddings/weight")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    config = {"alignment_heads": [[1, 1], [2, 3]], "lang_ids": [50259], "suppress_ids": [5, 6]}
    config["suppress_ids_begin"] = [220, 50257]
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALASR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bases"


@pytest.fixture
def openai(tmp_path, cache, tensors, vocabulary):
    return Backbone.load(write_openai(tmp_path / "pt" / "base.pt", tensors, vocabulary))


def test_three_formats_are_one_base(tmp_path, cache, tensors, openai):
    [folder] = cache.iterdir()
    ct2 = write_ct2(tmp_path / "ct2", ct2_values(tensors), folder / "tokenizer.json")
    loaded = [openai, Backbone.load(ct2), Backbone.load(folder)]
    assert len({backbone.checksum for backbone in loaded}) == 1
    for backbone in loaded:
        found = backbone.model.state_dict()
        assert {*found} - {*tensors} == {"proj_out.weight"}
        assert all(torch.equal(found[name], value.float()) for name, value in tensors.items())
        assert backbone.model.config.encoder_attention_heads == 2
        assert backbone.model.config.decoder_attention_heads == 4
        assert backbone.tells_time and len(backbone.languages) == 99
        assert backbone.languages["en"] == 50259 and backbone.languages["su"] == 50357
        assert backbone.special_ids.prompt == (50359, 50363)
        assert backbone.special_ids.times == range(50364, UNITS)
        assert (backbone.window_s, backbone.frame_s) == (30.0, 0.02)
    assert loaded[1].model.generation_config.alignment_heads == [[1, 1], [2, 3]]
    assert loaded[1].model.generation_config.suppress_tokens == [5, 6]
    assert openai.model.generation_config.alignment_heads[0] == [3, 1]
    suppressed = openai.model.generation_config.suppress_tokens
    assert {1, 2, 50254} <= {*suppressed} and {*suppressed} > {50258, *range(50358, 50363)}
    assert max(suppressed) == 50362


def test_what_the_fingerprint_leaves_out(openai):
    """Each program computes the sinusoids by itself; a value between two of float16 is none."""
    before = openai.checksum, openai.float32_checksum
    other = Backbone(openai.name, openai.model, openai.tokenizer, openai.extractor)
    weights = openai.model.state_dict()
    weights["model.encoder.embed_positions.weight"] += 1e-3
    weights["model.decoder.layers.0.fc1.weight"] *= 1 + 1e-5
    assert other.checksum == before[0] and other.float32_checksum != before[1]
    weights["model.decoder.layers.0.fc1.weight"][3, 1] += 0.01
    other = Backbone(openai.name, openai.model, openai.tokenizer, openai.extractor)
    assert other.checksum != before[0]


def test_a_vocabulary_of_tiktoken_joins_by_rank(openai):
    tokenizer = openai.tokenizer

    def pieces(text):
        return [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False).input_ids]

    # pairs have the lowest ranks; "abaaa" has one of its own, but no two units in it reach it first
    assert pieces("abc") == ["abc"] and pieces("abcd") == ["ab", "cd"]
    assert pieces("ZZ") == ["Z", "Z"]
    prompt = [50258, 50363]
    assert tokenizer("abc").input_ids[:2] == prompt and tokenizer("abc").input_ids[-1] == 50257
    text = "abcde Ñandú Ўзбек 你好"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.convert_tokens_to_ids(["<|0.00|>", "<|30.00|>"]) == [50364, UNITS - 1]


def test_it_is_converted_once_and_again_when_it_changes(tmp_path, cache, tensors, openai):
    [folder] = cache.iterdir()
    about = (folder / "model.safetensors").stat()
    Backbone.load(tmp_path / "pt" / "base.pt")
    after = (folder / "model.safetensors").stat()
    assert (after.st_mtime_ns, after.st_ino) == (about.st_mtime_ns, about.st_ino)
    changed = tensors | {
        "model.decoder.layer_norm.bias": tensors["model.decoder.layer_norm.bias"] + 1
    }
    other = Backbone.load(write_openai(tmp_path / "pt" / "base.pt", changed))
    assert other.checksum != openai.checksum and len([*cache.iterdir()]) == 2


def test_a_quantised_model_is_refused(tmp_path, cache, tensors):
    values = ct2_values(tensors)
    name = "encoder/layer_0/ffn/linear_0/weight"
    values[name] = values[name].astype(np.int8)
    with pytest.raises(BaseModelError, match=r"is quantised: .*--quantization float16"):
        Backbone.load(write_ct2(tmp_path / "int8", values, None))
    assert not cache.exists() or not [*cache.iterdir()]


@pytest.mark.parametrize("left", [0, 3, 40, 5000])
def test_a_damaged_ct2_is_a_sentence(tmp_path, cache, tensors, left):
    folder = write_ct2(tmp_path / "ct2", ct2_values(tensors), None)
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:left])
    with pytest.raises(BaseModelError, match=r"is damaged \("):
        Backbone.load(folder)


def test_another_model_of_ct2_is_a_sentence(tmp_path, cache):
    with pytest.raises(BaseModelError, match="a 'TransformerSpec' of CTranslate2, not a Whisper"):
        Backbone.load(write_ct2(tmp_path / "ct2", {}, None, kind="TransformerSpec"))


class Evil:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "other weights"])
def test_a_file_that_is_no_whisper_runs_nothing(tmp_path, cache, kind):
    path, trap = tmp_path / "base.pt", tmp_path / "trap"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"dims": Evil(trap)}))
    elif kind == "torch":
        torch.save({"dims": Evil(trap), "model_state_dict": {}}, path)
    elif kind == "other weights":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_text("not a model" if kind == "text" else "")
    with pytest.raises(BaseModelError, match="it does not hold dims and model_state_dict"):
        Backbone.load(path)
    assert not trap.exists()


def test_a_missing_vocabulary_is_named(tmp_path, cache, tensors, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = write_openai(tmp_path / "elsewhere" / "base.pt", tensors)
    with pytest.raises(BaseModelError, match=r"Put openai-whisper's multilingual\.tiktoken or"):
        Backbone.load(path)


def test_a_hub_id_may_be_of_ct2(tmp_path, cache, tensors, openai, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    [folder] = cache.iterdir()
    repository = tmp_path / "hub" / "models--me--faster-whisper-toy"
    write_ct2(repository / "snapshots" / "abc", ct2_values(tensors), folder / "tokenizer.json")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert Backbone.load("me/faster-whisper-toy").checksum == openai.checksum


def test_the_heads_that_follow_the_sound_exist():
    layers = {"tiny": 4, "base": 6, "small": 12, "medium": 24, "large-v3-turbo": 4, "large": 32}
    for name, heads in ALIGNMENT_HEADS.items():
        most = next(count for size, count in layers.items() if name.startswith(size))
        assert all(0 < int(pair.split(".")[0]) < most for pair in heads.split()), name
