"""What a pack learns from dev after training: the weight of CTC in its joint score, and its place in the selector.

Positives are dev clips of the pack's languages; negatives are clips in other languages that training never saw.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dualasr.audio import Sound, load_audio
from dualasr.metrics import character_errors
from dualasr.model import DecodeOptions, DualWhisper
from dualasr.secondary import best_candidate
from dualasr.selector import PRIMARY, Calibration, Logistic, SelectorOptions, duel_scores, fit_logistic
from dualasr.text import normalise

CTC_WEIGHTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
MOST_DUELS = 24  # clips a side decoded by both pipelines


def _batches(model: DualWhisper, clips: Sequence[Sound], size: int = 8):
    """Clips, cut at the window, in batches: lists of (samples,) arrays."""
    for first in range(0, len(clips), size):
        yield [load_audio(sound)[: model.backbone.window_samples] for sound in clips[first : first + size]]


def choose_ctc_weight(model: DualWhisper, name: str, clips: Sequence[Sound], refs: Sequence[str], *, beam: int = 5,
                      weights: Sequence[float] = CTC_WEIGHTS) -> tuple[float, dict[float, float]]:  # fmt: skip
    """The weight of `weights` with the lowest dev CER (the smallest among equals), and the CER of each.

    Of a pack that has nothing but CTC it is 1.
    """
    weights = weights if model.pack(name).secondary.decoder.spells else (1.0,)
    hyps: dict[float, list[str]] = {weight: [] for weight in weights}
    for sounds in _batches(model, clips):
        for clip in model.candidates(model.listen(sounds), name, beam):
            for weight in weights:
                hyps[weight].append(best_candidate(clip, weight).hypothesis.text)
    clean = [normalise(ref, "marks") for ref in refs]
    rates = {w: character_errors(clean, [normalise(h, "marks") for h in hyps[w]]).rate for w in weights}
    return min(rates, key=rates.get), rates


def calibrate(model: DualWhisper, name: str, mine: Sequence[Sound], others: Sequence[Sound]) -> Calibration:
    """Fit a pack's calibration: head; head, tag and doubt; and the duel of both transcripts (selector.py).

    A duel is fought over clips in doubt, so it is fitted on those: the least likely of `mine`, the likeliest of `others`.
    Without negatives nothing can be fitted: the default comes back, marked `negatives=False`.
    """
    if not others or not mine:
        return Calibration(negatives=False)
    asking = replace(model, selector=SelectorOptions(asked=None))
    ours, theirs = _scores(asking, name, mine), _scores(asking, name, others)
    tag = fit_logistic(ours, theirs)
    duels = []
    for clips, scores, sign in ((mine, ours, 1), (others, theirs, -1)):
        z = np.array([tag(*row) for row in scores])
        rows = np.argsort(sign * z)[:MOST_DUELS]
        duels.append(np.column_stack([z[rows], _duels(asking, name, [clips[i] for i in rows])]))
    enough = min(map(len, duels)) > 1
    duel = fit_logistic(*duels) if enough else Logistic((1.0, 0.0, 0.0))
    return Calibration(fit_logistic(ours[:, 0], theirs[:, 0]), tag, duel, negatives=True)


def _scores(model: DualWhisper, name: str, clips: Sequence[Sound]) -> np.ndarray:
    """Raw log-odds of a pack's head and of its tag step, and the primary's doubt: (clips, 3)."""
    found = []
    for sounds in _batches(model, clips):
        for row in model.bids(model.listen(sounds))[0]:
            bid = next(bid for bid in row if bid.name == name)
            found.append((bid.head, bid.tag, bid.doubt))
    return np.array(found)


def _duels(model: DualWhisper, name: str, clips: Sequence[Sound]) -> np.ndarray:
    """What two transcripts of each clip say (`duel_scores`): (clips, 2)."""
    found = []
    for sounds in _batches(model, clips):
        heard = model.listen(sounds)
        first, _ = model.decode(heard, PRIMARY, options=DecodeOptions(generate={"max_new_tokens": 200}))
        second, _ = model.decode(heard, name)
        found += [duel_scores(*row) for row in zip(first, second, heard.seconds, strict=True)]
    return np.array(found)


def with_info(model: DualWhisper, name: str, **changes) -> DualWhisper:
    """The model with fields of one pack's PackInfo changed."""
    pack = model.pack(name)
    return replace(model, packs={**model.packs, name: replace(pack, info=replace(pack.info, **changes))})
