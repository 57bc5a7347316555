"""A language pack in memory: its trained parts and what is known of them."""

from dataclasses import dataclass, field
from pathlib import Path

from dualasr.model.language_statistics import LanguageStatistics
from dualasr.model.secondary import Secondary
from dualasr.model.selector import Calibration


@dataclass(frozen=True)
class PackInfo:
    """What pack.json says beyond shapes. `languages` maps a BCP 47 or ISO 639-3 code to its display
    name.
    """

    name: str
    languages: dict[str, str]
    target: str = "written"  # or "normalised"
    ctc_weight: float = 0.5
    calibration: Calibration = Calibration()
    training: dict = field(default_factory=dict)  # corpus, licence, hours, steps, seed, ...
    scores: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Pack:
    """A loaded pack."""

    info: PackInfo
    secondary: Secondary
    # of its languages, to be told apart from other packs'
    statistics: LanguageStatistics | None = None
    folder: Path | None = None  # that it was loaded from

    @property
    def name(self) -> str:
        return self.info.name
