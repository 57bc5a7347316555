"""Settings of a run: how a pack is trained, and on what."""

from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Literal

from dualasr.audio.augment import Augmentation
from dualasr.data.utterance import Columns
from dualasr.errors import RunError
from dualasr.model.precision import Precision
from dualasr.model.secondary import SecondaryOptions


@dataclass(frozen=True)
class TrainingOptions:
    """How a pack is trained.

    The learning rate has three stages: warm-up, constant, decay (paper, section 3.2: 10 %, 40 % and
    50 % of the steps).

    Attributes:
        steps: Optimiser steps.
        batch: Training clips of a micro-batch; negatives are added to them.
        accumulation: Micro-batches of a step.
        learning_rate: Highest learning rate, for a step of batch x accumulation clips.
        warmup: Share of the steps with a rising learning rate.
        decay: Share of the steps with a falling learning rate.
        variants: Cached variants of a clip, the clip itself among them.
        negatives: Clips in other languages for each training clip of a batch.
        time_mask: Largest share of a clip that one of the two time masks covers.
        ctc_weight: Weight of the CTC loss beside the attention decoder's.
        evaluate_every: Steps between two measurements on dev.
        save_every: Steps between two checkpoints.
        keep: Which weights become the pack: "last", or "best" by dev CER.
        seed: Seed of everything random.
        precision: Number type of the computation; "auto" is bfloat16 where the device is made for
            it.
        report_to: Where the losses are shown besides metrics.jsonl: "tensorboard", "wandb",
            "trackio".
        augmentation: How the variants of a clip are made.
    """

    steps: int = 1500
    batch: int = 24
    accumulation: int = 1
    learning_rate: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.5
    variants: int = 4
    negatives: float = 0.25
    time_mask: float = 0.08
    ctc_weight: float = 1.0
    evaluate_every: int = 250
    save_every: int = 250
    keep: str = "last"
    seed: int = 1
    precision: Precision = "auto"
    report_to: tuple[str, ...] = ()
    augmentation: Augmentation = Augmentation()

    def variants_of(self, clips: int) -> int:
        """Return the variants to cache of each of so many training clips.

        There are no more than the times that training uses a clip.
        """
        uses = self.steps * self.batch * self.accumulation / max(clips, 1)
        return min(self.variants, max(1, ceil(uses)))


@dataclass(frozen=True)
class AddLanguageOptions:
    """What a pack is trained on, how, and where it goes.

    Attributes:
        base: The base: "micro", a name on the Hugging Face hub, or a folder.
        corpora: Corpora with transcribed speech in the new languages.
        languages: Name of each language by its code.
        out: The pack's folder.
        negatives: Corpora, or folders of sound, in other languages. Their transcripts are not read.
        generated_negatives: Whether generated speech in about a hundred languages is added to them
            (data/negatives.py).
        name: The pack's name; "" for the name of the folder.
        target: "written" to train on the text as it is, or "normalised".
        columns: Columns of corpora that are tables.
        tier: Tier of corpora that are ELAN or TextGrid files.
        strict: Whether a clip that cannot be used is an error; else it is skipped.
        cache: Folder of the trunk activations; None for trunk-cache beside `out`.
        source: Where the speech comes from, for the model card.
        licence: Licence of the speech, for the model card.
        device: torch's name of the device.
        secondary: Shape of the pack's pipeline.
        training: How it is trained.
        init: An earlier pack to go on from. Its languages come first in `languages`, and its
            vocabulary stays.
        rehearsal: Corpora of the earlier pack's languages.
        rehearse: Share of the training clips of `rehearsal` that are used again.
        vocabulary: "own", trained on the text, or "base", the base's units that spell it.
        vocabulary_corpora: Corpora of languages that will be added later. Their text takes part in
            making the vocabulary.
    """

    base: str
    corpora: tuple[Path, ...]
    languages: dict[str, str]
    out: Path
    negatives: tuple[Path, ...] = ()
    generated_negatives: bool = True
    name: str = ""
    target: str = "written"
    columns: Columns = Columns()
    tier: str | None = None
    strict: bool = False
    cache: Path | None = None
    source: str = ""
    licence: str = ""
    device: str = "cpu"
    secondary: SecondaryOptions = SecondaryOptions()
    training: TrainingOptions = TrainingOptions()
    init: Path | None = None
    rehearsal: tuple[Path, ...] = ()
    rehearse: float = 0.3
    vocabulary: Literal["own", "base"] = "own"
    vocabulary_corpora: tuple[Path, ...] = ()

    @property
    def run(self) -> Path:
        """The folder of the unfinished run, `out` with .run at its end."""
        return self.out.with_name(self.out.name + ".run")


MOST_DEV = 96  # dev clips that the CTC weight and the calibration are fitted on
TRACKERS = ("tensorboard", "wandb", "trackio")


def check_settings(secondary: SecondaryOptions, training: TrainingOptions, layers: int) -> None:
    """Check the settings of a run before it begins.

    Args:
        secondary: Shape of the pack's pipeline.
        training: How it is trained.
        layers: Encoder layers of the base.

    Raises:
        RunError: A setting is outside its range.
    """
    try:
        secondary.resolve(layers)
    except ValueError as error:
        raise RunError(str(error)) from error
    for name in ("steps", "batch", "accumulation", "variants", "evaluate_every", "save_every"):
        if getattr(training, name) < 1:
            raise RunError(f"{name} is {getattr(training, name)}; wanted 1 or more.")
    for name in training.report_to:
        if name not in TRACKERS:
            raise RunError(f"cannot report to {name!r}; there is: {', '.join(TRACKERS)}.")
        if find_spec(name) is None:
            raise RunError(f"{name} is not installed: pip install {name}")
    if secondary.rank < 0 or not training.learning_rate > 0:
        raise RunError(
            f"rank {secondary.rank}, learning rate {training.learning_rate:g}; wanted 0 or more,"
            " and above 0."
        )
