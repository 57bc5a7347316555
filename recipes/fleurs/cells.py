"""Cells of the comparison: one system, learning rate, seed and language, trained and tested.

A cell is a JSON file. It is written whole or not at all, and made once. The trained weights stay
beside it until its system is finished.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from add_language import Setting, say
from alternatives import (
    Make,
    borrow_tags,
    clock,
    examples_of,
    fit_pack,
    new_pack,
    text_tokens,
    train_whole,
    transcripts,
)
from safetensors.torch import load_model, save_model

from dualasr.atomic import atomic_file
from dualasr.data.corpus import Utterance
from dualasr.errors import RunError
from dualasr.evaluation.scoring import Tables, error_tables, scores_of
from dualasr.languages import FleursLanguage, language_of
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.secondary import LORA_TARGETS, SecondaryOptions
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone
from dualasr.training.options import AddLanguageOptions
from dualasr.training.prepare import read_corpora, read_text
from dualasr.training.trainer import load_own, save_own
from dualasr.training.trunk_cache import TrunkCache

# a Whisper that training damaged may write on to the end of its window
MOST_NEW_TOKENS = 200


@dataclass(frozen=True)
class Whole:
    """A way to change the Whisper: all of it, or by LoRA of a rank.

    Attributes:
        rank: Rank of LoRA; 0 for all parameters.
        replay: Share of the base's training clips that are trained on again.
        targets: Matrices that get LoRA.
        rates: Learning rates to choose from; () for those of the comparison.
        steps: Share of the comparison's steps, to compare at equal time.
    """

    rank: int = 0
    replay: float = 0.0
    targets: tuple[str, ...] = LORA_TARGETS
    rates: tuple[float, ...] = ()
    steps: float = 1.0


@dataclass(frozen=True)
class Shape:
    """The shape of a pack, and whose vocabulary it has.

    `rates` and `steps` are as those of `Whole`.
    """

    make: Make
    options: SecondaryOptions
    vocabulary: Literal["own", "base"] = "own"
    rates: tuple[float, ...] = ()
    steps: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """What all cells share.

    Attributes:
        setting: Settings that all steps share.
        backbone: The base.
        languages: The new languages, in order.
        limit: Test clips of each of the base's languages.
        padded: Share of the batches that fill the window.
        tags: The base's tag that a changed Whisper writes for a new language, by its code; others
            are chosen (`borrow_tags`).
    """

    setting: Setting
    backbone: Backbone
    languages: tuple[FleursLanguage, ...]
    limit: int
    padded: float
    tags: Mapping[str, str] = field(default_factory=dict)

    def clips(self, config: str, split: str, limit: int | None = None) -> list[Utterance]:
        return self.setting.read(config, split).utterances[:limit]

    @property
    def configs(self) -> list[str]:
        """The base's languages, then the new ones."""
        return [*self.setting.old, *(one.config for one in self.languages)]

    def test(self, config: str) -> list[Utterance]:
        return self.clips(config, "test", self.limit if config in self.setting.old else None)

    def options(
        self, out: Path, language: FleursLanguage, rate: float, seed: int
    ) -> AddLanguageOptions:
        training = replace(self.setting.training, learning_rate=rate, seed=seed)
        return AddLanguageOptions(
            base=self.setting.base,
            generated_negatives=False,
            corpora=(self.setting.folder(language.config),),
            languages={language.code: language.name},
            out=out,
            cache=self.setting.out / "trunk-cache",
            device=self.setting.device,
            training=training,
        )


def texts_of(model: DualWhisper, clips: Sequence[Utterance], beam: int) -> list[str]:
    """Transcribe clips by a model's pack, or by its Whisper if it has none."""
    options = DecodeOptions(beam=beam, generate={"max_new_tokens": MOST_NEW_TOKENS})
    return transcripts(model, clips, next(iter(model.packs), PRIMARY), options)


def errors_of(model: DualWhisper, clips: Sequence[Utterance], beam: int) -> Tables:
    """Count the errors in clips of one language."""
    return error_tables(
        clips[0].language, [clip.text for clip in clips], texts_of(model, clips, beam)
    )


def tables_of(comparison: Comparison, model: DualWhisper, configs: Sequence[str]) -> dict:
    """Measure a model: errors and lengths of each test sentence, by language code.

    They are scoring.Tables, as lists.
    """
    found = {}
    for clips in map(comparison.test, configs):
        tables = errors_of(model, clips, comparison.setting.beam)
        found[clips[0].language] = {
            m: {rate: t.tolist() for rate, t in rows.items()} for m, rows in tables.items()
        }
    return found


def cost(comparison: Comparison, model: DualWhisper, clips: int = 24) -> float:
    """Time the first language against the base on one of its own languages, side by side.

    Returns the ratio of the seconds that a second of audio takes.
    """

    def once(model: DualWhisper, config: str, split: str) -> float:
        some = comparison.clips(config, split, clips)
        began = time.perf_counter()
        texts_of(model, some, comparison.setting.beam)
        return (time.perf_counter() - began) / sum(clip.duration for clip in some)

    base, ratios = DualWhisper(comparison.backbone), []
    for _ in range(3):
        mine = once(model, comparison.languages[0].config, "dev")
        ratios.append(mine / once(base, comparison.setting.old[0], "test"))
    return statistics.median(ratios)


