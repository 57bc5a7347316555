"""The decoder selector: which pipeline transcribes a clip. Numbers in, a decision out; no model, no I/O.

The calibrated rule. Each pack tells "mine" from "not mine" twice: by its language head on the trunk and by its decoder's first
step, a softmax over its tags and `<|other|>`. The primary's own first step tells how sure it is of its best language. A
logistic regression of the pack's own on the three, fitted on dev, gives z. A pack may take for its own a language that it
never heard, so that packs are compared by how well their languages' statistics fit the clip (language_statistics.py), too: each
cedes a share of what it lies behind. With odds exp(z) of every pack against the primary's 1, the posterior over all
candidates sums to 1. Where the lead is less than tau the primary and the best pack are both decoded, and z is weighed anew
with the difference of their log-probabilities per second of audio and with how unsure the primary is of a token: a duel.
Where the primary takes a window for no speech it keeps it: what is not speech was never taught to a pack. Of a set of packs
beta, floors against unknown languages and the posterior may be fitted together (set_calibration.py).

The paper's rule (section 2.3): the higher log-probability of the best tag wins if the two differ by tau or more, else the
higher average log-probability per token, the secondary's with a bias beta. It cannot work for a pack with one tag,
whose log-probability is 0 whatever it hears.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

PRIMARY = "primary"
MOST_LEAD = 3.0  # of a transcript over another, in log-probability a second


@dataclass(frozen=True)
class Logistic:
    """log-odds = weights . scores + offset; with one score the weight is one over a temperature (Platt 1999)."""

    weights: tuple[float, ...] = (1.0,)
    offset: float = 0.0

    def __call__(self, *scores: float) -> float:
        return sum(weight * score for weight, score in zip(self.weights, scores, strict=True)) + self.offset


@dataclass(frozen=True)
class SelectorOptions:
    """tau and beta are log-odds in the calibrated rule; in the paper's, log-probabilities (tau 0.5, beta 0.15).

    The calibrated rule's beta is log(1 / 2): a clip taken from a language that was served before counts as two left behind
    (costs move a threshold by their log-ratio, Elkan 2001).
    """

    rule: Literal["calibrated", "paper"] = "calibrated"
    tau: float = 3.0
    beta: float = -0.7  # added to a pack's lead
    between: float = 0.2  # of the log-density that a pack lies behind the best of all, what it cedes
    head_floor: float = -4.0  # a pack that has less than this before it is asked for its tag is not asked
    asked: int | None = 2  # most packs, those that have most, that run their upper layers; None: all
    no_speech: float = 0.6  # the primary keeps a clip that it thinks is no speech with more than this probability
    floors: Mapping[str, float] = field(default_factory=dict)  # by pack: it takes no clip with less log-odds before a duel
    posterior: Logistic = Logistic()  # of a pack's log-odds, for `language_probs`; it moves no route
    packs: tuple[str, ...] = ()  # that it was fitted for; (): any

    @classmethod
    def paper(cls) -> "SelectorOptions":
        return cls(rule="paper", tau=0.5, beta=0.15, asked=None)


@dataclass(frozen=True)
class Calibration:
    """A pack's own calibration, kept in pack.json.

    head: of the head's log-odds. tag: of the head's, the tag step's and the primary's doubt. duel: of the log-odds so far,
    the pack's lead in log-probability a second of audio, and the primary's negative log-probability a token.

    The default duel is a prior that a pack's few clips move; it was fitted on 340 clips of four new languages and 400 of the
    built-in base's own, of sentences that are in no corpus here (recipes/fleurs/LOG.md).
    """

    head: Logistic = Logistic()
    tag: Logistic = Logistic((1.0, 1.0, 0.0))
    duel: Logistic = Logistic((0.64, 0.37, 6.8), -2.85)
    negatives: bool = False


@dataclass(frozen=True)
class Bid:
    """What one pack says of a clip. Log-odds are of "mine" against "not mine"; tag is None where it was not asked."""

    name: str
    languages: tuple[str, ...]
    head: float  # raw log-odds of the language head
    calibration: Calibration
    shares: tuple[float, ...]  # of its languages among themselves, sums to 1
    doubt: float = 0.0  # log-probability that the primary's best language is wrong, as the primary sees it
    tag: float | None = None  # raw log-odds of the tag step
    best_tag: float = 0.0  # log-probability of the best tag among its tags alone (the paper's score)
    gives_way: float = 0.0  # log-odds ceded to the pack whose statistics fit best
    duelled: float | None = None  # log-odds after a duel

    @property
    def before_asking(self) -> float:
        return self.calibration.head(self.head) - self.gives_way

    @property
    def log_odds(self) -> float:
        if self.duelled is not None:
            return self.duelled
        if self.tag is None:
            return self.before_asking
        return self.calibration.tag(self.head, self.tag, self.doubt) - self.gives_way


@dataclass(frozen=True)
class Decision:
    """The route, whether it is settled, and why. `rival` is the pack to decode against where it is not."""

    route: str
    settled: bool
    reason: str
    rival: str | None = None


def language_probs(primary: Mapping[str, float], bids: Sequence[Bid], posterior: Logistic = Logistic()) -> dict[str, float]:
    """Posterior over every candidate language, most likely first: the primary's (given, sums to 1; {}: none) and all packs'."""
    logs = np.array([0.0 if primary else -np.inf, *(posterior(bid.log_odds) for bid in bids)])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    probs = {code: float(weights[0]) * p for code, p in primary.items()}
    for bid, weight in zip(bids, weights[1:], strict=True):
        for code, share in zip(bid.languages, bid.shares, strict=True):
            probs[code] = probs.get(code, 0.0) + float(weight) * share
    return dict(sorted(probs.items(), key=lambda item: -item[1]))


def select(primary_best_tag: float, bids: Sequence[Bid], options: SelectorOptions, *, primary: bool = True,
           no_speech_prob: float = 0.0) -> Decision:  # fmt: skip
    """First decision, from tags alone. `primary_best_tag` is the log-probability of the primary's best tag.

    `no_speech_prob` is the primary's, too; the paper's rule does not look at it, nor at floors. Without `primary`, that is
    where it knows none of the languages that may be heard, the best pack has the clip.
    """
    if not bids:
        return Decision(PRIMARY, True, "no pack is loaded")
    if not primary:
        best = max([bid for bid in bids if bid.tag is not None] or bids, key=lambda bid: bid.log_odds)
        return Decision(best.name, True, "no language of the primary may be heard", best.name)
    if options.rule == "paper":
        best = max(bids, key=lambda bid: bid.best_tag)
        lead = best.best_tag - primary_best_tag
        what = f"best tag {best.best_tag:.2f} against the primary's {primary_best_tag:.2f}"
    else:
        best = max([bid for bid in bids if bid.tag is not None] or bids, key=lambda bid: bid.log_odds)
        if no_speech_prob > options.no_speech:
            reason = f"no speech: probability {no_speech_prob:.2f}, limit {options.no_speech:.2f}"
            return Decision(PRIMARY, True, reason, best.name)
        floor = options.floors.get(best.name, -np.inf)
        if best.log_odds < floor:
            return Decision(PRIMARY, True, f"{best.name}: log-odds {best.log_odds:+.2f}, floor {floor:+.2f}", best.name)
        lead = best.log_odds + options.beta
        what = f"log-odds {lead:+.2f}"
    route = best.name if lead > 0 else PRIMARY
    settled = abs(lead) >= options.tau
    reason = f"{best.name}: {what}, {'beyond' if settled else 'within'} tau {options.tau}"
    return Decision(route, settled, reason, best.name)


def settle(first: Decision, bid: Bid, primary, secondary, seconds: float, options: SelectorOptions) -> tuple[Decision, Bid]:
    """Second decision, from both transcripts (`logprob`, `avg_logprob`) of a clip of so many seconds; the bid it leaves."""
    if options.rule == "paper":
        lead = secondary.avg_logprob + options.beta - primary.avg_logprob
        what = f"average log-probability leads by {lead:+.2f}"
    else:
        gap, doubt = duel_scores(primary, secondary, seconds)
        bid = replace(bid, duelled=bid.calibration.duel(bid.log_odds, gap, doubt))
        lead = bid.log_odds + options.beta
        what = f"log-odds {lead:+.2f} after both were decoded ({gap:+.1f} log-probability a second)"
    return Decision(bid.name if lead > 0 else PRIMARY, True, f"{first.reason}; {what}", bid.name), bid


def duel_scores(primary, secondary, seconds: float) -> tuple[float, float]:
    """Of two transcripts (`logprob`, `avg_logprob`): the pack's lead a second of audio, the primary's doubt a token.

    The lead is cut at 3 either way: a transcript that ran astray says no more than a poor one.
    """
    lead = (secondary.logprob - primary.logprob) / max(seconds, 0.1)
    return min(max(lead, -MOST_LEAD), MOST_LEAD), -primary.avg_logprob


