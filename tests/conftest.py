"""Fixtures: a two-layer Whisper with random weights, sound, and small packs on it."""

import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings

from dualasr.cli.main import QUIET

os.environ.update(QUIET | {"HF_HUB_OFFLINE": "1"})  # before transformers is imported

from dualasr.audio.torchaudio_fault import torchaudio_fault
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.secondary import Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone, base_path
from dualasr.transcription import alignment

# the same examples in every run; --hypothesis-profile default looks for new ones
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")

torch.set_num_threads(1)  # two-layer models are slower on many

# begun first, so that no worker is left with one of them at the end
LONGEST = (
    "test_fleurs_recipes",
    "test_training",
    "test_quickstart",
    "test_transcribe_cli",
    "test_alternatives",
    "test_contamination",
    "test_transcription",
    "test_evaluation",
    "test_serve_faults",
    "test_serve_api",
)
TEXTS = ["Тоодо кар жаады.", "Апам нан бышырды.", "Балдар мектепке барды.", "Ат суу ичти."] * 12


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A two-layer Whisper with random weights, the built-in base's tokenizer and window, in
    transformers format.
    """
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    source, folder = base_path("micro"), tmp_path_factory.mktemp("tiny")
    config = WhisperConfig.from_pretrained(source)
    config.update(
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
        }
    )
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig.from_pretrained(source, max_length=24)
    stamps = range(model.generation_config.no_timestamps_token_id, config.vocab_size)
    # random weights would emit them, and loop on the window
    model.generation_config.suppress_tokens += list(stamps)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)  # away from a uniform output
    model.save_pretrained(folder)
    WhisperTokenizer.from_pretrained(source).save_pretrained(folder)
    WhisperFeatureExtractor.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(tiny_folder):
    return Backbone.load(tiny_folder)


@pytest.fixture
def clips():
    """Four sounds of different length: (samples,) float32 at 16 kHz."""
    rng = np.random.default_rng(0)
    time = np.arange(16_000 * 4) / 16_000
    tones = [
        np.sin(2 * np.pi * f * time) * np.sin(2 * np.pi * 3 * time) for f in (200, 440, 900, 1500)
    ]
    noise = rng.standard_normal((4, len(time))) * 0.05
    return [
        (0.3 * t + n)[: int(16_000 * s)].astype(np.float32)
        for t, n, s in zip(tones, noise, (1.0, 2.3, 3.1, 4.0), strict=True)
    ]


@pytest.fixture(scope="session")
def make_secondary():
    """Secondary of a backbone with seeded random weights, LoRA's B too unless `zero_b`."""

    def make(backbone, languages=("ky",), *, seed=0, zero_b=False, **options):
        torch.manual_seed(seed)
        # often enough for units of several letters
        tokenizer = PackTokenizer.train(TEXTS * 9, languages)
        asked = {"rank": 4, "decoder": "las"} | options  # with random weights this one talks
        secondary = Secondary(backbone, tokenizer, SecondaryOptions(**asked))
        if not zero_b:
            with torch.no_grad():
                for name, parameter in secondary.named_parameters():
                    if "lora_B" in name:
                        parameter.normal_(std=0.1)
        return secondary.eval()

    return make


@pytest.fixture
def make_model(backbone, make_secondary):
    """DualWhisper with one pack for each (name, language)."""

    def make(*packs):
        model = DualWhisper(backbone)
        for seed, (name, language) in enumerate(packs):
            secondary = make_secondary(backbone, (language,), seed=seed).requires_grad_(False)
            model = model.with_pack(Pack(PackInfo(name, {language: language}), secondary))
        return model

    return make


@pytest.fixture
def without_torchaudio(monkeypatch):
    """torchaudio cannot be imported, and nobody has tried before."""

    def forget():
        torchaudio_fault.cache_clear()
        alignment._can_align.cache_clear()

    monkeypatch.setitem(sys.modules, "torchaudio", None)
    forget()
    yield
    forget()
