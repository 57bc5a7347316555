"""The decoder selector: it decides which pipeline transcribes a window.

It takes numbers and gives a decision; it knows no model and no files. All scores are log-odds of
"the window is in a language of this pack" against "it is not". The calibrated rule, the default:

1. The primary's first decoder step gives the probability p of its best language. Its uncertainty
   is u = log(1 - p).
2. Each pack k scores the window with its language head on the trunk: head_k.
3. Packs are trained apart, so several may claim one window. The statistics of their languages are
   compared (language_statistics.py). A pack that fits worse than the best one pays a penalty:

       penalty_k = discriminant_weight x (log-density of the best pack - log-density of pack k)

4. The packs with the highest head scores run their upper layers and the first step of their
   decoder: at most `max_candidates` packs, and only packs whose head score is above
   `head_threshold`. The step gives a softmax over the pack's tags and `<|other|>`: tag_k.
   The pack's CTC head writes its best path, too. Speech of another language becomes text that the
   head is unsure of and that looks unlike the language: c_k is its confidence, the negative mean
   entropy of the frames that write a character, and t_k how much likelier the text is under the
   pack's character n-grams (ngrams.py) than under its single characters, over the square root of
   its length.
5. A logistic regression, fitted on the pack's dev clips (`Calibration`), combines the scores:

       z_k = w_1 head_k + w_2 tag_k + w_3 u + w_4 c_k + w_5 t_k + w_0 - penalty_k
       z_k = w_1 head_k + w_0 - penalty_k           (where the upper layers did not run)

6. The pack with the highest z takes the window if z + beta > 0 (`select`). The primary keeps the
   window if its no-speech probability is above `no_speech`, or if z is below the pack's floor: that
   of its calibration, which nearly all of its own dev clips are above, or that of `floors`, fitted
   for a set of packs.
7. If |z + beta| < tau, the decision is not final: the primary and the pack both decode the window.
   z is then computed again from the first z, the pack's lead in log-probability per second of
   audio, and the primary's negative mean log-probability per token (`rescore`).
8. The primary has odds 1 and pack k has odds exp(z_k). Divided by their sum, they are the
   probabilities of the candidate languages (`language_probs`).

The paper's rule (arXiv 2406.07842, section 2.3): if the log-probabilities of the two best tags
differ by tau or more, the higher one wins. Otherwise the higher mean log-probability per token
wins, where the secondary's has a bias beta. This rule cannot work for a pack with one tag: the
log-probability of its tag is 0 for every window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

PRIMARY = "primary"
NO_PACK, NO_ALLOWED_PACK = "no pack is loaded", "no pack knows an allowed language"
NO_PRIMARY_LANGUAGE = "no language of the primary is allowed"  # a decision's reason
MAX_LEAD = 3.0  # largest lead of a transcript over another, in log-probability per second


class Transcript(Protocol):
    """A transcript as the second pass needs it: `Hypothesis` has both values."""

    @property
    def logprob(self) -> float: ...

    @property
    def avg_logprob(self) -> float: ...


@dataclass(frozen=True)
class Logistic:
    """A logistic regression: log-odds = weights . scores + offset.

    With one score, the weight is one over a temperature (Platt 1999).
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

    In the calibrated rule, tau and beta are log-odds. In the paper's rule they are
    log-probabilities (tau 0.5, beta 0.15). The calibrated rule's beta is log(1 / 2): a window in a
    language of the primary that a pack takes costs twice as much as a window of its own that a
    pack misses (costs move a threshold by their log-ratio, Elkan 2001).

    Attributes:
        rule: "calibrated" or "paper".
        tau: The first decision is final if its lead is at least this.
        beta: Added to a pack's lead.
        discriminant_weight: Factor from a pack's distance to the best-fitting pack, in log-density,
            to its penalty, in log-odds.
        head_threshold: A pack runs its upper layers only if its head score minus its penalty is
            above this, in log-odds.
        max_candidates: How many packs at most run their upper layers for a window; None for all.
        no_speech: The primary keeps a window if its no-speech probability is above this.
        floors: By pack, the lowest log-odds of the first pass with which it may take a window, in
            place of the floor of its calibration.
        posterior: Applied to a pack's log-odds for `language_probs`; it changes no route.
        packs: Names of the packs that the settings were fitted for; () for any packs.
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
    """A pack's own calibration, stored in pack.json.

    The default second pass is a prior, which a pack's few clips then move. It was fitted on 340
    clips of four new languages and 400 clips of the built-in base's own languages. Their sentences
    are in no corpus of this repository (recipes/fleurs/LOG.md).

    Attributes:
        head: Calibrates the head's log-odds alone.
        tag: Combines the head's log-odds, the tag step's log-odds and the primary's uncertainty.
        second_pass: Combines the first pass's log-odds, the pack's lead in log-probability per
            second of audio, and the primary's negative mean log-probability per token.
        text: Added to `tag`: weighs the CTC head's confidence and the n-grams' score of its text.
        floor: The lowest log-odds of the first pass with which the pack may take a window; None
            for any.
        negatives: Whether it was fitted against clips in other languages; False means that these
            are the defaults.
    """

    head: Logistic = Logistic()
    tag: Logistic = Logistic((1.0, 1.0, 0.0))
    second_pass: Logistic = Logistic((0.64, 0.37, 6.8), -2.85)
    text: Logistic = Logistic((0.0, 0.0))
    floor: float | None = None
    negatives: bool = False


