"""Fit one selector for a set of packs to scored clips: dev clips of all their languages, and
unknown clips, which are in languages that no loaded pipeline knows.

There are two kinds of thresholds. A pack gets a clip if its log-odds are at least its floor before
the second pass, and above -beta after it. The floors keep out unknown languages: the primary is
uncertain about those, and the second pass would count that against the primary. Each pack has a
floor of its own, so that a pack which accepts too much costs the others nothing.

1. Every clip is scored once by all packs, and decoded by the primary and by the runner-up, the pack
   with the highest score (`calibrate_set.score_clips`). Any selector can then be tried without the
   model (`decide`).
2. beta is set where the routes of the dev clips cost least (`_beta`).
3. The floors are the cheapest of those that leave packs at most the allowed share of the unknown
   clips. This is a multiple-choice knapsack problem, solved exactly by dynamic programming
   (`_floors`).
4. The posterior is fitted to the dev clips' right pipelines (`_posterior`).

A setting that the dev clips say nothing about stays as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from dualasr.errors import PackError
from dualasr.metrics import reliability
from dualasr.model.search import Hypothesis
from dualasr.model.selector import (
    PRIMARY,
    Logistic,
    PackScore,
    SelectorOptions,
    language_probs,
    rescore,
    second_pass_scores,
    select,
)

STEP = 0.01  # grid of beta and of the floors, in log-odds


@dataclass(frozen=True)
class SetOptions:
    """How a set of packs is calibrated.

    Attributes:
        max_false_accept_rate: Largest share of the unknown clips that packs may get.
        false_accept_cost: Cost of a clip of the primary's that a pack gets; a clip of a pack's that
            another pipeline gets costs 1. Costs move a threshold by their log-ratio (Elkan 2001).
        beam: Beam width.
        batch: Clips decoded together.
    """

    max_false_accept_rate: float = 0.01
    false_accept_cost: float = 2.0
    beam: int = 1
    batch: int = 16


@dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """A clip with all packs' scores, and the hypotheses of two pipelines.

    Attributes:
        language: The clip's language code.
        pipeline: The pipeline that knows the language; None where none does.
        seconds: Length of what was decoded.
        pack_scores: Scores of all packs, from the first steps alone.
        runner_up: Name of the pack with the highest score.
        first: The primary's hypothesis.
        second: The runner-up's hypothesis.
        no_speech_prob: The primary's probability that the clip holds no speech.
    """

    language: str
    pipeline: str | None
    seconds: float
    pack_scores: tuple[PackScore, ...]
    runner_up: str
    first: Hypothesis
    second: Hypothesis
    no_speech_prob: float = 0.0

    @property
    def score(self) -> PackScore:
        """The runner-up's scores."""
        return next(score for score in self.pack_scores if score.name == self.runner_up)


def decide(
    scored: ScoredClip, selector: SelectorOptions
) -> tuple[str, float, bool, list[PackScore]]:
    """Route a scored clip as the model would under another selector.

    Args:
        scored: The clip.
        selector: The settings to try.

    Returns:
        The route, its posterior probability, whether both pipelines decode the clip, and all packs'
        scores after that.
    """
    first = decision = select(
        0.0, scored.pack_scores, selector, no_speech_prob=scored.no_speech_prob
    )
    score = scored.score
    if not first.final:
        decision, score = rescore(
            first, score, scored.first, scored.second, scored.seconds, selector
        )
    row = [score if other.name == score.name else other for other in scored.pack_scores]
    probs = language_probs({PRIMARY: 1.0}, row, selector.posterior)
    share = {score.name: sum(probs[code] for code in score.languages) for score in row} | {
        PRIMARY: probs[PRIMARY]
    }
    return decision.route, share[decision.route], not first.final, row


