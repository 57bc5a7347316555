"""Whispers of other programs: CTranslate2's folders and OpenAI's .pt files.

Each is written once as a folder in transformers' format, in the user's cache. Nothing is lost: the
weights stay in the number format in which they were stored.

What a file of weights does not hold comes from where its makers keep it: the vocabulary from beside
it, from an installed openai-whisper or from the hub; which tokens are no speech, and which heads of
the decoder follow the sound, from what OpenAI published.
"""

import base64
import hashlib
import importlib.util
import json
import os
import pickle
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.configuration_whisper import (
    NON_SPEECH_TOKENS,
    NON_SPEECH_TOKENS_MULTI,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from dualasr.atomic import cache_folder
from dualasr.errors import BaseModelError, RunError
from dualasr.model.tokenizer import byte_of_character

VERSION = 1  # of what is written; another one converts again
END = "<|endoftext|>"
START = "<|startoftranscript|>"
TIMES = 1501  # timestamps from 0 to 30 s
MULTILINGUAL = 51865  # units of the smallest vocabulary that has languages

# CTranslate2's numbers of number formats, and those that a weight can have without a loss. 5 is
# bfloat16, which numpy does not have.
_CT2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16, 5: np.uint16}
_WHOLE = (np.float32, np.float16)
_CT2_MADE_BY = "ct2-transformers-converter --quantization float16"

# (layer, head) of the decoder's heads that follow the sound, by the name under which OpenAI
# publishes a model (openai/whisper, `_ALIGNMENT_HEADS`)
ALIGNMENT_HEADS = {
    "tiny.en": "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    "tiny": "2.2 3.0 3.2 3.3 3.4 3.5",
    "base.en": "3.3 4.7 5.1 5.5 5.7",
    "base": "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    "small.en": "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2"
    " 11.4",
    "small": "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    "medium.en": "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3"
    " 20.9 20.14 21.12",
    "medium": "13.15 15.4 15.15 16.1 20.0 23.4",
    "large-v1": "9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15",
    "large-v2": "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3"
    " 22.9 22.12 23.5 23.7 23.13 25.5 26.1 26.12 27.15",
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    "large-v3-turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
}

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Facts:
    """What is known of a Whisper besides its weights and its vocabulary.

    Attributes:
        heads: Attention heads of the encoder, and of the decoder.
        suppressed: Tokens that are never written; None for those that are no speech.
        suppressed_first: Tokens that do not begin a text; None for a space and the end.
        alignment_heads: (layer, head) of the heads that follow the sound; None if not known.
    """

    heads: tuple[int, int]
    suppressed: Sequence[int] | None = None
    suppressed_first: Sequence[int] | None = None
    alignment_heads: Sequence[Sequence[int]] | None = None


def is_ct2(folder: Path) -> bool:
    """Whether a folder holds a model of CTranslate2."""
    if not (folder / "model.bin").is_file():
        return False
    return "model_type" not in (read_object(folder / "config.json") or {})


