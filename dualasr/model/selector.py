"""The decoder selector: which pipeline transcribes a window. Numbers in, a decision out; no model,
no files.

The calibrated rule, the default, in steps. All scores are log-odds of "this language is mine"
against "it is not".

1. The primary's first decoder step gives the probability p of its best language. Its uncertainty is
u = log(1 - p).
2. Every pack k scores the window with its language head on the trunk: head_k.
3. Packs never heard each other's languages, so several may claim one window. The statistics of
   their languages are compared (language_statistics.py); a pack that fits worse than the best pays
   a penalty:

       penalty_k = discriminant_weight x (log-density of the best pack - log-density of pack k)

4. The packs with the highest head scores (at most `max_candidates`, none below `head_threshold`)
   run their upper layers and the first step of their decoder, a softmax over their tags and
   `<|other|>`: tag_k.
5. A logistic regression of the pack's own, fitted on its dev clips, puts the scores together
(`Calibration`):

       z_k = w_1 head_k + w_2 tag_k + w_3 u + w_0 - penalty_k              (head_k alone, where there is no tag_k)

6. The best pack takes the window if z + beta > 0 (`select`). It stays with the primary if the
   primary hears no speech (probability above `no_speech`), or if z is below the pack's floor
   (`floors`, fitted for a set of packs).
7. If |z + beta| < tau the decision is not final: the primary and the pack both decode, and z is
   computed anew from z, the pack's lead in log-probability a second of audio, and the primary's
   mean negative log-probability a token (`rescore`).
8. With the primary's odds at 1 and those of pack k at exp(z_k), all candidates' probabilities sum
to 1 (`language_probs`).

The paper's rule (arXiv 2406.07842, section 2.3): the higher log-probability of the best tag wins if
the two differ by tau or more, else the higher average log-probability a token, the secondary's with
a bias beta. It cannot work for a pack with one tag, whose log-probability is 0 whatever the sound
is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

PRIMARY = "primary"
MAX_LEAD = 3.0  # of a transcript over another, in log-probability a second


class Transcript(Protocol):
    """What the second pass needs of a transcript: `Hypothesis` has both."""

    @property
    def logprob(self) -> float: ...

    @property
    def avg_logprob(self) -> float: ...


@dataclass(frozen=True)
class Logistic:
    """log-odds = weights . scores + offset; with one score the weight is one over a temperature
    (Platt 1999).
    """

    weights: tuple[float, ...] = (1.0,)
    offset: float = 0.0

    def __call__(self, *scores: float) -> float:
        return (
            sum(weight * score for weight, score in zip(self.weights, scores, strict=True))
            + self.offset
        )


@dataclass(frozen=True)
class SelectorOptions:
    """Settings of the selector.

    tau and beta are log-odds in the calibrated rule; in the paper's, log-probabilities (tau 0.5,
    beta 0.15). The calibrated rule's beta is log(1 / 2): a window taken from a language that was
    served before counts as two that a pack did not get (costs move a threshold by their log-ratio,
    Elkan 2001).

    Attributes:
        rule: "calibrated" or "paper".
        tau: The first decision is final if its lead is at least this. beta: Added to a pack's lead.
        discriminant_weight: Share of the log-density by which a pack lies behind the best that is
        its penalty. head_threshold: Packs whose head score, penalty taken off, is not above this do
        not run their upper layers. max_candidates: Most packs that run their upper layers for a
        window; None for all. no_speech: The primary keeps a window whose no-speech probability is
        above this. floors: By pack, the least log-odds of the first pass with which it may take a
        window. posterior: Applied to a pack's log-odds for `language_probs`; it changes no route.
        packs: Names of the packs that the settings were fitted for; () for any.
    """

    rule: Literal["calibrated", "paper"] = "calibrated"
    tau: float = 3.0
    beta: float = -0.7
    discriminant_weight: float = 0.2
    head_threshold: float = -4.0
    max_candidates: int | None = 2
    no_speech: float = 0.6
    floors: Mapping[str, float] = field(default_factory=dict)
    posterior: Logistic = Logistic()
    packs: tuple[str, ...] = ()

    @classmethod
    def paper(cls) -> "SelectorOptions":
        """Return the settings of the paper's rule."""
        return cls(rule="paper", tau=0.5, beta=0.15, max_candidates=None)


@dataclass(frozen=True)
class Calibration:
    """A pack's own calibration, kept in pack.json.

    The default second pass is a prior that a pack's few clips move; it was fitted on 340 clips of
    four new languages and 400 of the built-in base's own, of sentences that are in no corpus here
    (recipes/fleurs/LOG.md).

    Attributes:
        head: Of the head's log-odds.
        tag: Of the head's log-odds, the tag step's, and the primary's uncertainty. second_pass: Of
        the log-odds so far, the pack's lead in log-probability a second of audio, and the primary's
        negative log-probability a token. negatives: Whether it was fitted against clips in other
        languages; False means the defaults.
    """

    head: Logistic = Logistic()
    tag: Logistic = Logistic((1.0, 1.0, 0.0))
    second_pass: Logistic = Logistic((0.64, 0.37, 6.8), -2.85)
    negatives: bool = False


