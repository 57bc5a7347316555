"""What a set of packs decides together, fitted on dev audio of everybody's languages and on audio that nobody knows.

Two kinds of thresholds. A pack takes a clip if its log-odds are not below its floor before a duel, and above -beta after it.
Floors are what unknown languages are told by: the primary doubts those, and a duel holds that against it; and each pack has its
own, for one that is taken in easily must not cost the others theirs. First beta is where dev is routed best; then floors are
where this costs the least, of all that leave no more of the unknown clips to packs than is allowed. What dev cannot tell
stays as it was.

A clip needs to be heard once: it is a pack's for every -beta below its log-odds after the duel, which count only as far as tau
from those before.
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

from dualasr.audio.load import SHORTEST, Sound, load_audio
from dualasr.data.corpus import load_corpus, sounds_below, splits_of
from dualasr.data.utterance import Utterance
from dualasr.errors import AudioError, CorpusError, PackError, RunError
from dualasr.metrics import reliability
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY, Bid, Logistic, SelectorOptions, duel_scores, language_probs, select, settle
from dualasr.parallel import core_pool, one_ahead

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of unknown clips; what each costs is shown

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
    no_speech_prob: float = 0.0  # the primary's

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
            claims += [Claim(*row[1:], heard.seconds[i], tuple(bids[i]), rivals[i], first[i], second[i],
                             heard.no_speech_prob[i]) for i, row in enumerate(group)]  # fmt: skip
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
    first = decision = select(0.0, claim.bids, selector, no_speech_prob=claim.no_speech_prob)
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
    """The selector with limit, beta, floors and posterior of the set; `dev` and `unknown` were heard under `selector`.

    Without dev clips of both the primary's and packs' languages beta stays, without unknown clips there are no floors. The
    no-speech limit rises where packs' dev speech is no speech to the primary. Raises PackError for a selector of another rule.
    """
    if selector.rule != "calibrated":
        raise PackError(f"The {selector.rule} rule has nothing to calibrate; give another --selector.")
    speech = [claim.no_speech_prob for claim in dev if claim.pipeline != PRIMARY]
    limit = max(selector.no_speech, round(float(np.quantile(speech, 0.99)), 4)) if speech else selector.no_speech
    selector = replace(selector, no_speech=limit, beta=_beta(dev, selector, options), floors={})
    selector = replace(selector, floors=_floors(dev, unknown, selector, options))
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


def _beta(dev: Sequence[Claim], selector: SelectorOptions, options: SetOptions) -> float:
    """What routes dev at the least cost; as it was if that does, else from the middle of the widest stretch that does."""
    before = np.array([claim.bid.log_odds for claim in dev])
    after = [c.bid.calibration.duel(c.bid.log_odds, *duel_scores(c.first, c.second, c.seconds)) for c in dev]
    last = np.clip(np.array(after), before - selector.tau, before + selector.tau)
    primary = np.sort(last[np.array([claim.pipeline == PRIMARY for claim in dev], bool)])
    packs = np.sort(last[np.array([claim.pipeline == claim.rival for claim in dev], bool)])
    if not (len(primary) and len(packs)):
        return selector.beta
    now = -selector.beta
    grid = np.arange(min(now, last.min()) - 1, max(now, last.max()) + 1, STEP).round(2)
    cost = options.taken * (len(primary) - np.searchsorted(primary, grid, "right")) + np.searchsorted(packs, grid, "right")
    good = np.flatnonzero(cost == cost.min())
    if int(np.abs(grid - now).argmin()) in good:
        return selector.beta
    widest = max(np.split(good, np.flatnonzero(np.diff(good) > 1) + 1), key=len)
    return round(-float(grid[widest[len(widest) // 2]]), 2)


def _floors(dev: Sequence[Claim], unknown: Sequence[Claim], selector: SelectorOptions, options: SetOptions) -> dict[str, float]:
    """By pack, where one is needed: at the least cost to dev few enough unknown clips are left to packs."""
    def taken_by(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
        found: dict[str, list[Claim]] = {}
        for claim in claims:
            if decide(claim, selector)[0] != PRIMARY:
                found.setdefault(claim.rival, []).append(claim)
        return found

    worth = {PRIMARY: -options.taken}  # of a dev clip that goes back to the primary, who should have had it
    mine, allowed = taken_by(dev), int(options.most_stolen * len(unknown) + 1e-9)
    plans: dict[int, tuple[float, dict[str, float]]] = {0: (0.0, {})}  # by unknown clips left: the least cost, and its floors
    for name, claims in taken_by(unknown).items():
        scores = sorted(claim.bid.log_odds for claim in claims)
        ways = [(len(scores), 0.0, {})]
        for floor in sorted({round((np.floor(score / STEP + 1e-6) + 1) * STEP, 2) for score in scores}):
            lost = [claim for claim in mine.get(name, ()) if claim.bid.log_odds < floor]
            cost = sum(worth.get(claim.pipeline, float(claim.pipeline == name)) for claim in lost)
            ways.append((sum(score >= floor for score in scores), cost, {name: float(floor)}))
        longer: dict[int, tuple[float, dict[str, float]]] = {}
        for (kept, so_far, floors), (left, cost, more) in product(((k, *plan) for k, plan in plans.items()), ways):
            if kept + left <= allowed and (kept + left not in longer or so_far + cost < longer[kept + left][0]):
                longer[kept + left] = so_far + cost, floors | more
        plans = longer
    return min(sorted(plans.items(), reverse=True), key=lambda item: item[1][0])[1][1]


@dataclass(frozen=True)
class SetCalibration:
    """The selector of a set; what `measure` says before and after, on the audio it was fitted on.

    `offers` are (most_stolen, accuracy) of other choices; `notes` say what was left out.
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
        raise CorpusError(f"--split {split} is for measuring; what is fitted on it cannot be measured on it. Give dev.")