def read_object(path: Path) -> dict | None:
    """Return the JSON object in a file, None for no file; raise BaseModelError for another."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} is damaged, fetch it again ({error}).") from error
    if not isinstance(record, dict):
        raise BaseModelError(f"{path} is damaged, fetch it again (it holds no JSON object).")
    return record


def as_transformers(source: Path) -> Path:
    """Return a folder in transformers' format, converted once into the user's cache.

    Args:
        source: A folder of CTranslate2, or a .pt file of OpenAI's.

    Raises:
        BaseModelError: It is damaged, quantised or no Whisper, or its vocabulary is not found.
        RunError: The cache cannot be written.
    """
    file = source / "model.bin" if source.is_dir() else source
    about = file.stat()
    key = f"{VERSION}|{file.resolve()}|{about.st_size}|{about.st_mtime_ns}"
    name = source.name if source.is_dir() else source.stem
    cache = cache_folder() / "bases"
    target = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    try:
        weights, facts = _read_ct2(source) if source.is_dir() else _read_openai(source)
        tokenizer = _vocabulary_of(source, len(weights["model.decoder.embed_tokens.weight"]))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as part:
            made = Path(part, target.name)
            _write(made, weights, facts, tokenizer)
            _move(made, target)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise BaseModelError(
            f"{source} is no Whisper that can be read, or is damaged ({error}). Give OpenAI's .pt"
            " file, a folder of CTranslate2 in float16, or a folder in transformers' format."
        ) from error
    except OSError as error:
        raise RunError(
            f"{source} cannot be converted into {cache}: {error.strerror or error}. Free some space"
            " or set DUALASR_CACHE to another folder."
        ) from error
    return target


def _move(made: Path, target: Path) -> None:
    """Move a folder to its place, unless another process was first."""
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise


# ---- CTranslate2


def _read_ct2(folder: Path) -> tuple[Weights, Facts]:
    """Read the weights of a folder of CTranslate2, under transformers' names."""
    values = dict(_ct2_values(folder))
    config = read_object(folder / "config.json") or {}
    weights = {name: torch.from_numpy(np.array(value)) for name, value in _renamed(values)}
    heads = tuple(int(values[f"{side}/num_heads"]) for side in ("encoder", "decoder"))
    return weights, Facts(
        (heads[0], heads[1]),
        config.get("suppress_ids"),
        config.get("suppress_ids_begin"),
        config.get("alignment_heads"),
    )