@dataclass(frozen=True)
class PackScore:
    """One pack's scores of one window. Log-odds are of "mine" against "not mine".

    Attributes:
        name: The pack's name.
        languages: Codes of its languages that may be heard.
        head: Raw log-odds of the language head.
        calibration: The pack's calibration.
        shares: Probabilities of its languages among themselves; they sum to 1.
        primary_uncertainty: log(1 - p), p the probability of the primary's best language.
        tag: Raw log-odds of the tag step; None where it was not run.
        best_tag: Log-probability of the best tag among the pack's tags alone (the paper's score).
        penalty: Log-odds taken off because another pack's statistics fit the window better.
        rescored: Log-odds after the second pass; None where there was none.
    """

    name: str
    languages: tuple[str, ...]
    head: float
    calibration: Calibration
    shares: tuple[float, ...]
    primary_uncertainty: float = 0.0
    tag: float | None = None
    best_tag: float = 0.0
    penalty: float = 0.0
    rescored: float | None = None

    @property
    def head_log_odds(self) -> float:
        """Calibrated log-odds of the language head alone, penalty taken off."""
        return self.calibration.head(self.head) - self.penalty

    @property
    def log_odds(self) -> float:
        """The latest calibrated log-odds: of the second pass, else of head and tag, else of the
        head.
        """
        if self.rescored is not None:
            return self.rescored
        if self.tag is None:
            return self.head_log_odds
        return self.calibration.tag(self.head, self.tag, self.primary_uncertainty) - self.penalty


@dataclass(frozen=True)
class Decision:
    """Where a window goes, whether that is final, and why. `runner_up` is the pack to decode with
    where it is not.
    """

    route: str
    final: bool
    reason: str
    runner_up: str | None = None


def language_probs(
    primary: Mapping[str, float], scores: Sequence[PackScore], posterior: Logistic = Logistic()
) -> dict[str, float]:
    """Return the probability of every candidate language, the most likely first.

    Args:
        primary: The primary's languages and their probabilities, which sum to 1; {} where it may
            hear none.
        scores: Every pack's scores of the window.
        posterior: Applied to each pack's log-odds.
    """
    logs = np.array([0.0 if primary else -np.inf, *(posterior(score.log_odds) for score in scores)])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    probs = {code: float(weights[0]) * p for code, p in primary.items()}
    for score, weight in zip(scores, weights[1:], strict=True):
        for code, share in zip(score.languages, score.shares, strict=True):
            probs[code] = probs.get(code, 0.0) + float(weight) * share
    return dict(sorted(probs.items(), key=lambda item: -item[1]))


def select(
    primary_best_tag: float,
    scores: Sequence[PackScore],
    options: SelectorOptions,
    *,
    primary: bool = True,
    no_speech_prob: float = 0.0,
) -> Decision:
    """Decide from the first steps alone, before anything is decoded (steps 6 and 7 of the module's
    text).

    Args:
        primary_best_tag: Log-probability of the primary's best language; the paper's rule needs it.
        scores: Every pack's scores of the window. options: The selector's settings. primary:
        Whether the primary knows a language that may be heard; if not, the best pack takes the
        window. no_speech_prob: The primary's; the paper's rule uses neither this nor the floors.
    """
    if not scores:
        return Decision(PRIMARY, True, "no pack is loaded")
    best = max(
        [score for score in scores if score.tag is not None] or scores,
        key=lambda score: score.log_odds,
    )
    if not primary:
        return Decision(best.name, True, "no language of the primary may be heard", best.name)
    if options.rule == "paper":
        best = max(scores, key=lambda score: score.best_tag)
        lead = best.best_tag - primary_best_tag
        what = f"best tag {best.best_tag:.2f} against the primary's {primary_best_tag:.2f}"
    else:
        if no_speech_prob > options.no_speech:
            reason = f"no speech: probability {no_speech_prob:.2f}, limit {options.no_speech:.2f}"
            return Decision(PRIMARY, True, reason, best.name)
        floor = options.floors.get(best.name, -np.inf)
        if best.log_odds < floor:
            return Decision(
                PRIMARY,
                True,
                f"{best.name}: log-odds {best.log_odds:+.2f}, floor {floor:+.2f}",
                best.name,
            )
        lead = best.log_odds + options.beta
        what = f"log-odds {lead:+.2f}"
    route = best.name if lead > 0 else PRIMARY
    final = abs(lead) >= options.tau
    reason = f"{best.name}: {what}, {'beyond' if final else 'within'} tau {options.tau}"
    return Decision(route, final, reason, best.name)


def rescore(
    first: Decision,
    score: PackScore,
    primary: Transcript,
    secondary: Transcript,
    seconds: float,
    options: SelectorOptions,
) -> tuple[Decision, PackScore]:
    """Decide again from both transcripts of a window (the second pass).

    Args:
        first: The decision that was not final.
        score: The runner-up's scores.
        primary: The primary's transcript.
        secondary: The runner-up's.
        seconds: Length of the window.
        options: The selector's settings.

    Returns:
        The final decision, and the scores with the log-odds after the second pass.
    """
    if options.rule == "paper":
        lead = secondary.avg_logprob + options.beta - primary.avg_logprob
        what = f"average log-probability leads by {lead:+.2f}"
    else:
        gap, uncertainty = second_pass_scores(primary, secondary, seconds)
        score = replace(
            score, rescored=score.calibration.second_pass(score.log_odds, gap, uncertainty)
        )
        lead = score.log_odds + options.beta
        what = f"log-odds {lead:+.2f} after both were decoded ({gap:+.1f} log-probability a second)"
    return (
        Decision(score.name if lead > 0 else PRIMARY, True, f"{first.reason}; {what}", score.name),
        score,
    )


def second_pass_scores(
    primary: Transcript, secondary: Transcript, seconds: float
) -> tuple[float, float]:
    """Return two scores of a pair of transcripts of a window that lasts so many seconds.

    The pack's lead in log-probability a second of audio, and the primary's negative log-probability
    a token. The lead is limited to +-3: a transcript that went wrong altogether says no more than a
    poor one.
    """
    lead = (secondary.logprob - primary.logprob) / max(seconds, 0.1)
    return min(max(lead, -MAX_LEAD), MAX_LEAD), -primary.avg_logprob
