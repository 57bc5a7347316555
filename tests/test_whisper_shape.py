"""A genuine checkpoint will load: Whisper-tiny's own shape, random weights. Its vocabulary is a
stand-in of the same size and order, and the genuine one where it is there.
"""

import base64
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.whisper import Backbone
from dualasr.packs.format import load_pack, save_pack


def find_vocabulary() -> Path | None:
    """Whisper's multilingual.tiktoken: beside the project, or in an installed openai-whisper."""
    shared = (
        Path(__file__).parents[2] / "shared" / "data" / "whisper_assets" / "multilingual.tiktoken"
    )
    if shared.exists():
        return shared
    try:
        import whisper
    except ImportError:
        return None
    return Path(whisper.__file__).parent / "assets" / "multilingual.tiktoken"


def build_tokenizer(path: Path):
    """Ranks of byte sequences -> vocabulary and merges of a byte-level BPE, then Whisper's special
    tokens in its order.
    """
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    from dualasr.model.tokenizer import byte_of_character

    character = {byte: c for c, byte in byte_of_character().items()}
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in map(str.split, path.read_text().splitlines())
    }
    written = {token: "".join(character[b] for b in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += [
            (rank, ranks[a], ranks[b], written[a], written[b])
            for a, b in halves
            if a in ranks and b in ranks
        ]
    merges.sort()
    vocabulary = {written[token]: rank for token, rank in ranks.items()}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[(a, b) for *_, a, b in merges])
    codes = list(LANGUAGES)[:99]
    rest = [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    tokenizer.add_tokens(
        ["<|startoftranscript|>", *(f"<|{code}|>" for code in codes), *rest], special_tokens=True
    )
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    return tokenizer


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """As recipes/micro/whisper_shape.py writes it, with the files of older converters."""
    folder = tmp_path_factory.mktemp("stand-in")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "recipes" / "micro"))
        importlib.import_module("whisper_shape").write_whisper(folder, "tiny")
    return folder


@pytest.fixture(scope="module", params=["stand_in", "genuine"])
def whisper_tiny(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    vocabulary = find_vocabulary()
    if vocabulary is None:
        pytest.skip(
            "no multilingual.tiktoken: neither ../shared/data/whisper_assets nor openai-whisper is"
            " there"
        )
    folder = tmp_path_factory.mktemp("whisper-tiny")
    tokenizer = build_tokenizer(vocabulary)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=51865,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
    )
    model = WhisperForConditionalGeneration(config)
    ident = tokenizer.convert_tokens_to_ids
    tags = {t: ident(t) for t in tokenizer.get_added_vocab() if 50259 <= ident(t) <= 50357}
    model.generation_config = GenerationConfig(
        decoder_start_token_id=50258,
        eos_token_id=50257,
        pad_token_id=50257,
        bos_token_id=50257,
        max_length=16,
        is_multilingual=True,
        lang_to_id=tags,
        task_to_id={"translate": 50358, "transcribe": 50359},
        no_timestamps_token_id=50363,
        forced_decoder_ids=[[1, None], [2, 50359]],
        suppress_tokens=list(range(50364, 51865)),
    )
    model.save_pretrained(folder)
    return folder


def test_ids_are_whispers_own(whisper_tiny):
    backbone = Backbone.load(whisper_tiny)
    ident = backbone.tokenizer.convert_tokens_to_ids
    known = {
        "<|endoftext|>": 50257,
        "<|startoftranscript|>": 50258,
        "<|en|>": 50259,
        "<|su|>": 50357,
        "<|translate|>": 50358,
        "<|transcribe|>": 50359,
        "<|nospeech|>": 50362,
        "<|notimestamps|>": 50363,
        "<|0.00|>": 50364,
    }
    assert {token: ident(token) for token in known} == known
    if "stand-in" not in whisper_tiny.name:
        assert backbone.tokenizer.encode(" Hello world", add_special_tokens=False) == [2425, 1002]
    text = " Тоодо кар жаады, ଓଡ଼ିଆ."
    assert (
        backbone.tokenizer.decode(backbone.tokenizer.encode(text, add_special_tokens=False)) == text
    )


def test_thirty_seconds_and_ninety_nine_languages(whisper_tiny):
    backbone = Backbone.load(whisper_tiny)
    assert (backbone.window_s, backbone.positions, backbone.width, backbone.layers) == (
        30.0,
        1500,
        384,
        4,
    )
    assert len(backbone.languages) == 99 and backbone.languages["en"] == 50259


def test_a_pack_on_it(whisper_tiny, make_secondary, tmp_path):
    backbone = Backbone.load(whisper_tiny)
    secondary = make_secondary(backbone, ("ky",), rank=16)
    save_pack(tmp_path / "north", Pack(PackInfo("north", {"ky": "Kyrgyz"}), secondary), backbone)
    pack = load_pack(tmp_path / "north", backbone)
    assert isinstance(pack, Pack) and pack.secondary.options.fork == 2
    sound = np.random.default_rng(0).standard_normal(16_000 * 5).astype(np.float32) * 0.1
    model = DualWhisper(backbone).with_pack(pack)
    mel = backbone.features([sound])
    plain = backbone.model.generate(mel, max_new_tokens=6, task="transcribe").tolist()[0]
    options = DecodeOptions(generate={"max_new_tokens": 6})
    assert (
        list(model.transcribe_windows([sound], route="primary", options=options)[0].tokens) == plain
    )
    result = model.transcribe_windows([sound], options=options)[0]
    assert set(result.language_probs) == {*backbone.languages, "ky"}
