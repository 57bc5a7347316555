"""A language pack in memory: its trained modules and what is known of them."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from dualasr.model.language_statistics import LanguageStatistics
from dualasr.model.ngrams import CharacterModel
from dualasr.model.secondary import Secondary
from dualasr.model.selector import Calibration


@dataclass(frozen=True)
class PackInfo:
    """The parts of pack.json that are not shapes of modules.

    Attributes:
        name: Name of the pack, which is also the name of its route.
        languages: Language codes (BCP 47 or ISO 639-3) and their names for display.
        target: Form of its transcripts: "written" or "normalised".
        ctc_weight: Weight of the CTC head in the joint score, from 0 to 1.
        calibration: How its scores become probabilities for the selector.
        training: How it was trained: corpus, licence, hours, steps, seed and more.
        scores: Its error rates.
    """

    name: str
    languages: dict[str, str]
    _: KW_ONLY
    target: str = "written"
    ctc_weight: float = 0.5
    calibration: Calibration = Calibration()
    training: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pack:
    """A pack that is ready for use.

    Attributes:
        info: Its name, languages and records.
        secondary: Its pipeline.
        statistics: Statistics of its languages, by which the selector compares several packs;
            None for a pack that has none.
        ngrams: Character n-grams of its training text, by which the selector weighs what its CTC
            head writes; None for a pack that has none.
        folder: The folder that it was loaded from; None for a pack that is in memory alone.
    """

    info: PackInfo
    secondary: Secondary
    statistics: LanguageStatistics | None = None
    ngrams: CharacterModel | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of the pack."""
        return self.info.name
