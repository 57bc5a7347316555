"""Make a Whisper of OpenAI's shape, and packs on it, with random weights, to time and weigh them.

With random weights the number of tokens must be fixed. Here all but text is suppressed, the end and
timestamps among it, so that `generate` writes exactly max_new_tokens, once. With timestamps it
would decode a window several times.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from dualasr.model.language_statistics import fit_statistics
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import Secondary
from dualasr.model.selector import Calibration, Logistic
from dualasr.model.tokenizer import PackTokenizer, byte_of_character
from dualasr.model.whisper import Backbone
from dualasr.packs.export import save_base
from dualasr.packs.format import save_pack

SHAPES = {
    "tiny": (384, 4, 6),
    "base": (512, 6, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large-v2": (1280, 32, 20),
}  # width, layers, heads
TEXT = 50257  # text tokens of the multilingual vocabulary
CERTAIN = 50.0  # log-odds by which a random pack loses every window


def stand_in_tokenizer() -> WhisperTokenizer:
    """Make a tokenizer with as many tokens as the multilingual Whisper, in its order.

    Text is spelled in bytes and pairs of bytes. The last text token is empty: without it
    ctranslate2 takes the model for an English one.
    """
    letters = list(byte_of_character())
    merges = [(a, b) for a in letters for b in letters][: TEXT - 1 - len(letters)]
    tokens = [*letters, *map("".join, merges), ""]
    tokenizer = WhisperTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    rest = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    tags = ["startoftranscript", *list(LANGUAGES)[:99], *rest]
    tokenizer.add_tokens([f"<|{tag}|>" for tag in tags], special_tokens=True)
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    return tokenizer


def random_whisper(shape: str = "small", seed: int = 0, *, layers: int = 0) -> Backbone:
    """Make a Whisper of this shape, with `layers` layers a side if they are given."""
    width, usual, heads = SHAPES[shape]
    layers = layers or usual
    tokenizer = stand_in_tokenizer()
    sizes = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width))
    }
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), d_model=width, **sizes)
    ).eval()
    ident = tokenizer.convert_tokens_to_ids
    end = TEXT
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ident("<|startoftranscript|>"),
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        max_length=448,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ident(f"<|{code}|>") for code in list(LANGUAGES)[:99]},
        task_to_id={task: ident(f"<|{task}|>") for task in ("translate", "transcribe")},
        no_timestamps_token_id=ident("<|notimestamps|>"),
        suppress_tokens=list(range(TEXT, len(tokenizer))),
    )
    return Backbone(shape, model.requires_grad_(False), tokenizer, WhisperFeatureExtractor())


def write_whisper(folder: Path, shape: str = "small", seed: int = 0) -> None:
    """Write a Whisper of this shape in transformers format, with the files of older converters."""
    save_base(folder, random_whisper(shape, seed))


def write_packs(folder: Path, backbone: Backbone, count: int, texts: Sequence[str]) -> list[Path]:
    """Write packs that reject every window, each with a language of its own; return their folders.

    Their vocabulary is made from `texts`.
    """
    # often enough for units of several letters
    tokenizer = PackTokenizer.train(list(texts) * 100, ("",))
    always = Calibration(*(Logistic((0.0,) * scores, -CERTAIN) for scores in (1, 3, 3)))
    for k in range(count):
        torch.manual_seed(k)
        code = f"qa{chr(ord('a') + k)}"  # ISO 639-2: for local use
        secondary = Secondary(backbone, replace(tokenizer, languages=(code,))).eval()
        with torch.no_grad():
            for name, parameter in secondary.own_tensors():
                if ".lora_B" in name:
                    parameter.normal_(std=0.02)
        evidence = np.random.default_rng(k).standard_normal((128, 3 * backbone.width))
        statistics = fit_statistics(evidence, np.zeros(len(evidence), int), 1)
        pack = Pack(
            PackInfo(code, {code: code}, calibration=always), secondary, statistics=statistics
        )
        save_pack(folder / code, pack, backbone)
    return sorted(folder.iterdir())
