"""Fit what a pack needs beside its weights, after training.

The weight of CTC in the joint score and the selector's calibration are fitted on dev. Its positives
are clips in the pack's languages; its negatives are clips in other languages that training did not
use. The statistics of the pack's languages come from training clips.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from dualasr.audio.load import Sound, load_window
from dualasr.data.corpus import Utterance
from dualasr.metrics import per_clip_errors
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.language_id import EncodedAudio
from dualasr.model.language_statistics import LanguageStatistics, fit_statistics
from dualasr.model.precision import Precision, autocast
from dualasr.model.secondary import best_candidate
from dualasr.model.selector import (
    PRIMARY,
    Calibration,
    Logistic,
    SelectorOptions,
    second_pass_scores,
)
from dualasr.model.whisper import Backbone
from dualasr.parallel import return_memory, worker_pool
from dualasr.progress import progress_bar
from dualasr.text import normalise
from dualasr.training.trunk_cache import TrunkCache

PENALTY = 1e-3  # of a squared weight
FLOOR_SHARE = 0.005  # of the pack's own clips are below its floor
PRIOR_PENALTY = 0.1  # of a squared distance from a prior

CTC_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
MOST_CLIPS = 400  # training clips of a language that its statistics are fitted on


Item = TypeVar("Item")
Row = TypeVar("Row")


def _in_batches(
    model: DualWhisper,
    clips: Sequence[Item],
    load: Callable[[Item], np.ndarray],
    work: Callable[[EncodedAudio], Iterable[Row]],
    *,
    desc: str,
    precision: Precision,
    size: int = 4,
) -> list[Row]:
    """Apply `work` to batches of clips, on each core of a CPU to other ones.

    `load` gives a clip's samples, (samples,), at most a window. `work` gets the primary's encoder
    output of a window a clip, and returns a row for each. The encoder alone uses the precision: in
    a search the weights would be rounded anew for every token.
    """

    def run(batch: Sequence[Item]) -> list[Row]:
        sounds = [load(clip) for clip in batch]
        with autocast(model.backbone.device, precision):
            audio = model.encode_audio(sounds)
        return list(work(audio))

    batches = [clips[first : first + size] for first in range(0, len(clips), size)]
    with worker_pool() as (pool, _):
        done = pool.map(run, batches)
        rows = list(progress_bar(done, desc=desc, total=len(batches), unit="batch"))
    return_memory()
    return [row for batch in rows for row in batch]


def choose_ctc_weight(
    model: DualWhisper,
    name: str,
    clips: Sequence[Sound],
    refs: Sequence[str],
    *,
    beam: int = 5,
    weights: Sequence[float] = CTC_WEIGHTS,
    precision: Precision = "float32",
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
        precision: Number type of the encoder.

    Returns:
        The weight, and dev CER by weight.
    """
    weights = weights if model.pack(name).secondary.decoder.spells else (1.0,)
    candidates = _in_batches(
        model,
        clips,
        partial(load_window, samples=model.backbone.window_samples),
        lambda audio: model.candidates(audio, name, beam),
        desc="CTC weight",
        precision=precision,
    )
    hyps = {
        weight: [best_candidate(clip, weight).hypothesis.text for clip in candidates]
        for weight in weights
    }
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
    model: DualWhisper,
    name: str,
    mine: Sequence[Sound],
    others: Sequence[Sound],
    *,
    precision: Precision = "float32",
) -> Calibration:
    """Fit a pack's calibration (steps 5 to 7 of selector.py).

    Three logistic regressions are fitted: of the head alone; of head, tag, the primary's
    uncertainty and the text of the CTC head; and of the second pass, whose prior is the default
    calibration's.

    The floor is the log-odds that one dev clip in 200 is below. No set of negatives has all other
    languages, so the border is not in the middle between the two: it is near the pack's own clips.

    Args:
        model: The base and the pack.
        name: The pack's name.
        mine: Dev clips in the pack's languages.
        others: Clips in other languages that training did not use.
        precision: Number type of the encoder.

    Returns:
        The calibration. Where one of the two is empty it is the default one, marked
        `negatives=False`.
    """
    if not others or not mine:
        return Calibration(negatives=False)
    all_tags = replace(model, selector=SelectorOptions(max_candidates=None, head_threshold=-np.inf))
    ours, theirs = (_scores(all_tags, name, clips, precision) for clips in (mine, others))
    head = fit_logistic(ours[:, 0], theirs[:, 0])
    first = fit_logistic(ours[:, :5], theirs[:, :5])

    def second_pass_of(scores: np.ndarray) -> np.ndarray:
        log_odds = [first(*row) for row in scores[:, :5]]
        return np.column_stack([log_odds, scores[:, 5:]])

    second_pass = fit_logistic(
        second_pass_of(ours), second_pass_of(theirs), Calibration().second_pass
    )
    return Calibration(
        head,
        Logistic(first.weights[:3], first.offset),
        second_pass,
        Logistic(first.weights[3:]),
        floor=float(np.quantile([first(*row) for row in ours[:, :5]], FLOOR_SHARE)),
        negatives=True,
    )


def _scores(
    model: DualWhisper, name: str, clips: Sequence[Sound], precision: Precision = "float32"
) -> np.ndarray:
    """Score clips, (clips, 7).

    Head and tag (raw log-odds), uncertainty, confidence, phonotactics, `second_pass_scores`.
    """

    def scored(audio: EncodedAudio) -> Iterable[tuple[float, ...]]:
        pack_scores, _ = model.score_packs(audio)
        first, _ = model.decode(
            audio, PRIMARY, options=DecodeOptions(generate={"max_new_tokens": 200})
        )
        second, _ = model.decode(audio, name)
        for i, row in enumerate(pack_scores):
            score = next(found for found in row if found.name == name)
            lead, surprise = second_pass_scores(first[i], second[i], audio.seconds[i])
            assert score.tag is not None  # of every pack: there is no limit to the candidates
            first_pass = (score.head, score.tag, score.primary_uncertainty)
            yield *first_pass, score.confidence, score.phonotactics, lead, surprise

    load = partial(load_window, samples=model.backbone.window_samples)
    rows = _in_batches(model, clips, load, scored, desc="calibration", precision=precision)
    return np.array(rows)


def fit_pack_statistics(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    languages: Sequence[str],
    cache: TrunkCache,
    variants: int,
    *,
    precision: Precision = "float32",
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
        precision: Number type of the computation.

    Returns:
        The statistics of each language.
    """
    some: list[Utterance] = []
    for language in languages:
        mine = [u for u in utterances if u.language == language]
        chosen = np.linspace(0, len(mine) - 1, min(MOST_CLIPS, len(mine))).round().astype(int)
        some += [mine[i] for i in chosen]
    some.sort(key=lambda u: u.duration or 0.0)
    features = _in_batches(
        DualWhisper(backbone),
        [(u.sound, i % min(2, variants)) for i, u in enumerate(some)],
        lambda clip: cache.samples(*clip),
        lambda audio: audio.pooled_features.float().cpu().numpy(),
        desc="language statistics",
        precision=precision,
    )
    classes = np.array([list(languages).index(u.language) for u in some])
    return fit_statistics(np.stack(features), classes, len(languages))


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
