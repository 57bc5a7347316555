"""The selector's reason for a route, explained in sentences for visitors of the page.

The reason is the short text that `dualasr.model.selector` writes. The tests make every form of it
with the selector itself.
"""

import math
import re
from collections.abc import Mapping

from dualasr.model.selector import NO_ALLOWED_PACK, NO_PACK, NO_PRIMARY_LANGUAGE, PRIMARY

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
_SECOND_PASS = re.compile(
    rf"; log-odds {_NUMBER} after both were decoded \({_NUMBER} log-probability a second\)"
)
_LEAD = re.compile(rf"; average log-probability leads by {_NUMBER}")


def explain(
    reason: str, route: str, shares: Mapping[str, float] | None = None, *, packs: bool = False
) -> str:
    """Explain a reason in one or two sentences.

    Args:
        reason: The selector's text. A text of an unknown form is quoted as it is.
        route: The route that the reason is for.
        shares: Probability of each route, as the bars beside the sentence show it; odds in the
            sentence are those of the bars. None if there are no bars.
        packs: Whether the server has packs.

    Returns:
        The explanation.
    """
    if match := _NEIGHBOURS.fullmatch(reason):
        other = match[1].partition(": ")[0] if route == PRIMARY else PRIMARY
        return (
            f"Alone, this part would have gone to {title_of(other)}, but it was very close. The"
            f" parts before and after it both went to {title_of(route)}, so this part went there,"
            " too."
        )
    if reason in (NO_PACK, NO_ALLOWED_PACK) and packs:
        return "No pack knows a language that you allow, so Whisper transcribes everything."
    if reason in (NO_PACK, NO_ALLOWED_PACK):
        return "No language pack is loaded, so Whisper transcribes everything."
    if reason == "the caller chose the route":
        return f"You chose {title_of(route)}, so nothing else was compared with it."
    if reason == NO_PRIMARY_LANGUAGE:
        return (
            "Whisper knows none of the languages that you allow, so only the packs were compared;"
            f" {title_of(route)} fits best."
        )
    if match := _NO_SPEECH.fullmatch(reason):
        return (
            f"Whisper finds no speech in this part (probability {float(match[1]):.0%}). Packs"
            " transcribe only speech, so Whisper kept it."
        )
    if match := _FLOOR.fullmatch(reason):
        return (
            f"The most likely pack, {match[1]}, was not sure enough of its language, so Whisper"
            " kept this part. It may be in a language that no pack here knows."
        )
    if match := _ODDS.fullmatch(reason):
        return _by_odds(match[1], float(match[2]), match[3] == "beyond", match[5], shares)
    if match := _TAGS.fullmatch(reason):
        return _by_tags(
            match[1], float(match[2]) - float(match[3]), match[4] == "beyond", match[6], route
        )
    return f"The selector says: {reason}."


def odds(lead: float) -> str:
    """Write log-odds as odds, such as "about 20 to 1", without their direction."""
    ratio = 1.0 if math.isnan(lead) else math.exp(min(abs(lead), 20.0))
    if ratio >= 1000:
        return "more than 1,000 to 1"
    if ratio < 1.5:
        return "about even"
    return f"about {round(ratio, -1 if ratio >= 100 else None)} to 1".replace(".0 ", " ")


def _shown(lead: float, pack: str, shares: Mapping[str, float] | None) -> float:
    """Return a pack's lead in log-odds as the bars show it; the selector's own without bars."""
    if shares is None:
        return lead
    mine, other = shares.get(pack, 0.0), shares.get(PRIMARY, 0.0)
    if not (mine and other):
        return math.inf if mine else -math.inf
    return math.log(mine / other)


def _by_odds(
    pack: str, lead: float, final: bool, rest: str, shares: Mapping[str, float] | None
) -> str:
    """Explain a decision by log-odds; `final` if no second pass was needed.

    The bars can lean the other way than the selector, which asks more of a pack than to be more
    likely. No odds are told then.
    """
    shown = _shown(lead, pack, shares)
    agree = (shown > 0) == (lead > 0)
    if final and lead > 0:
        told = f": {odds(shown)} against Whisper" if agree else ""
        return f"Pack {pack} recognised its language{told}."
    if final:
        told = f": {odds(shown)} against it" if agree else ""
        return (
            f"No pack recognised its language (the most likely one, {pack}{told}), so Whisper kept"
            " it."
        )
    close = f"It was close between Whisper and pack {pack}"
    if not (match := _SECOND_PASS.fullmatch(rest)):
        ahead = title_of(pack if lead > 0 else PRIMARY)
        if agree:
            return f"{close} ({odds(shown)}); {ahead} was ahead."
        return f"{close}; the selector's threshold decided for {ahead}."
    after, gap = float(match[1]), float(match[2])
    winner, loser = (f"pack {pack}", "Whisper's") if after > 0 else ("Whisper", f"pack {pack}'s")
    for_winner = gap if after > 0 else -gap
    if for_winner > 0.05:
        result = f"{winner[0].upper()}{winner[1:]}'s text fits the sound better"
    elif for_winner < -0.05:
        result = (
            f"Although {loser} text fits the sound a little better, all evidence together favours"
            f" {winner}"
        )
    else:
        result = f"Both texts fit the sound alike, and all evidence together favours {winner}"
    shown = _shown(after, pack, shares)
    told = f": {odds(shown)}" if (shown > 0) == (after > 0) else ""
    return f"{close}, so both transcribed it. {result}{told}."


def _by_tags(pack: str, lead: float, final: bool, rest: str, route: str) -> str:
    """Explain a decision by language tags, the rule of the paper."""
    if final and lead > 0:
        return f"Pack {pack} was more certain of its language than Whisper of any of its own."
    if final:
        return f"Whisper was more certain of its language than pack {pack} of its own."
    close = f"Whisper and pack {pack} were about equally certain of their languages"
    if not _LEAD.fullmatch(rest):
        return f"{close}; {title_of(route)} was ahead."
    return f"{close}, so both transcribed it; {title_of(route)}'s text is more probable."
