"""The decoders of a model as people see them: what they are called, which languages they know, and
who knows which.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualasr.languages import english_name
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone


@dataclass(frozen=True)
class Decoder:
    """A pipeline by the name of its route. `languages` maps codes to display names."""

    name: str
    languages: Mapping[str, str]

    @property
    def title(self) -> str:
        return "Whisper" if self.name == PRIMARY else f"pack {self.name}"

    @property
    def heading(self) -> str:
        return self.title[0].upper() + self.title[1:]

    @property
    def label(self) -> str:
        """The heading with what it knows: one or two languages by name, more by number."""
        names = list(self.languages.values())
        return (
            f"{self.heading} ({', '.join(names) if len(names) < 3 else f'{len(names)} languages'})"
        )


def decoders_of(model: DualWhisper) -> tuple[Decoder, ...]:
    """The primary, then the packs in the order they were loaded."""
    names: dict[str, str] = {}
    for name, code in model.backbone.language_names.items():
        # the first is the language's name, the others are aliases
        names.setdefault(code, name.title())
    codes = model.backbone.codes
    primary = Decoder(PRIMARY, {code: names.get(code) or english_name(code) for code in codes})
    return primary, *(
        Decoder(name, dict(pack.info.languages)) for name, pack in model.packs.items()
    )


def base_name(backbone: Backbone) -> str:
    """The base as clients call it: of a folder its name, for where it lies here is nobody's
    business.
    """
    return Path(backbone.name).name if Path(backbone.name).is_dir() else backbone.name


def title_of(route: str) -> str:
    """What a route is called on the page, its decoder loaded or not."""
    return Decoder(route, {}).title


def heading_of(route: str) -> str:
    return Decoder(route, {}).heading


def language_name(code: str | None, decoders: Iterable[Decoder]) -> str:
    """A language by name, for one that no decoder knows any more its code."""
    if code is None:
        return "no language"
    return next((d.languages[code] for d in decoders if code in d.languages), english_name(code))


def language_choices(decoders: Iterable[Decoder]) -> list[tuple[str, str]]:
    """Every known language once, as (name, code), by name; one name for two codes says which is
    which.
    """
    names: dict[str, str] = {}
    for decoder in decoders:
        names |= decoder.languages
    count = list(names.values()).count
    return sorted(
        (name if count(name) == 1 else f"{name} ({code})", code) for code, name in names.items()
    )


def by_decoder(
    probs: Mapping[str, float], decoders: Sequence[Decoder]
) -> list[tuple[Decoder, dict[str, float]]]:
    """The probabilities grouped by who knows the language, each group and the groups by size.

    A pack goes before the primary, as it does when the language is asked for.
    """
    owners = {code: decoder for decoder in decoders for code in decoder.languages}
    groups: dict[str, dict[str, float]] = {decoder.name: {} for decoder in decoders}
    for code, prob in sorted(probs.items(), key=lambda item: -item[1]):
        if code in owners:
            groups[owners[code].name][code] = prob
    found = [(decoder, groups[decoder.name]) for decoder in decoders if groups[decoder.name]]
    return sorted(found, key=lambda pair: -sum(pair[1].values()))