def _ct2_values(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and values in a model.bin (version 6 and those before that look the same)."""
    content = np.memmap(folder / "model.bin", np.uint8, "r")
    at = 0

    def number(form: str) -> int:
        nonlocal at
        size = struct.calcsize(form)
        (value,) = struct.unpack(f"<{form}", content[at : at + size].tobytes())
        at += size
        return value

    def word() -> str:
        nonlocal at
        size = number("H")
        at += size
        return content[at - size : at].tobytes().rstrip(b"\0").decode()

    try:
        number("I")  # version of the file
        kind = word()
        number("I")  # revision of the specification
        if kind != "WhisperSpec":
            raise BaseModelError(f"{folder} holds a {kind[:80]!r} of CTranslate2, not a Whisper.")
        for _ in range(number("I")):
            name = word()
            shape = [number("I") for _ in range(number("B"))]
            dtype, size = _CT2_TYPES[number("B")], number("I")
            if shape and dtype not in _WHOLE:
                raise BaseModelError(
                    f"{folder} is quantised: {name} has lost what a pack was trained on. Give the"
                    f" model in float16 ({_CT2_MADE_BY}), or another form of it."
                )
            if at + size > len(content):
                raise ValueError("model.bin ends too early")
            yield name, np.frombuffer(content[at : at + size].tobytes(), dtype).reshape(shape)
            at += size
    except struct.error as error:
        raise ValueError("model.bin ends too early") from error


def _renamed(values: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield CTranslate2's weights under transformers' names, with fused matrices taken apart."""

    def norm(old: str, new: str) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{new}.weight", values[f"{old}/gamma"]
        yield f"{new}.bias", values[f"{old}/beta"]

    def linear(old: str, *new: str) -> Iterator[tuple[str, np.ndarray]]:
        parts = (np.split(values[f"{old}/{part}"], len(new)) for part in ("weight", "bias"))
        for name, weight, bias in zip(new, *parts, strict=True):
            yield f"{name}.weight", weight
            if not name.endswith("k_proj"):
                yield f"{name}.bias", bias
            elif bias.any():
                raise ValueError("its keys have a bias")

    for i in (1, 2):
        yield from linear(f"encoder/conv{i}", f"model.encoder.conv{i}")
    yield "model.decoder.embed_tokens.weight", values["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        yield (
            f"model.{side}.embed_positions.weight",
            values[f"{side}/position_encodings/encodings"],
        )
        yield from norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(_count(values, f"{side}/layer_", "/")):
            old, new = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            own = f"{new}.self_attn"
            yield from norm(f"{old}/self_attention/layer_norm", f"{own}_layer_norm")
            yield from linear(
                f"{old}/self_attention/linear_0", *(f"{own}.{part}_proj" for part in "qkv")
            )
            yield from linear(f"{old}/self_attention/linear_1", f"{own}.out_proj")
            if side == "decoder":
                cross = f"{new}.encoder_attn"
                yield from norm(f"{old}/attention/layer_norm", f"{cross}_layer_norm")
                yield from linear(f"{old}/attention/linear_0", f"{cross}.q_proj")
                yield from linear(f"{old}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                yield from linear(f"{old}/attention/linear_2", f"{cross}.out_proj")
            yield from norm(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
            yield from linear(f"{old}/ffn/linear_0", f"{new}.fc1")
            yield from linear(f"{old}/ffn/linear_1", f"{new}.fc2")


# ---- OpenAI


def _read_openai(file: Path) -> tuple[Weights, Facts]:
    """Read the weights of OpenAI's .pt file, under transformers' names."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        dims, weights = content["dims"], content["model_state_dict"]
        heads = int(dims["n_audio_head"]), int(dims["n_text_head"])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError("it does not hold dims and model_state_dict") from error
    known = ALIGNMENT_HEADS.get(file.stem, "").split()
    aligned = [[int(i) for i in pair.split(".")] for pair in known] or None
    return {_openai_name(name): tensor for name, tensor in weights.items()}, Facts(
        heads, alignment_heads=aligned
    )


_OPENAI_NAMES = (
    (".blocks.", ".layers."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".mlp_ln.", ".final_layer_norm."),
    (".attn.", ".self_attn."),
    (".cross_attn.", ".encoder_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    (".ln_post.", ".layer_norm."),
    (".ln.", ".layer_norm."),
    (".token_embedding.", ".embed_tokens."),
    (".positional_embedding", ".embed_positions.weight"),
)


def _openai_name(name: str) -> str:
    """Return transformers' name of one of OpenAI's weights."""
    for old, new in _OPENAI_NAMES:
        name = name.replace(old, new)
    return f"model.{name}"


# ---- transformers


def _write(folder: Path, weights: Weights, facts: Facts, tokenizer: Tokenizer) -> None:
    """Write a Whisper in transformers' format."""
    width, mels, _ = weights["model.encoder.conv1.weight"].shape
    units = len(weights["model.decoder.embed_tokens.weight"])
    positions = {
        side: len(weights[f"model.{side}.embed_positions.weight"])
        for side in ("encoder", "decoder")
    }
    layers = {side: _count(weights, f"model.{side}.layers.", ".") for side in positions}
    wide = {side: len(weights[f"model.{side}.layers.0.fc1.weight"]) for side in positions}
    WhisperConfig(
        architectures=["WhisperForConditionalGeneration"],
        vocab_size=units,
        d_model=width,
        num_mel_bins=mels,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=facts.heads[0],
        decoder_attention_heads=facts.heads[1],
        encoder_ffn_dim=wide["encoder"],
        decoder_ffn_dim=wide["decoder"],
        max_source_positions=positions["encoder"],
        max_target_positions=positions["decoder"],
        **_special_ids(tokenizer),
    ).save_pretrained(folder)
    _generation(facts, tokenizer, units, positions["decoder"]).save_pretrained(folder)
    seconds = positions["encoder"] // 50  # a position is 0.02 s
    WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    settings = {"tokenizer_class": "WhisperTokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def _generation(facts: Facts, tokenizer: Tokenizer, units: int, positions: int) -> GenerationConfig:
    """Return what transformers wants to know when it decodes."""
    ident = tokenizer.token_to_id
    end, start, translate = (_id(tokenizer, token) for token in (END, START, "<|translate|>"))
    multilingual = units >= MULTILINGUAL
    more: dict[str, Any] = {}
    if multilingual:
        tags = {f"<|{code}|>": ident(f"<|{code}|>") for code in LANGUAGES}
        more = {
            "lang_to_id": {tag: i for tag, i in tags.items() if i and start < i < translate},
            "task_to_id": {"translate": translate, "transcribe": ident("<|transcribe|>")},
        }
    if facts.alignment_heads:
        more["alignment_heads"] = facts.alignment_heads
    suppressed, first = facts.suppressed, facts.suppressed_first
    if suppressed is None:
        control = [ident(f"<|{name}|>") for name in _CONTROL if name != "notimestamps"]
        quiet = NON_SPEECH_TOKENS_MULTI if multilingual else NON_SPEECH_TOKENS
        suppressed = [*(i for i in quiet if i < end), start, *filter(None, control)]
    return GenerationConfig(
        is_multilingual=multilingual,
        no_timestamps_token_id=ident("<|notimestamps|>"),
        prev_sot_token_id=ident("<|startofprev|>"),
        suppress_tokens=list(suppressed),
        begin_suppress_tokens=[ident(_SPACE), end] if first is None else list(first),
        max_initial_timestamp_index=50,  # a second: OpenAI's own limit
        max_length=positions,
        return_timestamps=False,
        **_special_ids(tokenizer),
        **more,
    )


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ids that stand both in the config and in that of decoding."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: _id(tokenizer, END) for name in names} | {
        "decoder_start_token_id": _id(tokenizer, START)
    }


def _id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that each Whisper has; raise ValueError if it is not there."""
    if (found := tokenizer.token_to_id(token)) is None:
        raise ValueError(f"its vocabulary has no {token}")
    return found


# ---- vocabulary

_CONTROL = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_SPACE = "\u0120"  # a space in GPT-2's alphabet of bytes


def _vocabulary_of(source: Path, units: int) -> Tokenizer:
    """Return the vocabulary of a Whisper with so many units.

    Raises:
        BaseModelError: It is not found.
    """
    multilingual = units >= MULTILINGUAL
    beside = source if source.is_dir() else source.parent
    if (beside / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(beside / "tokenizer.json"))
        if tokenizer.get_vocab_size() == units:
            return tokenizer
    name = f"{'multilingual' if multilingual else 'gpt2'}.tiktoken"
    installed = importlib.util.find_spec("whisper")
    assets = [
        Path(place, "assets")
        for place in (installed and installed.submodule_search_locations) or ()
    ]
    for folder in (beside, *assets):
        if (folder / name).is_file():
            return _from_tiktoken(folder / name, units)
    hub = "base.en" if not multilingual else "base" if units == MULTILINGUAL else "large-v3"
    try:
        return Tokenizer.from_file(hf_hub_download(f"openai/whisper-{hub}", "tokenizer.json"))
    except (OSError, HfHubHTTPError) as error:
        raise BaseModelError(
            f"{source} comes without its vocabulary. Put openai-whisper's {name} or the model's"
            f" tokenizer.json into {beside}, install openai-whisper, or let the hub be reached."
        ) from error


def _from_tiktoken(file: Path, units: int) -> Tokenizer:
    """Return the vocabulary in a file of tiktoken, with Whisper's special tokens behind it.

    A unit of several bytes may be put together in several ways; tiktoken joins first what gives the
    unit of the lowest rank, and so does a list of merges in the order of what they give.
    """
    alphabet = {byte: character for character, byte in byte_of_character().items()}
    lines = (line.split() for line in file.read_bytes().splitlines())
    pieces = ["".join(alphabet[b] for b in base64.b64decode(line[0])) for line in lines if line]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    merges = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in ranks and piece[i:] in ranks
    ]
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    count = units - len(pieces) - 2 - len(_CONTROL) - TIMES
    if not 0 < count <= len(LANGUAGES):
        raise ValueError(f"{file} does not fit a Whisper of {units} units")
    names = ["endoftext", "startoftranscript", *list(LANGUAGES)[:count], *_CONTROL]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in names])
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False) for i in range(TIMES)])
    prompt = f"{START} <|notimestamps|> $A {END}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=prompt,
        pair=f"{prompt[: -len(END)]}$B {END}",
        special_tokens=[
            (token, tokenizer.token_to_id(token)) for token in (START, "<|notimestamps|>", END)
        ],
    )
    return tokenizer


def _count(names: Iterable[str], before: str, after: str) -> int:
    """Return how many numbers, from 0 up, stand between two parts of names."""
    found = {name[len(before) :].split(after)[0] for name in names if name.startswith(before)}
    return len([number for number in found if number.isdigit()])
