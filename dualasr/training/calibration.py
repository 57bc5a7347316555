"""What a pack learns after training: from dev the weight of CTC in its joint score and its place in
the selector, from training clips how its languages sound to the primary.

Positives of dev are clips of the pack's languages; negatives are clips in other languages that
training never saw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from dualasr.audio.load import Sound, load_window
from dualasr.data.corpus import Utterance
from dualasr.metrics import per_clip_errors
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.language_statistics import LanguageStatistics, fit_statistics
from dualasr.model.secondary import best_candidate
from dualasr.model.selector import (
    PRIMARY,
    Calibration,
    Logistic,
    SelectorOptions,
    second_pass_scores,
)
from dualasr.model.whisper import Backbone
from dualasr.parallel import worker_pool
from dualasr.text import normalise
from dualasr.training.trunk_cache import TrunkCache

PENALTY = 1e-3  # on a squared weight
PRIOR_PENALTY = 0.1  # on a weight's squared distance from a prior

CTC_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
MOST_HEARD = 400  # training clips of a language, for its statistics


def _batches(model: DualWhisper, clips: Sequence[Sound], size: int = 8):
    """Clips, cut at the window, in batches: lists of (samples,) arrays."""
    for first in range(0, len(clips), size):
        yield [
            load_window(sound, model.backbone.window_samples)
            for sound in clips[first : first + size]
        ]


def choose_ctc_weight(
    model: DualWhisper,
    name: str,
    clips: Sequence[Sound],
    refs: Sequence[str],
    *,
    beam: int = 5,
    weights: Sequence[float] = CTC_WEIGHTS,
) -> tuple[float, dict[float, float]]:
    """The largest of `weights` whose dev CER exceeds the lowest by at most a standard error, and
    the CER of each.

    Dev is small, and often of the same kind of sentences as train, where the attention decoder does
    well from memory: on others it wrote fluent sentences that nobody had said. Where dev cannot
    tell, the more is left to CTC, which hears. Of a pack that has nothing but CTC it is 1.
    """
    weights = weights if model.pack(name).secondary.decoder.spells else (1.0,)
    hyps: dict[float, list[str]] = {weight: [] for weight in weights}
    for sounds in _batches(model, clips):
        for clip in model.candidates(model.encode_audio(sounds), name, beam):
            for weight in weights:
                hyps[weight].append(best_candidate(clip, weight).hypothesis.text)
    clean = [normalise(ref, "marks") for ref in refs]
    counts = {
        w: per_clip_errors(clean, [normalise(h, "marks") for h in hyps[w]], "character")
        for w in weights
    }
    rates = {w: float(rows[:, 0].sum() / rows[:, 1].sum()) for w, rows in counts.items()}
    return largest_within_error({w: rows[:, 0] for w, rows in counts.items()}), rates


def largest_within_error(errors: Mapping[float, np.ndarray]) -> float:
    """The largest key whose errors, (clips,), exceed those of the best by at most the standard
    error of the difference.
    """
    best = min(errors.values(), key=np.sum)
    more = {key: row - best for key, row in errors.items()}
    return max(key for key, row in more.items() if row.sum() <= row.std() * len(row) ** 0.5)


def calibrate(
    model: DualWhisper, name: str, mine: Sequence[Sound], others: Sequence[Sound]
) -> Calibration:
    """Fit a pack's calibration: head; head, tag and uncertainty; and the second pass (selector.py).

    Without negatives nothing can be fitted: the default comes back, marked `negatives=False`.
    """
    if not others or not mine:
        return Calibration(negatives=False)
    all_tags = replace(model, selector=SelectorOptions(max_candidates=None, head_threshold=-np.inf))
    ours, theirs = _scores(all_tags, name, mine), _scores(all_tags, name, others)
    tag = fit_logistic(ours[:, :3], theirs[:, :3])
    pairs = [
        np.column_stack([[tag(*row) for row in scores[:, :3]], scores[:, 3:]])
        for scores in (ours, theirs)
    ]
    second_pass = fit_logistic(*pairs, Calibration().second_pass)
    return Calibration(fit_logistic(ours[:, 0], theirs[:, 0]), tag, second_pass, negatives=True)


def _scores(model: DualWhisper, name: str, clips: Sequence[Sound]) -> np.ndarray:
    """Raw log-odds of a pack's head and tag step, the primary's uncertainty, and
    `second_pass_scores`: (clips, 5).
    """
    found = []
    for sounds in _batches(model, clips):
        audio = model.encode_audio(sounds)
        first, _ = model.decode(
            audio, PRIMARY, options=DecodeOptions(generate={"max_new_tokens": 200})
        )
        second, _ = model.decode(audio, name)
        for row, *rest in zip(
            model.score_packs(audio)[0], first, second, audio.seconds, strict=True
        ):
            score = next(score for score in row if score.name == name)
            found.append(
                (score.head, score.tag, score.primary_uncertainty, *second_pass_scores(*rest))
            )
    return np.array(found)


def fit_pack_statistics(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    languages: Sequence[str],
    cache: TrunkCache,
    variants: int,
) -> LanguageStatistics:
    """How training clips sound to the primary: of each language a few hundred at even distances,
    every other one augmented.

    `cache` augments as it did for training; languages are those of the pack, in its order.
    """
    model, some = DualWhisper(backbone), []
    for language in languages:
        mine = [u for u in utterances if u.language == language]
        some += [
            mine[i]
            for i in np.linspace(0, len(mine) - 1, min(MOST_HEARD, len(mine))).round().astype(int)
        ]
    some.sort(key=lambda u: u.duration or 0.0)
    groups = [some[first : first + 16] for first in range(0, len(some), 16)]

    def features_of(group: Sequence[Utterance]) -> np.ndarray:
        sounds = [cache.samples(u.sound, i % min(2, variants)) for i, u in enumerate(group)]
        return model.encode_audio(sounds).pooled_features.cpu().numpy()

    with worker_pool() as (pool, _):
        features = list(
            tqdm(
                pool.map(features_of, groups),
                "language statistics",
                len(groups),
                unit="batch",
                disable=None,
            )
        )
    classes = np.array([list(languages).index(u.language) for u in some])
    return fit_statistics(np.concatenate(features), classes, len(languages))


def with_info(model: DualWhisper, name: str, **changes) -> DualWhisper:
    """The model with fields of one pack's PackInfo changed."""
    pack = model.pack(name)
    return replace(
        model, packs={**model.packs, name: replace(pack, info=replace(pack.info, **changes))}
    )


