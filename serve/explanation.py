"""Why a part of the sound went where it did, in sentences: the selector's terse reason in everyday
words.

The reason is the text that `dualasr.model.selector` writes; the tests make every form of it with
the selector itself.
"""

import math
import re

from dualasr.model.selector import NO_PRIMARY_LANGUAGE, PRIMARY

from .routes import title_of

_NUMBER = r"([+-]?[\d.]+|[+-]?inf|nan)"
_NEIGHBOURS = re.compile(r"(.*); both neighbours go to (.*)", re.DOTALL)
_FLOOR = re.compile(rf"(.+): log-odds {_NUMBER}, floor {_NUMBER}", re.DOTALL)
_NO_SPEECH = re.compile(rf"no speech: probability {_NUMBER}, limit {_NUMBER}")
_TAGS = re.compile(
    rf"(.+): best tag {_NUMBER} against the primary's {_NUMBER}, (beyond|within) tau {_NUMBER}(.*)",
    re.DOTALL,
)
_ODDS = re.compile(rf"(.+): log-odds {_NUMBER}, (beyond|within) tau {_NUMBER}(.*)", re.DOTALL)
_DUEL = re.compile(
    rf"; log-odds {_NUMBER} after both were decoded \({_NUMBER} log-probability a second\)"
)
_LEAD = re.compile(rf"; average log-probability leads by {_NUMBER}")


def explain(reason: str, route: str) -> str:
    """The reason for a route as a sentence or two; a reason of another form is quoted as it is."""
    if match := _NEIGHBOURS.fullmatch(reason):
        other = match[1].partition(": ")[0] if route == PRIMARY else PRIMARY
        return (
            f"On its own this part would have gone to {title_of(other)}, but only just. The parts"
            f" before and after it both went to {title_of(route)}, so it went along with them."
        )
    if reason == "no pack is loaded":
        return "No language pack is loaded, so Whisper transcribes everything."
    if reason == "the caller chose the route":
        return f"You chose {title_of(route)}, so the selector was not asked."
    if reason == NO_PRIMARY_LANGUAGE:
        return (
            "Whisper knows none of the languages you allow, so it is between the packs;"
            f" {title_of(route)} fits best."
        )
    if match := _NO_SPEECH.fullmatch(reason):
        return (
            f"Whisper hears no speech in this part ({float(match[1]):.0%}), and packs are for"
            " speech alone, so it keeps it."
        )
    if match := _FLOOR.fullmatch(reason):
        return (
            f"The nearest pack, {match[1]}, was not sure enough to take this from Whisper. It may"
            " be a language that no pack here was taught."
        )
    if match := _ODDS.fullmatch(reason):
        return _by_odds(match[1], float(match[2]), match[3] == "beyond", match[5])
    if match := _TAGS.fullmatch(reason):
        return _by_tags(
            match[1], float(match[2]) - float(match[3]), match[4] == "beyond", match[6], route
        )
    return f"The selector says: {reason}."


def odds(lead: float) -> str:
    """Log-odds as people give odds: "about 20 to 1", whichever way they point."""
    ratio = 1.0 if math.isnan(lead) else math.exp(min(abs(lead), 20.0))
    if ratio >= 1000:
        return "more than 1,000 to 1"
    if ratio < 1.5:
        return "about even"
    return f"about {round(ratio, -1 if ratio >= 100 else None)} to 1".replace(".0 ", " ")


def _by_odds(pack: str, lead: float, settled: bool, rest: str) -> str:
    if settled and lead > 0:
        return f"Pack {pack} recognised its language: {odds(lead)} against Whisper."
    if settled:
        return (
            f"No pack recognised its language here (the nearest, {pack}: {odds(lead)} against it),"
            " so Whisper kept it."
        )
    close = f"It was close between Whisper and pack {pack}"
    if not (match := _DUEL.fullmatch(rest)):
        return f"{close} ({odds(lead)}); {title_of(pack if lead > 0 else PRIMARY)} was ahead."
    after, gap = float(match[1]), float(match[2])
    winner, loser = (f"pack {pack}", "Whisper's") if after > 0 else ("Whisper", f"pack {pack}'s")
    for_winner = gap if after > 0 else -gap
    if for_winner > 0.05:
        told = f"{winner[0].upper()}{winner[1:]}'s text fits the sound better"
    elif for_winner < -0.05:
        told = (
            f"Although {loser} text fits the sound a little better, all evidence together favours"
            f" {winner}"
        )
    else:
        told = f"Both texts fit the sound alike, and all evidence together favours {winner}"
    return f"{close}, so both transcribed it. {told}: {odds(after)}."


def _by_tags(pack: str, lead: float, settled: bool, rest: str, route: str) -> str:
    if settled and lead > 0:
        return f"Pack {pack} was surer of its best language than Whisper of its own."
    if settled:
        return f"Whisper was surer of its best language than pack {pack} of its own."
    close = f"Whisper and pack {pack} were about as sure of their languages"
    if not _LEAD.fullmatch(rest):
        return f"{close}; {title_of(route)} was ahead."
    return (
        f"{close}, so both transcribed it, and {title_of(route)}'s text is the more probable one."
    )