@dataclass(frozen=True, kw_only=True)
class PackScore:
    """One pack's scores of one window; log-odds are of "its language" against "not its language".

    Attributes:
        name: The pack's name.
        languages: Codes of its languages that are allowed.
        head: Raw log-odds of the language head.
        calibration: The pack's calibration.
        shares: Probability of each of `languages` among them; they sum to 1.
        primary_uncertainty: log(1 - p), where p is the probability of the primary's best language.
        tag: Raw log-odds of the tag step; None where it was not run.
        confidence: Negative mean entropy of the CTC head's frames that write a character, in nats.
        phonotactics: How much likelier the head's text is under the pack's n-grams than under its
            single characters: sum of the differences of log-probability, over the square root of
            the number of characters. 0 for a pack without n-grams.
        best_tag: Log-probability of the best tag among the pack's own tags (the paper's score).
        penalty: Log-odds subtracted because another pack's statistics fit the window better.
        rescored: Log-odds after the second pass; None where there was none.
    """

    name: str
    languages: tuple[str, ...]
    head: float
    calibration: Calibration
    shares: tuple[float, ...]
    primary_uncertainty: float = 0.0
    tag: float | None = None
    confidence: float = 0.0
    phonotactics: float = 0.0
    best_tag: float = 0.0
    penalty: float = 0.0
    rescored: float | None = None

    @property
    def head_log_odds(self) -> float:
        """Calibrated log-odds of the language head alone, minus the penalty."""
        return self.calibration.head(self.head) - self.penalty

    @property
    def log_odds(self) -> float:
        """The latest calibrated log-odds.

        Those of the second pass if there was one, else of head and tag, else of the head alone.
        """
        if self.rescored is not None:
            return self.rescored
        if self.tag is None:
            return self.head_log_odds
        first = self.calibration.tag(self.head, self.tag, self.primary_uncertainty)
        text = self.calibration.text(self.confidence, self.phonotactics)
        return first + text - self.penalty