def measure(
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    selector: SelectorOptions,
    routes: Sequence[str],
) -> dict:
    """Measure a selector on scored clips.

    Args:
        dev: Clips in known languages.
        unknown: Clips in languages that no loaded pipeline knows.
        selector: The settings to measure.
        routes: Names of all pipelines, the columns of the confusion table.

    Returns:
        "accuracy": share of dev clips that go to the right pipeline.
        "confusion": number of dev clips by language and route.
        "decoded_twice": share of dev clips that both pipelines decode.
        "calibration": reliability of the route's posterior, in 10 bins of equal mass.
        "false_accept_rate": share of unknown clips that packs get.
        A share is None where there is no clip.
    """
    found = [decide(scored, selector) for scored in dev]
    right = [route == scored.pipeline for scored, (route, *_) in zip(dev, found, strict=True)]
    confusion = {
        code: dict.fromkeys(routes, 0) for code in sorted({scored.language for scored in dev})
    }
    for scored, (route, *_) in zip(dev, found, strict=True):
        confusion[scored.language][route] += 1
    accepted = [decide(scored, selector)[0] != PRIMARY for scored in unknown]
    return {
        "accuracy": _mean(right),
        "confusion": confusion,
        "decoded_twice": _mean([twice for _, _, twice, _ in found]),
        "calibration": reliability([share for _, share, *_ in found], right, equal_mass=True),
        "false_accept_rate": _mean(accepted),
    }


