"""Fit one selector for a set of packs, on dev audio of all their languages and on audio in
languages that nobody knows.

There are two kinds of thresholds. A pack takes a clip if its log-odds are at least its floor before
the second pass, and above -beta after it. The floors keep out unknown languages: the primary is
unsure of those, and the second pass would count that against the primary. Each pack has a floor of
its own, so that a pack which accepts too much costs the others nothing.

1. Every clip is scored once: by all packs, and decoded by the primary and by the pack that leads
(`score_clips`).
2. beta is set where the dev clips are routed at the least cost (`_beta`).
3. The floors are the choice of least cost among those that leave packs at most the allowed share of
   the unknown clips. That is a knapsack problem with a group of choices for each pack, solved
   exactly by dynamic programming (`_floors`).
4. The posterior is fitted to the dev clips' right pipelines (`_posterior`).

What the dev clips cannot tell stays as it was.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from tqdm import tqdm

from dualasr.audio.load import SHORTEST, Sound, load_window
from dualasr.data.corpus import load_corpus, sounds_below, splits_of
from dualasr.data.utterance import Utterance
from dualasr.errors import AudioError, CorpusError, PackError, RunError
from dualasr.metrics import reliability
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
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
from dualasr.parallel import one_ahead, worker_pool

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of unknown clips; what each costs is shown

STEP = 0.01  # of both thresholds, in log-odds


@dataclass(frozen=True)
class SetOptions:
    """How a set is calibrated.

    Attributes:
        max_false_accept_rate: Share of the unknown clips that packs may take.
        false_accept_cost: What a clip that a pack takes from the primary counts, where one that a
            pack does not get, or that another pack gets, counts 1 (costs move a threshold by their
            log-ratio, Elkan 2001). beam: Beam width. batch: Clips decoded together.
    """

    max_false_accept_rate: float = 0.01
    false_accept_cost: float = 2.0
    beam: int = 1
    batch: int = 16


@dataclass(frozen=True, kw_only=True)
class ScoredClip:
    """What every pipeline makes of a clip.

    Attributes:
        language: The clip's language code.
        pipeline: The one that knows the language; None where none does.
        seconds: Length of what was decoded.
        pack_scores: Of all packs, from the first steps alone.
        runner_up: The pack that leads the others.
        first: The primary's hypothesis.
        second: The runner-up's.
        no_speech_prob: The primary's probability that nobody speaks.
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


def score_clips(
    model: DualWhisper,
    rows: Sequence[tuple[Sound, str, str | None]],
    options: SetOptions = SetOptions(),
    *,
    progress: bool | None = None,
) -> tuple[list[ScoredClip], list[str]]:
    """Score clips with all packs, and decode each by the primary and by the pack that leads.

    Args:
        model: The packs to calibrate, under the selector that they have now.
        rows: Sound, language, and the pipeline that knows it, of each clip. Of a sound longer than
            the base's window the beginning is used. options: Beam and batch. progress: Whether to
            show a bar; None shows one on a terminal.

    Returns:
        The scored clips, and a sentence for each sound that could not be read.
    """
    found: list[ScoredClip] = []
    lost: list[str] = []
    decode = DecodeOptions(beam=options.beam)
    leading = replace(model.selector, tau=0.0)  # every decision is final at once
    groups = [rows[first : first + options.batch] for first in range(0, len(rows), options.batch)]

    def encode(group):
        read, unread = [], []
        for row in group:
            try:
                read.append((row, _beginning(row[0], model)))
            except AudioError as error:
                unread.append(str(error))
        return (
            [row for row, _ in read],
            model.encode_audio([samples for _, samples in read]) if read else None,
            unread,
        )

    with worker_pool() as (pool, _):
        batches = one_ahead(pool, encode, groups)
        hidden = None if progress is None else not progress
        for _, (group, audio, unread) in tqdm(
            batches, "score", len(groups), unit="batch", disable=hidden
        ):
            lost += unread
            if not group:
                continue
            pack_scores, _ = model.score_packs(audio)
            first, _ = model.decode(audio, PRIMARY, options=decode)
            runners_up = [select(0.0, row, leading).runner_up for row in pack_scores]
            second: dict[int, Hypothesis] = {}
            for name in dict.fromkeys(runners_up):
                mine = [i for i, runner_up in enumerate(runners_up) if runner_up == name]
                second |= zip(
                    mine, model.decode(audio.of(mine), name, options=decode)[0], strict=True
                )
            for i, (_, language, pipeline) in enumerate(group):
                clip = ScoredClip(
                    language=language,
                    pipeline=pipeline,
                    seconds=audio.seconds[i],
                    pack_scores=tuple(pack_scores[i]),
                    runner_up=runners_up[i],
                    first=first[i],
                    second=second[i],
                    no_speech_prob=audio.no_speech_prob[i],
                )
                found.append(clip)
    return found, lost


