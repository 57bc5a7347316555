"""Fit what a pack needs beside its weights, after training.

The weight of CTC in the joint score and the selector's calibration are fitted on dev. Its positives
are clips in the pack's languages; its negatives are clips in other languages that training did not
use. The statistics of the pack's languages come from training clips.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

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
from dualasr.progress import progress_bar
from dualasr.text import normalise
from dualasr.training.trunk_cache import TrunkCache

PENALTY = 1e-3  # of a squared weight
PRIOR_PENALTY = 0.1  # of a squared distance from a prior

CTC_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
MOST_CLIPS = 400  # training clips of a language that its statistics are fitted on


def _batches(
    model: DualWhisper, clips: Sequence[Sound], size: int = 8
) -> Iterator[list[np.ndarray]]:
    """Load clips in batches, as (samples,) arrays of at most a window."""
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
    """Choose the weight of CTC in a pack's joint score.

    It is the largest whose dev CER exceeds the lowest CER by at most a standard error. Dev is
    small, and its sentences are often like those of train, which the attention decoder partly knows
    by heart: on other sentences it wrote fluent text that nobody had said. CTC depends more on the
    sound, so it gets the largest weight that dev allows. A pack with the CTC head alone gets 1.

    Args:
        model: The base and the pack.
        name: The pack's name.
        clips: Dev clips.
        refs: Their transcripts.
        beam: Beam width.
        weights: Weights to choose from, in 0..1.

    Returns:
        The weight, and dev CER by weight.
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
    """Return the largest key that is not clearly worse than the best one.

    Its errors, (clips,), exceed those of the best by at most the standard error of the difference.
    """
    best = min(errors.values(), key=np.sum)
    more = {key: row - best for key, row in errors.items()}
    return max(key for key, row in more.items() if row.sum() <= row.std() * len(row) ** 0.5)


def calibrate(
    model: DualWhisper, name: str, mine: Sequence[Sound], others: Sequence[Sound]
) -> Calibration:
    """Fit a pack's calibration (steps 5 and 7 of selector.py).

    Three logistic regressions are fitted: of the head alone; of head, tag and the primary's
    uncertainty; and of the second pass, whose prior is the default calibration's.

    Args:
        model: The base and the pack.
        name: The pack's name.
        mine: Dev clips in the pack's languages.
        others: Clips in other languages that training did not use.

    Returns:
        The calibration. Where one of the two is empty it is the default one, marked
        `negatives=False`.
    """
    if not others or not mine:
        return Calibration(negatives=False)
    all_tags = replace(model, selector=SelectorOptions(max_candidates=None, head_threshold=-np.inf))
    ours, theirs = _scores(all_tags, name, mine), _scores(all_tags, name, others)
    head = fit_logistic(ours[:, 0], theirs[:, 0])
    tag = fit_logistic(ours[:, :3], theirs[:, :3])

    def second_pass_of(scores: np.ndarray) -> np.ndarray:
        log_odds = [tag(*row) for row in scores[:, :3]]
        return np.column_stack([log_odds, scores[:, 3:]])

    second_pass = fit_logistic(
        second_pass_of(ours), second_pass_of(theirs), Calibration().second_pass
    )
    return Calibration(head, tag, second_pass, negatives=True)


def _scores(model: DualWhisper, name: str, clips: Sequence[Sound]) -> np.ndarray:
    """Score clips, (clips, 5): head and tag (raw log-odds), uncertainty, `second_pass_scores`."""
    found = []
    for sounds in _batches(model, clips):
        audio = model.encode_audio(sounds)
        pack_scores, _ = model.score_packs(audio)
        first, _ = model.decode(
            audio, PRIMARY, options=DecodeOptions(generate={"max_new_tokens": 200})
        )
        second, _ = model.decode(audio, name)
        for i, row in enumerate(pack_scores):
            score = next(score for score in row if score.name == name)
            lead, surprise = second_pass_scores(first[i], second[i], audio.seconds[i])
            found.append((score.head, score.tag, score.primary_uncertainty, lead, surprise))
    return np.array(found)


