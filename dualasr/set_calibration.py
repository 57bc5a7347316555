"""What a set of packs decides together, fitted on dev audio of everybody's languages and on audio that nobody knows.

Two thresholds. A pack takes a clip if its log-odds are above the floor before a duel and above -beta after it. The floor is
what unknown languages are told by: the primary doubts those, and a duel holds that against it. Of all pairs that leave no more
of the unknown clips to packs than is allowed, the one that routes dev best is taken; what dev cannot tell stays as it was.

A clip needs to be heard once: it is a pack's for every -beta below its log-odds after the duel, which count only as far as tau
from those before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm import tqdm

from dualasr.audio import SHORTEST, Sound, load_audio
from dualasr.cores import core_pool, one_ahead
from dualasr.errors import AudioError, PackError
from dualasr.metrics import reliability
from dualasr.model import DecodeOptions, DualWhisper
from dualasr.search import Hypothesis
from dualasr.selector import PRIMARY, Bid, Logistic, SelectorOptions, duel_scores, language_probs, select, settle

STEP = 0.01  # of both thresholds, in log-odds


@dataclass(frozen=True)
class SetOptions:
    """most_stolen: share of unknown clips that packs may take. taken: what a clip taken from the primary counts, beside one
    that a pack does not get or another pack gets (costs move a threshold by their log-ratio, Elkan 2001)."""

    most_stolen: float = 0.01
    taken: float = 2.0
    beam: int = 1
    batch: int = 16


@dataclass(frozen=True)
class Claim:
    """What everybody says of a clip. `pipeline` knows its language, None for nobody; `rival` is the pack that leads."""

    language: str
    pipeline: str | None
    seconds: float
    bids: tuple[Bid, ...]
    rival: str
    first: Hypothesis  # the primary's
    second: Hypothesis  # the rival's

    @property
    def bid(self) -> Bid:
        return next(bid for bid in self.bids if bid.name == self.rival)


def hear_set(model: DualWhisper, rows: Sequence[tuple[Sound, str, str | None]], options: SetOptions = SetOptions(), *,
             progress: bool | None = None) -> tuple[list[Claim], list[str]]:  # fmt: skip
    """Claims of (sound, language, pipeline), each decoded by the primary and by the pack that leads.

    Of a sound longer than the base's window its beginning is heard. Second, why sounds were left out.
    """
    claims, lost, decode = [], [], DecodeOptions(beam=options.beam)
    leading = replace(model.selector, tau=0.0)  # settles at once
    groups = [rows[first : first + options.batch] for first in range(0, len(rows), options.batch)]

    def hear(group):
        read, unread = [], []
        for row in group:
            try:
                read.append((row, _beginning(row[0], model)))
            except AudioError as error:
                unread.append(str(error))
        return [row for row, _ in read], model.listen([samples for _, samples in read]) if read else None, unread

    with core_pool() as (pool, _):
        for _, (group, heard, unread) in tqdm(one_ahead(pool, hear, groups), "hear", len(groups), unit="batch",
                                              disable=None if progress is None else not progress):  # fmt: skip
            lost += unread
            if not group:
                continue
            bids, first = model.bids(heard)[0], model.decode(heard, PRIMARY, options=decode)[0]
            rivals, second = [select(0.0, row, leading).rival for row in bids], {}
            for name in dict.fromkeys(rivals):
                rows_of = [i for i, rival in enumerate(rivals) if rival == name]
                second |= zip(rows_of, model.decode(heard.of(rows_of), name, options=decode)[0], strict=True)
            claims += [Claim(*row[1:], heard.seconds[i], tuple(bids[i]), rivals[i], first[i], second[i])
                       for i, row in enumerate(group)]  # fmt: skip
    return claims, lost


def _beginning(sound: Sound, model: DualWhisper) -> np.ndarray:
    """(samples,), at most the window. Raises AudioError."""
    end = sound.start + model.backbone.window_s
    samples = load_audio(replace(sound, end=end if sound.end is None else min(end, sound.end)))
    if len(samples) < SHORTEST:
        raise AudioError(f"{sound}: shorter than {SHORTEST} samples")
    return samples[: model.backbone.window_samples]


def decide(claim: Claim, selector: SelectorOptions) -> tuple[str, float, bool, list[Bid]]:
    """The route, its posterior, whether both were decoded, and the bids after that."""
    first = decision = select(0.0, claim.bids, selector)
    bid = claim.bid
    if not first.settled:
        decision, bid = settle(first, bid, claim.first, claim.second, claim.seconds, selector)
    row = [bid if other.name == bid.name else other for other in claim.bids]
    probs = language_probs({PRIMARY: 1.0}, row, selector.posterior)
    share = {bid.name: sum(probs[code] for code in bid.languages) for bid in row} | {PRIMARY: probs[PRIMARY]}
    return decision.route, share[decision.route], not first.settled, row


def measure(dev: Sequence[Claim], unknown: Sequence[Claim], selector: SelectorOptions, routes: Sequence[str]) -> dict:
    """accuracy; confusion, by language and route; calibration of the route's posterior (10 bins of equal mass); twice, the
    share of dev clips decoded twice; stolen, the share of unknown clips that packs take. None where there is no clip."""
    found = [decide(claim, selector) for claim in dev]
    right = [route == claim.pipeline for claim, (route, *_) in zip(dev, found, strict=True)]
    confusion = {code: dict.fromkeys(routes, 0) for code in sorted({claim.language for claim in dev})}
    for claim, (route, *_) in zip(dev, found, strict=True):
        confusion[claim.language][route] += 1
    stolen = [decide(claim, selector)[0] != PRIMARY for claim in unknown]
    return {"accuracy": _mean(right), "confusion": confusion, "twice": _mean([twice for _, _, twice, _ in found]),
            "calibration": reliability([share for _, share, *_ in found], right, equal_mass=True),
            "stolen": _mean(stolen)}  # fmt: skip


def _mean(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def fit_set(dev: Sequence[Claim], unknown: Sequence[Claim], selector: SelectorOptions,
            options: SetOptions = SetOptions()) -> SelectorOptions:  # fmt: skip
    """The selector with beta, floor and posterior of the set; `dev` and `unknown` were heard under `selector`.

    Without dev clips of both the primary's and packs' languages beta stays, without unknown clips there is no floor. Raises
    PackError for a selector of another rule.
    """
    if selector.rule != "calibrated":
        raise PackError(f"The {selector.rule} rule has nothing to calibrate; give another --selector.")
    floor, beta = _thresholds(dev, unknown, selector, options)
    selector = replace(selector, floor=floor, beta=beta)
    return replace(selector, posterior=_posterior(dev, selector))


def _posterior(dev: Sequence[Claim], selector: SelectorOptions) -> Logistic:
    """The weight and offset of log-odds that give the right pipelines of dev the most likely posterior.

    The log of the weight is held to 0 by a Gaussian of deviation 0.5, the offset by one of 1: what few clips say counts little.
    """
    odds = np.array([[bid.log_odds for bid in decide(claim, selector)[3]] for claim in dev])
    names = [PRIMARY, *(bid.name for bid in dev[0].bids)] if dev else []
    right = [names.index(claim.pipeline) for claim in dev]

    def loss(p) -> float:
        logs = np.column_stack([np.zeros(len(dev)), np.exp(p[0]) * odds + p[1]])
        return float((logsumexp(logs, 1) - logs[range(len(dev)), right]).sum() + 2 * p[0] ** 2 + p[1] ** 2 / 2)

    if len(set(right)) < 2:
        return selector.posterior
    weight, offset = minimize(loss, [0.0, 0.0]).x
    return Logistic((round(float(np.exp(weight)), 4),), round(float(offset), 4))


def _scores(claims: Sequence[Claim], tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the leading pack before a duel, and as they count for beta: (clips,) each."""
    before = np.array([claim.bid.log_odds for claim in claims])
    after = [c.bid.calibration.duel(c.bid.log_odds, *duel_scores(c.first, c.second, c.seconds)) for c in claims]
    return before, np.clip(np.array(after), before - tau, before + tau)