def on_test(comparison: Comparison, model: DualWhisper, k: int, *, timed: bool) -> dict:
    """Measure the k-th language's test clips.

    A changed Whisper is measured on all languages after the last one.
    """
    configs = [comparison.languages[k].config]
    if not model.packs and k + 1 == len(comparison.languages):
        configs = comparison.configs
    return {
        "tables": tables_of(comparison, model, configs),
        "cost": cost(comparison, model) if timed else None,
    }


@dataclass(frozen=True)
class Place:
    """Where a cell is: its learning rate, seed and k-th language.

    Its weights stay beside it until its system is finished.
    """

    folder: Path
    rate: float
    seed: int
    k: int

    @property
    def weights(self) -> Path:
        return self.file(".safetensors")

    def trained(self) -> Path:
        """Return the file of the weights. Raises RunError where it is missing."""
        if not self.weights.exists():
            raise RunError(
                f"{self.weights} is not there any more; remove {self.file('.json').name} beside it,"
                " and the same command trains it again."
            )
        return self.weights

    def file(self, end: str) -> Path:
        return self.folder / f"{self.rate:g}-{self.seed}-{self.k}{end}"


def fit_whole(comparison: Comparison, way: Whole, place: Place) -> dict:
    """Train a Whisper on the k-th language of a sequence, from the weights after the one before."""
    language, backbone = comparison.languages[place.k], comparison.backbone
    codes = [language_of(config).whisper for config in comparison.setting.old]
    tags = borrow_tags([one.code for one in comparison.languages], list(backbone.languages), codes)
    tags |= comparison.tags
    if place.k:
        backbone = load_whole(comparison, way, replace(place, k=place.k - 1), {}).backbone
    options = comparison.options(place.folder, language, place.rate, place.seed)
    train = read_corpora(options, backbone.window_s).train
    examples = examples_of(backbone, train, tags[language.code])
    if way.replay:
        rng = np.random.default_rng([place.seed, 43])
        for config, tag in zip(comparison.setting.old, codes, strict=True):
            base = [u for u in comparison.clips(config, "train") if u.duration <= backbone.window_s]
            some = sorted(rng.permutation(len(base))[: round(way.replay * len(base))])
            examples += examples_of(backbone, [base[i] for i in some], tag)
    # used for its augmentation alone
    variants = TrunkCache(place.folder, backbone, 0, options.training.augmentation, place.seed)
    now = clock(comparison.setting.device)
    began = now()
    training = replace(options.training, steps=max(1, round(way.steps * options.training.steps)))
    training = replace(training, variants=training.variants_of(len(train)))
    model, count = train_whole(
        backbone,
        examples,
        training,
        variants,
        rank=way.rank,
        targets=way.targets,
        padded=comparison.padded,
    )
    seconds = now() - began
    with atomic_file(place.weights) as part:
        save_model(model, part)
    texts = [u.text for u in train]
    density = sum(len(text_tokens(backbone, text)) for text in texts) / sum(map(len, texts))
    dev = errors_of(
        DualWhisper(replace(backbone, model=model)), comparison.clips(language.config, "dev", 96), 1
    )
    return {
        "seconds": seconds,
        "parameters": count if way.rank else 0,
        "tokens_per_character": density,
        "dev_cer": scores_of([dev], 0, 0)["cer"],
    }


def load_whole(comparison: Comparison, way: Whole, place: Place, found: dict) -> DualWhisper:
    backbone = Backbone.load(comparison.setting.base, device=comparison.setting.device)
    load_model(backbone.model, place.trained())
    return DualWhisper(replace(backbone))  # a new object: its checksum is not the base's


def shape_options(comparison: Comparison, shape: Shape, place: Place) -> AddLanguageOptions:
    options = comparison.options(
        place.file(""), comparison.languages[place.k], place.rate, place.seed
    )
    training = replace(options.training, steps=max(1, round(shape.steps * options.training.steps)))
    return replace(options, secondary=shape.options, vocabulary=shape.vocabulary, training=training)


def fit_shape(comparison: Comparison, shape: Shape, place: Place) -> dict:
    """Train a pack of the k-th language."""
    options = shape_options(comparison, shape, place)
    fitted = fit_pack(options, comparison.backbone, shape.make)
    secondary = fitted.pack.secondary
    save_own(secondary, place.weights)
    texts = read_text(options, read_corpora(options, comparison.backbone.window_s).train)
    density = sum(len(secondary.tokenizer.encode(text)) for text in texts) / sum(map(len, texts))
    return {
        "seconds": fitted.seconds,
        "parameters": sum(p.numel() for _, p in secondary.own_tensors()),
        "tokens_per_character": density,
        "dev_cer": fitted.dev_cer,
        "ctc_weight": fitted.pack.info.ctc_weight,
    }


def load_shape(comparison: Comparison, shape: Shape, place: Place, found: dict) -> DualWhisper:
    pack = new_pack(shape_options(comparison, shape, place), comparison.backbone, shape.make)
    load_own(pack.secondary, place.trained())
    pack.secondary.eval().requires_grad_(False)
    info = replace(pack.info, ctc_weight=found["ctc_weight"])
    return DualWhisper(comparison.backbone).with_pack(replace(pack, info=info))


def cell(path: Path, make: Callable[[], dict]) -> dict:
    """Read a result from disk, or make and write it."""
    if not path.exists():
        say(f"== {path.parent.name} {path.stem}")
        found = make()
        with atomic_file(path) as part:
            part.write_text(json.dumps(found))
    return json.loads(path.read_text())