def _mean(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def fit_set(
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    selector: SelectorOptions,
    options: SetOptions = SetOptions(),
) -> SelectorOptions:
    """Fit the no-speech limit, beta, the floors and the posterior of a set of packs.

    The no-speech limit rises to the 99th percentile of the packs' dev clips, where the primary
    finds no speech in them. Without dev clips of both the primary's and the packs' languages beta
    stays. Without unknown clips there are no floors.

    Args:
        dev: Clips in known languages, scored under `selector`.
        unknown: Clips in languages that no loaded pipeline knows, scored under `selector`.
        selector: The settings to start from.
        options: The allowed share of unknown clips, and what errors cost.

    Returns:
        The fitted settings.

    Raises:
        PackError: The selector's rule has nothing to calibrate.
    """
    if selector.rule != "calibrated":
        raise PackError(
            f"The {selector.rule} rule has nothing to calibrate; give another --selector."
        )
    speech = [scored.no_speech_prob for scored in dev if scored.pipeline != PRIMARY]
    limit = (
        max(selector.no_speech, round(float(np.quantile(speech, 0.99)), 4))
        if speech
        else selector.no_speech
    )
    selector = replace(selector, no_speech=limit, beta=_beta(dev, selector, options), floors={})
    selector = replace(selector, floors=_floors(dev, unknown, selector, options))
    return replace(selector, posterior=_posterior(dev, selector))


def _posterior(dev: Sequence[ScoredClip], selector: SelectorOptions) -> Logistic:
    """Fit weight and offset of the log-odds, by the likelihood of the dev clips' right pipelines.

    Two Gaussian priors keep few clips from moving them far: the log of the weight has mean 0 and
    deviation 0.5, the offset mean 0 and deviation 1.
    """
    odds = np.array([[score.log_odds for score in decide(scored, selector)[3]] for scored in dev])
    names = [PRIMARY, *(score.name for score in dev[0].pack_scores)] if dev else []
    column: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    right = [column[scored.pipeline] for scored in dev]

    def loss(p: np.ndarray) -> float:
        logs = np.column_stack([np.zeros(len(dev)), np.exp(p[0]) * odds + p[1]])
        negative_log_likelihood = (logsumexp(logs, 1) - logs[range(len(dev)), right]).sum()
        return float(negative_log_likelihood + 2 * p[0] ** 2 + p[1] ** 2 / 2)

    if len(set(right)) < 2:
        return selector.posterior
    weight, offset = minimize(loss, [0.0, 0.0]).x
    return Logistic((round(float(np.exp(weight)), 4),), round(float(offset), 4))


def _beta(dev: Sequence[ScoredClip], selector: SelectorOptions, options: SetOptions) -> float:
    """Find the beta at which the routes of the dev clips cost least.

    1. A clip's last log-odds are those of the second pass. A clip whose first decision is final has
       none; but its side of the threshold is known, so they are held within tau of the first ones.
    2. The cost of each threshold -beta on a grid is the number of the runner-up's clips at or below
       it, plus false_accept_cost times the number of the primary's clips above it.
    3. If the present beta costs least, it stays; else the middle of the widest stretch of the grid
       that costs least is chosen.
    """
    # 1
    before = np.array([scored.score.log_odds for scored in dev])
    after = [
        c.score.calibration.second_pass(
            c.score.log_odds, *second_pass_scores(c.first, c.second, c.seconds)
        )
        for c in dev
    ]
    last = np.clip(np.array(after), before - selector.tau, before + selector.tau)
    primary = np.sort(last[np.array([scored.pipeline == PRIMARY for scored in dev], bool)])
    packs = np.sort(last[np.array([scored.pipeline == scored.runner_up for scored in dev], bool)])
    if not (len(primary) and len(packs)):
        return selector.beta

    # 2
    now = -selector.beta
    grid = np.arange(min(now, last.min()) - 1, max(now, last.max()) + 1, STEP).round(2)
    false_accepts = len(primary) - np.searchsorted(primary, grid, "right")
    false_rejects = np.searchsorted(packs, grid, "right")
    cost = options.false_accept_cost * false_accepts + false_rejects

    # 3
    good = np.flatnonzero(cost == cost.min())
    if int(np.abs(grid - now).argmin()) in good:
        return selector.beta
    widest = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
    return round(-float(grid[widest[len(widest) // 2]]), 2)


Floors = dict[str, float]


def _floors(
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    selector: SelectorOptions,
    options: SetOptions,
) -> Floors:
    """Find the floors, by pack, that cost dev least and leave few enough unknown clips to packs.

    This is a multiple-choice knapsack: each pack takes one of its floors, an unknown clip that a
    pack still gets weighs 1, and the sack holds the allowed number of them.

    1. A pack's choices are no floor, and a floor just above each of its unknown clips
       (`_choices`).
    2. Pack by pack, the cheapest floors are kept for each number of unknown clips that are left to
       the packs so far (Bellman's recursion over the packs).
    3. The cheapest of all is the answer; of equally cheap ones that which leaves most clips.
    """
    allowed = int(options.max_false_accept_rate * len(unknown) + 1e-9)
    dev_of, unknown_of = _accepted(dev, selector), _accepted(unknown, selector)
    # by number of unknown clips left to packs: the least cost, and the floors that reach it
    best: dict[int, tuple[float, Floors]] = {0: (0.0, {})}
    for name, foreign in unknown_of.items():
        choices = _choices(name, dev_of.get(name, ()), foreign, options.false_accept_cost)
        longer: dict[int, tuple[float, Floors]] = {}
        for kept, (so_far, floors) in best.items():
            for left, cost, more in choices:
                total = kept + left
                if total > allowed or (total in longer and longer[total][0] <= so_far + cost):
                    continue
                longer[total] = so_far + cost, floors | more
        best = longer
    return min(sorted(best.items(), reverse=True), key=lambda item: item[1][0])[1][1]


def _accepted(
    scored_clips: Sequence[ScoredClip], selector: SelectorOptions
) -> dict[str, list[ScoredClip]]:
    """Group the clips that packs get by pack."""
    found: dict[str, list[ScoredClip]] = {}
    for scored in scored_clips:
        if decide(scored, selector)[0] != PRIMARY:
            found.setdefault(scored.runner_up, []).append(scored)
    return found


def _choices(
    name: str, dev: Sequence[ScoredClip], unknown: Sequence[ScoredClip], false_accept_cost: float
) -> list[tuple[int, float, Floors]]:
    """List a pack's floors as (unknown clips that it still gets, cost to dev, the floor).

    A floor sends the dev clips below it back to the primary. That costs 1 if the clip is the
    pack's, gains `false_accept_cost` if it is the primary's, and changes nothing if it is another
    pack's.
    """
    scores = [scored.score.log_odds for scored in unknown]
    cost_of: dict[str | None, float] = {name: 1.0, PRIMARY: -false_accept_cost}
    choices: list[tuple[int, float, Floors]] = [(len(scores), 0.0, {})]
    for floor in sorted({_above(score) for score in scores}):
        returned = [scored for scored in dev if scored.score.log_odds < floor]
        cost = sum(cost_of.get(scored.pipeline, 0.0) for scored in returned)
        choices.append((sum(score >= floor for score in scores), cost, {name: floor}))
    return choices


def _above(score: float) -> float:
    """Return the lowest point of the grid that is above a score."""
    return round(float(np.floor(score / STEP + 1e-6) + 1) * STEP, 2)