def _thresholds(dev: Sequence[Claim], unknown: Sequence[Claim], selector: SelectorOptions,
                options: SetOptions) -> tuple[float | None, float]:  # fmt: skip
    """(floor, beta) that route dev at the least cost with few enough unknown clips taken; a floor only where those need one."""
    (before, last), (unknown_before, unknown_last) = _scores(dev, selector.tau), _scores(unknown, selector.tau)
    is_primary = np.array([claim.pipeline == PRIMARY for claim in dev], bool)
    is_rival = np.array([claim.pipeline == claim.rival for claim in dev], bool)
    now, allowed = -selector.beta, int(options.most_stolen * len(unknown) + 1e-9)
    both = is_primary.any() and is_rival.any()
    grid = np.arange(min(now, last.min()) - 1, max(now, last.max()) + 1, STEP).round(2) if both else np.array([now])
    best, beta = None, selector.beta
    for floor in [None, *sorted({round(ceil(score / STEP) * STEP, 2) for score in unknown_before})]:
        dev_last, taken = (np.where(side > (-np.inf if floor is None else floor), scores, -np.inf)
                           for side, scores in ((before, last), (unknown_before, unknown_last)))  # fmt: skip
        least = np.sort(taken)[::-1][allowed] if len(taken) > allowed else -np.inf
        primary, packs = np.sort(dev_last[is_primary]), np.sort(dev_last[is_rival])
        cost = options.taken * (len(primary) - np.searchsorted(primary, grid, "right")) + np.searchsorted(packs, grid, "right")
        free, cost = cost.min(), np.where(grid >= least, cost, np.inf)
        if best is None or cost.min() < best[0]:
            best = cost.min(), floor, np.flatnonzero(cost == cost.min())
        if floor is None and cost.min() == free:
            break  # unknown clips stand in no way
    _, floor, good = best
    if int(np.abs(grid - now).argmin()) not in good:
        widest = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
        beta = round(-float(grid[widest[len(widest) // 2]]), 2)
    return floor, beta