def fit_logistic(mine: Sequence, others: Sequence, prior: Logistic | None = None) -> Logistic:
    """Logistic regression of "mine" on scores, (clips,) or (clips, scores) each: weights >= 0 and
    an offset.

    Both classes weigh the same. The squares of the weights, of scores over their deviation, are
    held down a little, so that separable clips stay finite. (Smoothed targets, Platt's 1999, would,
    too; but they punish every clip that is far from the border, and flatten the slope at it.) With
    a prior it is the distance from it that is held down, and more.
    """
    mine, others = (np.asarray(side, float).reshape(len(side), -1) for side in (mine, others))
    scores = np.concatenate([mine, others])
    signs = np.concatenate([np.ones(len(mine)), -np.ones(len(others))])
    weights = np.concatenate(
        [np.full(len(mine), 0.5 / len(mine)), np.full(len(others), 0.5 / len(others))]
    )
    centre, spread = scores.mean(0), scores.std(0) + 1e-6
    unit, count = (scores - centre) / spread, scores.shape[1]

    start, target, penalty = (
        np.array([1.0] * count + [0.0]),
        np.zeros(count + 1),
        np.array([PENALTY] * count + [0.0]),
    )
    if prior is not None:
        start = target = np.array(
            [*(prior.weights * spread), prior.offset + np.dot(prior.weights, centre)]
        )
        penalty = np.full(count + 1, PRIOR_PENALTY)

    def loss(p):
        fit = (weights * np.logaddexp(0, -signs * (unit @ p[:-1] + p[-1]))).sum()
        return float(fit + (penalty * (p - target) ** 2).sum())

    *slopes, offset = minimize(loss, start, bounds=[(0, None)] * count + [(None, None)]).x
    slopes = np.array(slopes) / spread
    return Logistic(tuple(slopes.tolist()), float(offset - slopes @ centre))