def fit_pack_statistics(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    languages: Sequence[str],
    cache: TrunkCache,
    variants: int,
) -> LanguageStatistics:
    """Fit the statistics of a pack's languages: how the primary encodes their training clips.

    Of each language at most 400 clips are used, at even distances in the corpus. Every other one is
    augmented, as it is for training.

    Args:
        backbone: The base.
        utterances: Training clips.
        languages: The pack's languages, in its order.
        cache: The trunk cache, which makes the variants.
        variants: Variants of each clip in training.

    Returns:
        The statistics of each language.
    """
    model = DualWhisper(backbone)
    some: list[Utterance] = []
    for language in languages:
        mine = [u for u in utterances if u.language == language]
        chosen = np.linspace(0, len(mine) - 1, min(MOST_CLIPS, len(mine))).round().astype(int)
        some += [mine[i] for i in chosen]
    some.sort(key=lambda u: u.duration or 0.0)
    groups = [some[first : first + 16] for first in range(0, len(some), 16)]

    def features_of(group: Sequence[Utterance]) -> np.ndarray:
        sounds = [cache.samples(u.sound, i % min(2, variants)) for i, u in enumerate(group)]
        return model.encode_audio(sounds).pooled_features.cpu().numpy()

    with worker_pool() as (pool, _):
        features = list(
            progress_bar(
                pool.map(features_of, groups),
                desc="language statistics",
                total=len(groups),
                unit="batch",
            )
        )
    classes = np.array([list(languages).index(u.language) for u in some])
    return fit_statistics(np.concatenate(features), classes, len(languages))


def with_info(model: DualWhisper, name: str, **changes) -> DualWhisper:
    """Return the model with other values in one pack's PackInfo."""
    pack = model.pack(name)
    return replace(
        model, packs={**model.packs, name: replace(pack, info=replace(pack.info, **changes))}
    )


def fit_logistic(mine: ArrayLike, others: ArrayLike, prior: Logistic | None = None) -> Logistic:
    """Fit a logistic regression whose weights are not negative: a higher score never counts less.

    Both classes weigh the same. The loss is the mean log-loss plus a quadratic penalty on the
    parameters of the standardised scores. Without a prior it is small and on the weights alone, so
    that clips which a line separates get finite weights. (Platt's smoothed targets, 1999, do this,
    too; but they pull clips far from the border back to it, and flatten the slope there.) With a
    prior it is larger, and on the distance of weights and offset from the prior's.

    Args:
        mine: Scores of the pack's clips: (clips,) or (clips, scores).
        others: Scores of other clips, in the same shape.
        prior: Weights and offset to stay near.

    Returns:
        The weights, one a score, and the offset, for scores that are not standardised.
    """
    ours, theirs = (_columns(side) for side in (mine, others))
    scores = np.concatenate([ours, theirs])
    signs = np.concatenate([np.ones(len(ours)), -np.ones(len(theirs))])
    weights = np.concatenate(
        [np.full(len(ours), 0.5 / len(ours)), np.full(len(theirs), 0.5 / len(theirs))]
    )
    centre, spread = scores.mean(0), scores.std(0) + 1e-6
    unit, count = (scores - centre) / spread, scores.shape[1]

    if prior is None:
        start, target = np.array([1.0] * count + [0.0]), np.zeros(count + 1)
        penalty = np.array([PENALTY] * count + [0.0])
    else:
        start = target = np.array(
            [*(prior.weights * spread), prior.offset + np.dot(prior.weights, centre)]
        )
        penalty = np.full(count + 1, PRIOR_PENALTY)

    def loss(p: np.ndarray) -> float:
        fit = (weights * np.logaddexp(0, -signs * (unit @ p[:-1] + p[-1]))).sum()
        return float(fit + (penalty * (p - target) ** 2).sum())

    *slopes, offset = minimize(loss, start, bounds=[(0, None)] * count + [(None, None)]).x
    slopes = np.array(slopes) / spread
    return Logistic(tuple(slopes.tolist()), float(offset - slopes @ centre))


def _columns(scores: ArrayLike) -> np.ndarray:
    """Return scores as (clips, scores)."""
    array = np.asarray(scores, float)
    return array.reshape(len(array), -1)
