"""The settings of a run: how a pack is trained, and on what."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from dualasr.audio.augment import Augmentation
from dualasr.data.utterance import Columns
from dualasr.errors import RunError
from dualasr.model.secondary import SecondaryOptions


@dataclass(frozen=True)
class TrainingOptions:
    """How a pack is trained. Rates are a step of `batch` x `accumulation` clips; shares are of the
    steps.
    """

    steps: int = 1500
    batch: int = 24
    accumulation: int = 1
    learning_rate: float = 2e-3
    warmup: float = 0.1  # tri-stage: 10 % warm-up, 40 % constant, 50 % decay (paper, section 3.2)
    decay: float = 0.5
    variants: int = 4  # cached augmentations of a clip, the clip itself among them
    negatives: float = 0.25  # clips in other languages for each training clip of a batch
    time_mask: float = 0.08  # most of a clip that one mask hides; two masks
    ctc_weight: float = 1.0
    evaluate_every: int = 250
    save_every: int = 250
    keep: str = "last"  # or "best", by dev CER
    seed: int = 1
    bf16: bool = False
    augmentation: Augmentation = Augmentation()

    def variants_of(self, clips: int) -> int:
        """Augmentations to cache of each of so many training clips: no more than the times a clip
        is met.
        """
        met = self.steps * self.batch * self.accumulation / max(clips, 1)
        return min(self.variants, max(1, ceil(met)))


@dataclass(frozen=True)
class AddLanguageOptions:
    """`corpora` hold the new languages' speech, `negatives` any audio in other languages
    (transcripts are not read).

    A pack may go on from another, `init`, whose languages come first in `languages` and whose
    vocabulary stays; then `rehearsal` are the corpora of those languages, of whose training clips a
    share, `rehearse`, is trained on again. `vocabulary` are corpora of languages still to come,
    whose text has its units made beforehand.
    """

    base: str
    corpora: tuple[Path, ...]
    languages: dict[str, str]  # code -> display name
    out: Path
    negatives: tuple[Path, ...] = ()
    name: str = ""  # of the pack; default: the folder's
    target: str = "written"  # or "normalised"
    columns: Columns = Columns()  # of corpora that are tables
    tier: str | None = None  # of corpora that are ELAN files or TextGrids
    strict: bool = False
    cache: Path | None = None  # default: trunk-cache beside OUT
    source: str = ""
    licence: str = ""
    device: str = "cpu"
    secondary: SecondaryOptions = SecondaryOptions()
    training: TrainingOptions = TrainingOptions()
    init: Path | None = None
    rehearsal: tuple[Path, ...] = ()
    rehearse: float = 0.3
    vocabulary: tuple[Path, ...] = ()

    @property
    def run(self) -> Path:
        return self.out.with_name(self.out.name + ".run")


def check_settings(secondary: SecondaryOptions, training: TrainingOptions, layers: int) -> None:
    """Raises RunError for what no pack on a base of so many encoder layers can be, or be trained
    with.
    """
    try:
        secondary.resolve(layers)
    except ValueError as error:
        raise RunError(str(error)) from error
    for name in ("steps", "batch", "accumulation", "variants", "evaluate_every", "save_every"):
        if getattr(training, name) < 1:
            raise RunError(f"{name} is {getattr(training, name)}; wanted 1 or more.")
    if secondary.rank < 0 or not training.learning_rate > 0:
        raise RunError(
            f"rank {secondary.rank}, learning rate {training.learning_rate:g}; wanted 0 or more,"
            " and above 0."
        )