def read_unknown(paths: Sequence[Path], split: str, model: DualWhisper) -> list[Sound]:
    """Sounds of a split of corpora, without languages that somebody loaded knows, or every sound file below a folder.

    Raises CorpusError for a path that is neither, or a corpus without the split or without a clip in another language.
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
                raise CorpusError(f"{path} has no clip in a language that nobody here knows; --negatives wants such.")
        found += sounds
    return found


def pipeline_of(model: DualWhisper, language: str) -> str | None:
    try:
        return model.route_of(language)
    except PackError:
        return None


def calibrate_set(model: DualWhisper, dev: Sequence[Utterance], unknown: Sequence[Sound],
                  options: SetOptions = SetOptions(), *, progress: bool | None = None) -> SetCalibration:  # fmt: skip
    """Hear dev and unknown audio once, and fit the selector of the model's packs.

    Raises PackError without packs or for a rule that has nothing to calibrate, CorpusError where no dev clip can be used,
    RunError for options that make no sense.
    """
    if not 0 <= options.most_stolen <= 1 or options.taken < 0:
        raise RunError(f"--most_stolen {options.most_stolen:g} --taken {options.taken:g}: wanted a share and a price.")
    if options.batch < 1 or options.beam < 1:
        raise RunError(f"--batch {options.batch} --beam {options.beam}: wanted 1 or more of both.")
    if not model.packs:
        raise PackError("There is no pack to calibrate; name some with --pack.")
    if model.selector.rule != "calibrated":
        raise PackError(f"The {model.selector.rule} rule has nothing to calibrate; give another --selector.")
    rows = [(u.sound, u.language, pipeline_of(model, u.language)) for u in dev]
    foreign = sorted({language for _, language, pipeline in rows if pipeline is None})
    notes = [f"left out, for nobody loaded knows them: {', '.join(foreign)}"] if foreign else []
    claims, lost = hear_set(model, [row for row in rows if row[2]], options, progress=progress)
    others, lost_too = hear_set(model, [(sound, "und", None) for sound in unknown], options, progress=progress)
    if not claims:
        raise CorpusError(f"No dev clip is in a language that is known here ({', '.join([PRIMARY, *model.packs])})"
                          + (f"; the first: {lost[0]}" if lost else "") + ".")  # fmt: skip
    heard = {claim.pipeline for claim in claims}
    if missing := [name for name in (PRIMARY, *model.packs) if name not in heard]:
        notes.append(f"no dev clip of {', '.join(missing)}: what is theirs cannot be told" +
                     ("; beta stays" if PRIMARY in missing or heard == {PRIMARY} else ""))  # fmt: skip
    if len(others) * options.most_stolen < 1:
        notes.append(f"{len(others)} unknown clips cannot show a share of {options.most_stolen:g}; "
                     + ("none of them may be taken" if others else "without --negatives there are no floors"))  # fmt: skip
    routes = (PRIMARY, *model.packs)
    selector = replace(fit_set(claims, others, model.selector, options), packs=tuple(model.packs))
    offers = []
    for share in SHARES if others else ():
        other = fit_set(claims, others, model.selector, replace(options, most_stolen=share))
        offers.append((share, measure(claims, [], other, routes)["accuracy"]))
    measured = tuple(measure(claims, others, one, routes) for one in (model.selector, selector))
    clips = dict(sorted(Counter(claim.language for claim in claims).items()))
    return SetCalibration(model.selector, selector, measured, tuple(offers), clips, len(others), (*notes, *lost, *lost_too))