def _beginning(sound: Sound, model: DualWhisper) -> np.ndarray:
    """(samples,), at most the window. Raises AudioError."""
    samples = load_window(sound, model.backbone.window_samples)
    if len(samples) < SHORTEST:
        raise AudioError(f"{sound}: shorter than {SHORTEST} samples")
    return samples


def decide(
    scored: ScoredClip, selector: SelectorOptions
) -> tuple[str, float, bool, list[PackScore]]:
    """Return the route, its posterior, whether both pipelines decoded, and the packs' scores after
    that.
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
    """Measure a selector on scored clips; a share is None where there is no clip.

    Returns:
        "accuracy" of the routes; "confusion", clips by language and route; "calibration" of the
            route's posterior (10 bins of
        equal mass); "decoded_twice", the share of dev clips that both pipelines decode;
        "false_accept_rate", the share of unknown clips that packs take.
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
    """The selector with limit, beta, floors and posterior of the set; `dev` and `unknown` were
    heard under `selector`.

    Without dev clips of both the primary's and packs' languages beta stays, without unknown clips
    there are no floors. The no-speech limit rises where packs' dev speech is no speech to the
    primary. Raises PackError for a selector of another rule.
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
    """The weight and offset of log-odds that give the right pipelines of dev the most likely
    posterior.

    The log of the weight is held to 0 by a Gaussian of deviation 0.5, the offset by one of 1: what
    few clips say counts little.
    """
    odds = np.array([[score.log_odds for score in decide(scored, selector)[3]] for scored in dev])
    names = [PRIMARY, *(score.name for score in dev[0].pack_scores)] if dev else []
    right = [names.index(scored.pipeline) for scored in dev]

    def loss(p) -> float:
        logs = np.column_stack([np.zeros(len(dev)), np.exp(p[0]) * odds + p[1]])
        return float(
            (logsumexp(logs, 1) - logs[range(len(dev)), right]).sum()
            + 2 * p[0] ** 2
            + p[1] ** 2 / 2
        )

    if len(set(right)) < 2:
        return selector.posterior
    weight, offset = minimize(loss, [0.0, 0.0]).x
    return Logistic((round(float(np.exp(weight)), 4),), round(float(offset), 4))


def _beta(dev: Sequence[ScoredClip], selector: SelectorOptions, options: SetOptions) -> float:
    """What routes dev at the least cost; as it was if that does, else from the middle of the widest
    stretch that does.
    """
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
    now = -selector.beta
    grid = np.arange(min(now, last.min()) - 1, max(now, last.max()) + 1, STEP).round(2)
    cost = options.false_accept_cost * (
        len(primary) - np.searchsorted(primary, grid, "right")
    ) + np.searchsorted(packs, grid, "right")
    good = np.flatnonzero(cost == cost.min())
    if int(np.abs(grid - now).argmin()) in good:
        return selector.beta
    widest = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
    return round(-float(grid[widest[len(widest) // 2]]), 2)


def _floors(
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    selector: SelectorOptions,
    options: SetOptions,
) -> dict[str, float]:
    """By pack, where one is needed: at the least cost to dev few enough unknown clips are left to
    packs.
    """

    def taken_by(scored_clips: Sequence[ScoredClip]) -> dict[str, list[ScoredClip]]:
        found: dict[str, list[ScoredClip]] = {}
        for scored in scored_clips:
            if decide(scored, selector)[0] != PRIMARY:
                found.setdefault(scored.runner_up, []).append(scored)
        return found

    # of a dev clip that goes back to the primary, who should have had it
    worth = {PRIMARY: -options.false_accept_cost}
    mine, allowed = taken_by(dev), int(options.max_false_accept_rate * len(unknown) + 1e-9)
    # by unknown clips left: the least cost, and its floors
    plans: dict[int, tuple[float, dict[str, float]]] = {0: (0.0, {})}
    for name, scored_clips in taken_by(unknown).items():
        scores = sorted(scored.score.log_odds for scored in scored_clips)
        ways = [(len(scores), 0.0, {})]
        for floor in sorted(
            {round((np.floor(score / STEP + 1e-6) + 1) * STEP, 2) for score in scores}
        ):
            lost = [scored for scored in mine.get(name, ()) if scored.score.log_odds < floor]
            cost = sum(
                worth.get(scored.pipeline, float(scored.pipeline == name)) for scored in lost
            )
            ways.append((sum(score >= floor for score in scores), cost, {name: float(floor)}))
        longer: dict[int, tuple[float, dict[str, float]]] = {}
        for (kept, so_far, floors), (left, cost, more) in product(
            ((k, *plan) for k, plan in plans.items()), ways
        ):
            if kept + left <= allowed and (
                kept + left not in longer or so_far + cost < longer[kept + left][0]
            ):
                longer[kept + left] = so_far + cost, floors | more
        plans = longer
    return min(sorted(plans.items(), reverse=True), key=lambda item: item[1][0])[1][1]


@dataclass(frozen=True)
class SetCalibration:
    """The selector of a set; what `measure` says before and after, on the audio it was fitted on.

    `offers` are (max_false_accept_rate, accuracy) of other choices; `notes` say what was left out.
    """

    before: SelectorOptions
    selector: SelectorOptions
    measured: tuple[dict, dict]
    offers: tuple[tuple[float, float], ...]
    clips: dict[str, int]  # dev clips by language
    unknown: int
    notes: tuple[str, ...] = ()


def refuse_test(split: str) -> None:
    """Raises CorpusError for a split that is there to measure on."""
    if split.strip().lower() in ("test", "testing", "eval", "evaluation"):
        raise CorpusError(
            f"--split {split} is for measuring; what is fitted on it cannot be measured on it. Give"
            " dev."
        )


def read_unknown(paths: Sequence[Path], split: str, model: DualWhisper) -> list[Sound]:
    """Sounds of a split of corpora, without languages that somebody loaded knows, or every sound
    file below a folder.

    Raises CorpusError for a path that is neither, or a corpus without the split or without a clip
    in another language.
    """
    found: list[Sound] = []
    for path in paths:
        try:
            rows = load_corpus(path, split, default_language="und", require_text=False).utterances
        except CorpusError:
            if splits_of(path) or not (sounds := sounds_below(path)):
                raise
        else:
            sounds = [row.sound for row in rows if pipeline_of(model, row.language) is None]
            if not sounds:
                raise CorpusError(
                    f"{path} has no clip in a language that nobody here knows; --negatives wants"
                    " such."
                )
        found += sounds
    return found


def pipeline_of(model: DualWhisper, language: str) -> str | None:
    try:
        return model.route_of(language)
    except PackError:
        return None


def calibrate_set(
    model: DualWhisper,
    dev: Sequence[Utterance],
    unknown: Sequence[Sound],
    options: SetOptions = SetOptions(),
    *,
    progress: bool | None = None,
) -> SetCalibration:
    """Hear dev and unknown audio once, and fit the selector of the model's packs.

    Raises PackError without packs or for a rule that has nothing to calibrate, CorpusError where no
    dev clip can be used, RunError for options that make no sense.
    """
    if not 0 <= options.max_false_accept_rate <= 1 or options.false_accept_cost < 0:
        raise RunError(
            f"--max_false_accept_rate {options.max_false_accept_rate:g} --false_accept_cost "
            f"{options.false_accept_cost:g}: wanted a share from 0 to 1, and a cost of 0 or more."
        )
    if options.batch < 1 or options.beam < 1:
        raise RunError(f"--batch {options.batch} --beam {options.beam}: wanted 1 or more of both.")
    if not model.packs:
        raise PackError("There is no pack to calibrate; name some with --pack.")
    if model.selector.rule != "calibrated":
        raise PackError(
            f"The {model.selector.rule} rule has nothing to calibrate; give another --selector."
        )
    rows = [(u.sound, u.language, pipeline_of(model, u.language)) for u in dev]
    foreign = sorted({language for _, language, pipeline in rows if pipeline is None})
    notes = [f"left out, for nobody loaded knows them: {', '.join(foreign)}"] if foreign else []
    scored_clips, lost = score_clips(
        model, [row for row in rows if row[2]], options, progress=progress
    )
    others, lost_too = score_clips(
        model, [(sound, "und", None) for sound in unknown], options, progress=progress
    )
    if not scored_clips:
        raise CorpusError(
            "No dev clip is in a language that is known here"
            f" ({', '.join([PRIMARY, *model.packs])})"
            + (f"; the first: {lost[0]}" if lost else "")
            + "."
        )
    audio = {scored.pipeline for scored in scored_clips}
    if missing := [name for name in (PRIMARY, *model.packs) if name not in audio]:
        notes.append(
            f"no dev clip of {', '.join(missing)}: what is theirs cannot be told"
            + ("; beta stays" if PRIMARY in missing or audio == {PRIMARY} else "")
        )
    if len(others) * options.max_false_accept_rate < 1:
        notes.append(
            f"{len(others)} unknown clips cannot show a share of"
            f" {options.max_false_accept_rate:g}; "
            + ("none of them may be taken" if others else "without --negatives there are no floors")
        )
    routes = (PRIMARY, *model.packs)
    selector = replace(
        fit_set(scored_clips, others, model.selector, options), packs=tuple(model.packs)
    )
    offers = []
    for share in SHARES if others else ():
        other = fit_set(
            scored_clips, others, model.selector, replace(options, max_false_accept_rate=share)
        )
        offers.append((share, measure(scored_clips, [], other, routes)["accuracy"]))
    measured = tuple(
        measure(scored_clips, others, one, routes) for one in (model.selector, selector)
    )
    clips = dict(sorted(Counter(scored.language for scored in scored_clips).items()))
    return SetCalibration(
        model.selector,
        selector,
        measured,
        tuple(offers),
        clips,
        len(others),
        (*notes, *lost, *lost_too),
    )
