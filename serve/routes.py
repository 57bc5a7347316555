"""The routes of a model as page and API show them: their names, and the languages they know."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualasr.languages import english_name
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone


@dataclass(frozen=True)
class Route:
    """The primary or a pack.

    Attributes:
        name: "primary" or the name of the pack.
        languages: Display names of its languages, by code.
    """

    name: str
    languages: Mapping[str, str]

    @property
    def title(self) -> str:
        """Its name inside a sentence: "Whisper" or "pack NAME"."""
        return "Whisper" if self.name == PRIMARY else f"pack {self.name}"

    @property
    def heading(self) -> str:
        """Its name at the beginning of a line: "Whisper" or "Pack NAME"."""
        return self.title[0].upper() + self.title[1:]

    @property
    def label(self) -> str:
        """The heading with its languages: one or two by name, more by number."""
        names = list(self.languages.values())
        return (
            f"{self.heading} ({', '.join(names) if len(names) < 3 else f'{len(names)} languages'})"
        )


def routes_of(model: DualWhisper) -> tuple[Route, ...]:
    """Return the primary, then the packs in the order in which they were loaded."""
    names: dict[str, str] = {}
    for name, code in model.backbone.language_names.items():
        names.setdefault(code, name.title())  # the names after a language's first are aliases
    codes = model.backbone.codes
    primary = Route(PRIMARY, {code: names.get(code) or english_name(code) for code in codes})
    return primary, *(Route(name, dict(pack.info.languages)) for name, pack in model.packs.items())


def base_name(backbone: Backbone) -> str:
    """Return the name of the base for clients: of a folder only its name, not its place on disk."""
    return Path(backbone.name).name if Path(backbone.name).is_dir() else backbone.name


def title_of(route: str) -> str:
    """Return the title of a route by its name, even if its pack is no longer loaded."""
    return Route(route, {}).title


def heading_of(route: str) -> str:
    """Return the heading of a route by its name, even if its pack is no longer loaded."""
    return Route(route, {}).heading


def language_name(code: str | None, routes: Iterable[Route]) -> str:
    """Return the name of a language: that of a route that knows it, or else its English name.

    Args:
        code: The language; None gives "no language".
        routes: The routes to look in.
    """
    if code is None:
        return "no language"
    known = (route.languages[code] for route in routes if code in route.languages)
    return next(known, english_name(code))


def language_choices(routes: Iterable[Route]) -> list[tuple[str, str]]:
    """Return (name, code) of every known language, sorted by name.

    If two codes have the same name, the code is added to the name.
    """
    names: dict[str, str] = {}
    for route in routes:
        names |= route.languages
    count = list(names.values()).count
    return sorted(
        (name if count(name) == 1 else f"{name} ({code})", code) for code, name in names.items()
    )


def by_route(
    probs: Mapping[str, float], routes: Sequence[Route]
) -> list[tuple[Route, dict[str, float]]]:
    """Group probabilities of languages by the route that knows the language.

    If the primary and a pack know the same language, it is the pack's, as in `DualWhisper`.

    Args:
        probs: Probabilities by code.
        routes: The primary, then the packs.

    Returns:
        Each route with its probabilities, both sorted from the most likely.
    """
    owners = {code: route for route in routes for code in route.languages}
    groups: dict[str, dict[str, float]] = {route.name: {} for route in routes}
    for code, prob in sorted(probs.items(), key=lambda item: -item[1]):
        if code in owners:
            groups[owners[code].name][code] = prob
    found = [(route, groups[route.name]) for route in routes if groups[route.name]]
    return sorted(found, key=lambda pair: -sum(pair[1].values()))