@dataclass(frozen=True)
class Decision:
    """A decision about one window.

    Attributes:
        route: "primary" or a pack's name.
        final: False if both the primary and the runner-up must decode before it is certain.
        reason: Why, for a person to read.
        runner_up: The pack that came nearest; None if there is no pack, or if the caller chose the
            route.
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
        primary: Probabilities of the primary's allowed languages, which sum to 1; {} if none is
            allowed.
        scores: The scores of all packs for the window.
        posterior: Applied to each pack's log-odds.

    Returns:
        Probabilities by language code; they sum to 1.
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
    restricted: bool = False,
    no_speech_prob: float = 0.0,
) -> Decision:
    """Decide from the first steps alone, before anything is decoded (steps 6 and 7 above).

    Args:
        primary_best_tag: Log-probability of the primary's best language; only the paper's rule uses
            it.
        scores: The scores of all packs for the window.
        options: The selector's settings.
        primary: Whether a language of the primary is allowed; if not, the best pack takes the
            window.
        restricted: Whether only some languages are allowed, and the packs of others left out.
        no_speech_prob: The primary's no-speech probability. The paper's rule uses neither this nor
            the floors.

    Returns:
        The decision; it may not be final.
    """
    if not scores:
        return Decision(PRIMARY, True, NO_ALLOWED_PACK if restricted else NO_PACK)
    best = max(
        [score for score in scores if score.tag is not None] or scores,
        key=lambda score: score.log_odds,
    )
    if not primary:
        return Decision(best.name, True, NO_PRIMARY_LANGUAGE, best.name)
    if options.rule == "paper":
        best = max(scores, key=lambda score: score.best_tag)
        lead = best.best_tag - primary_best_tag
        what = f"best tag {best.best_tag:.2f} against the primary's {primary_best_tag:.2f}"
    else:
        if reason := _reason_to_stay(best, no_speech_prob, options):
            return Decision(PRIMARY, True, reason, best.name)
        lead = best.log_odds + options.beta
        what = f"log-odds {lead:+.2f}"
    route = best.name if lead > 0 else PRIMARY
    final = abs(lead) >= options.tau
    reason = f"{best.name}: {what}, {'beyond' if final else 'within'} tau {options.tau}"
    return Decision(route, final, reason, best.name)


def _reason_to_stay(best: PackScore, no_speech_prob: float, options: SelectorOptions) -> str:
    """Return why the primary keeps a window, however far a pack leads; "" for no such reason."""
    if no_speech_prob > options.no_speech:
        return f"no speech: probability {no_speech_prob:.2f}, limit {options.no_speech:.2f}"
    floor = options.floors.get(best.name, best.calibration.floor)
    # a pack that is far behind needs no floor: the plain reason says so
    within_reach = best.log_odds + options.beta > -options.tau
    if floor is not None and within_reach and best.log_odds < floor:
        return f"{best.name}: log-odds {best.log_odds:+.2f}, floor {floor:+.2f}"
    return ""


def rescore(
    first: Decision,
    score: PackScore,
    primary: Transcript,
    secondary: Transcript,
    seconds: float,
    options: SelectorOptions,
) -> tuple[Decision, PackScore]:
    """Decide again from both transcripts of a window (the second pass, step 7 above).

    Args:
        first: The decision that was not final.
        score: The runner-up's scores.
        primary: The primary's transcript.
        secondary: The runner-up's transcript.
        seconds: Length of the window, in seconds.
        options: The selector's settings.

    Returns:
        The final decision, and the runner-up's scores with the log-odds after the second pass.
    """
    if options.rule == "paper":
        lead = secondary.avg_logprob + options.beta - primary.avg_logprob
        what = f"average log-probability leads by {lead:+.2f}"
    else:
        gap, uncertainty = second_pass_scores(primary, secondary, seconds)
        rescored = score.calibration.second_pass(score.log_odds, gap, uncertainty)
        score = replace(score, rescored=rescored)
        lead = score.log_odds + options.beta
        what = f"log-odds {lead:+.2f} after both were decoded ({gap:+.1f} log-probability a second)"
    route = score.name if lead > 0 else PRIMARY
    return Decision(route, True, f"{first.reason}; {what}", score.name), score


def second_pass_scores(
    primary: Transcript, secondary: Transcript, seconds: float
) -> tuple[float, float]:
    """Return the two scores of the second pass.

    The lead is limited to +-3: a completely wrong transcript has a much lower log-probability than
    a poor one, but it is no stronger evidence.

    Args:
        primary: The primary's transcript.
        secondary: The pack's transcript of the same window.
        seconds: Length of the window, in seconds.

    Returns:
        The pack's lead in log-probability per second of audio, and the primary's negative mean
        log-probability per token.
    """
    lead = (secondary.logprob - primary.logprob) / max(seconds, 0.1)
    return min(max(lead, -MAX_LEAD), MAX_LEAD), -primary.avg_logprob
