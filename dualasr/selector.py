"""The decoder selector: which pipeline transcribes a clip. Numbers in, a decision out; no model, no I/O.

The calibrated rule. Each pack tells "mine" from "not mine" twice: by its language head on the trunk and by its decoder's
first step, a softmax over its tags and `<|other|>`. The sum of both log-odds, scaled by the pack's own temperature and
offset (Platt 1999, fitted on dev), is z. With odds exp(z) of every pack against the primary's 1, the posterior over all
candidates sums to 1. Where the leader leads by less than tau, the primary and the best pack are both decoded, and the
difference of their log-probabilities per second of audio moves z.

The paper's rule (section 2.3): the higher log-probability of the best tag wins if the two differ by tau or more, else the
higher average log-probability per token, the secondary's with a bias beta. It cannot work for a pack with one tag,
whose log-probability is 0 whatever it hears.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize

PRIMARY = "primary"


@dataclass(frozen=True)
class SelectorOptions:
    """tau and beta are log-odds in the calibrated rule; in the paper's, log-probabilities (tau 0.5, beta 0.15)."""

    rule: Literal["calibrated", "paper"] = "calibrated"
    tau: float = 3.0
    beta: float = 0.0
    head_floor: float = -4.0  # a pack whose head gives less than this is not asked for its tag
    shortcut: bool = True  # only the pack with the best head runs its upper layers

    @classmethod
    def paper(cls) -> "SelectorOptions":
        return cls(rule="paper", tau=0.5, beta=0.15, shortcut=False)


@dataclass(frozen=True)
class Platt:
    """log-odds = score * scale + offset; scale is one over the temperature."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, score: float) -> float:
        return self.scale * score + self.offset


@dataclass(frozen=True)
class Calibration:
    """A pack's own calibration, kept in pack.json: of its head, of head + tag, and of the transcripts' duel."""

    head: Platt = Platt()
    tag: Platt = Platt()
    duel: Platt = Platt(1.0, 0.0)
    negatives: bool = False


@dataclass(frozen=True)
class Bid:
    """What one pack says of a clip. Log-odds are of "mine" against "not mine"; tag is None where it was not asked."""

    name: str
    languages: tuple[str, ...]
    head: float  # raw log-odds of the language head
    calibration: Calibration
    shares: tuple[float, ...]  # of its languages among themselves, sums to 1
    tag: float | None = None  # raw log-odds of the tag step
    best_tag: float = 0.0  # log-probability of the best tag among its tags alone (the paper's score)

    @property
    def log_odds(self) -> float:
        if self.tag is None:
            return self.calibration.head(self.head)
        return self.calibration.tag(self.head + self.tag)


@dataclass(frozen=True)
class Decision:
    """The route, whether it is settled, and why. `rival` is the pack to decode against where it is not."""

    route: str
    settled: bool
    reason: str
    rival: str | None = None


def language_probs(primary: Mapping[str, float], bids: Sequence[Bid]) -> dict[str, float]:
    """Posterior over every candidate language, most likely first: the primary's (given, sums to 1) and all packs'."""
    logs = np.array([0.0, *(bid.log_odds for bid in bids)])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    probs = {code: float(weights[0]) * p for code, p in primary.items()}
    for bid, weight in zip(bids, weights[1:], strict=True):
        for code, share in zip(bid.languages, bid.shares, strict=True):
            probs[code] = probs.get(code, 0.0) + float(weight) * share
    return dict(sorted(probs.items(), key=lambda item: -item[1]))


def select(primary_best_tag: float, bids: Sequence[Bid], options: SelectorOptions) -> Decision:
    """First decision, from tags alone. `primary_best_tag` is the log-probability of the primary's best tag."""
    if not bids:
        return Decision(PRIMARY, True, "no pack is loaded")
    if options.rule == "paper":
        best = max(bids, key=lambda bid: bid.best_tag)
        lead = best.best_tag - primary_best_tag
        what = f"best tag {best.best_tag:.2f} against the primary's {primary_best_tag:.2f}"
    else:
        best = max(bids, key=lambda bid: bid.log_odds)
        lead = best.log_odds + options.beta
        what = f"log-odds {lead:+.2f}"
    route = best.name if lead > 0 else PRIMARY
    if abs(lead) >= options.tau:
        return Decision(route, True, f"{best.name}: {what}, beyond tau {options.tau}", best.name)
    return Decision(route, False, f"{best.name}: {what}, within tau {options.tau}", best.name)


def settle(first: Decision, bid: Bid, primary, secondary, seconds: float, options: SelectorOptions) -> Decision:
    """Second decision, from both transcripts (`logprob`, `avg_logprob`) of a clip of so many seconds."""
    if options.rule == "paper":
        lead = secondary.avg_logprob + options.beta - primary.avg_logprob
        what = f"average log-probability leads by {lead:+.2f}"
    else:
        gap = (secondary.logprob - primary.logprob) / max(seconds, 0.1)
        lead = bid.log_odds + options.beta + bid.calibration.duel(gap)
        what = f"log-odds {lead:+.2f} after both were decoded ({gap:+.1f} log-probability a second)"
    return Decision(bid.name if lead > 0 else PRIMARY, True, f"{first.reason}; {what}", bid.name)


def fit_platt(mine: Sequence[float], others: Sequence[float]) -> Platt:
    """Platt scaling of raw scores, both classes weighing the same, with Platt's smoothed targets; scale >= 0."""
    scores = np.concatenate([mine, others]).astype(float)
    targets = np.concatenate([np.full(len(mine), (len(mine) + 1) / (len(mine) + 2)),
                              np.full(len(others), 1 / (len(others) + 2))])  # fmt: skip
    weights = np.concatenate([np.full(len(mine), 0.5 / len(mine)), np.full(len(others), 0.5 / len(others))])
    centre, spread = scores.mean(), scores.std() + 1e-6
    unit = (scores - centre) / spread

    def loss(p):
        z = np.exp(p[0]) * unit + p[1]
        return float((weights * (np.logaddexp(0, z) - targets * z)).sum() + 1e-3 * (p[0] ** 2 + p[1] ** 2))

    slope, offset = minimize(loss, np.array([0.0, 0.0])).x
    return Platt(float(np.exp(slope) / spread), float(offset - np.exp(slope) * centre / spread))
