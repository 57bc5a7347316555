"""Calibrate a set of packs: read dev and unknown audio, score it once, fit the set's selector.

What is fitted, and how, is in set_calibration.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualasr.audio.load import SHORTEST, Sound, load_window
from dualasr.data.corpus import load_splits, sounds_below
from dualasr.data.utterance import Utterance
from dualasr.errors import AudioError, CorpusError, PackError, RunError
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.language_id import EncodedAudio
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY, SelectorOptions, select
from dualasr.parallel import one_ahead, worker_pool
from dualasr.progress import progress_bar
from dualasr.training.set_calibration import ScoredClip, SetOptions, fit_set, measure

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of unknown clips; the accuracy at each is reported

Row = tuple[Sound, str, str | None]  # sound, language, and the pipeline that knows it


def score_clips(
    model: DualWhisper,
    rows: Sequence[Row],
    options: SetOptions = SetOptions(),
    *,
    progress: bool | None = None,
) -> tuple[list[ScoredClip], list[str]]:
    """Score clips with all packs, and decode each by the primary and by its runner-up.

    Args:
        model: The packs to calibrate, under the selector that they have now.
        rows: Each clip's sound, language, and the pipeline that knows the language. Of a sound
            longer than the base's window the beginning is used.
        options: Beam and batch.
        progress: Whether to show a bar; None shows one on a terminal.

    Returns:
        The scored clips, and a sentence for each sound that could not be read.
    """
    found: list[ScoredClip] = []
    lost: list[str] = []
    groups = [rows[first : first + options.batch] for first in range(0, len(rows), options.batch)]

    def encode(group: Sequence[Row]) -> tuple[list[Row], EncodedAudio | None, list[str]]:
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
        bar = progress_bar(batches, desc="score", total=len(groups), unit="batch", shown=progress)
        for _, (group, audio, unread) in bar:
            lost += unread
            if group:
                found += _score_batch(model, group, audio, options)
    return found, lost


def _score_batch(
    model: DualWhisper, group: Sequence[Row], audio: EncodedAudio, options: SetOptions
) -> list[ScoredClip]:
    """Score and decode clips that are encoded."""
    decode = DecodeOptions(beam=options.beam)
    leading = replace(model.selector, tau=0.0)  # every decision is final at once
    pack_scores, _ = model.score_packs(audio)
    first, _ = model.decode(audio, PRIMARY, options=decode)
    runners_up: list[str] = []
    for row in pack_scores:
        runner_up = select(0.0, row, leading).runner_up
        assert runner_up is not None, "a model with packs has a runner-up"
        runners_up.append(runner_up)
    second: dict[int, Hypothesis] = {}
    for name in dict.fromkeys(runners_up):
        mine = [i for i, runner_up in enumerate(runners_up) if runner_up == name]
        hypotheses, _ = model.decode(audio.of(mine), name, options=decode)
        second |= zip(mine, hypotheses, strict=True)
    return [
        ScoredClip(
            language=language,
            pipeline=pipeline,
            seconds=audio.seconds[i],
            pack_scores=tuple(pack_scores[i]),
            runner_up=runners_up[i],
            first=first[i],
            second=second[i],
            no_speech_prob=audio.no_speech_prob[i],
        )
        for i, (_, language, pipeline) in enumerate(group)
    ]


def _beginning(sound: Sound, model: DualWhisper) -> np.ndarray:
    """Load (samples,), at most the window. Raises AudioError."""
    samples = load_window(sound, model.backbone.window_samples)
    if len(samples) < SHORTEST:
        raise AudioError(f"{sound}: shorter than {SHORTEST} samples")
    return samples


@dataclass(frozen=True, kw_only=True)
class SetCalibration:
    """The fitted selector of a set, with its measurements on the audio that it was fitted on.

    Attributes:
        before: The selector's settings before.
        selector: The fitted settings.
        measured: What `measure` returns of the settings before and of the fitted ones.
        offers: Other choices of max_false_accept_rate, each with the accuracy that it gives.
        clips: Number of dev clips by language.
        unknown: Number of clips in languages that no loaded pipeline knows.
        notes: Sentences about what was left out, and what could not be fitted.
    """

    before: SelectorOptions
    selector: SelectorOptions
    measured: tuple[dict, dict]
    offers: tuple[tuple[float, float], ...]
    clips: dict[str, int]
    unknown: int
    notes: tuple[str, ...] = ()


def refuse_test(split: str) -> None:
    """Raise CorpusError for a split that is there to measure on."""
    if split.strip().lower() in ("test", "testing", "eval", "evaluation"):
        raise CorpusError(
            f"--split {split} is for measuring; what is fitted on it cannot be measured on it. Give"
            " dev."
        )


def read_unknown(paths: Sequence[Path], split: str, model: DualWhisper) -> list[Sound]:
    """Find audio in languages that no loaded pipeline knows.

    Args:
        paths: Corpora, or folders of sound files.
        split: The split of a corpus that is used.
        model: The primary and the packs, whose languages are left out.

    Returns:
        The sounds of all paths: of a corpus the split's, of a folder every file below it.

    Raises:
        CorpusError: A path is neither, or a corpus has no such split, or no clip in another
            language.
    """
    found: list[Sound] = []
    for path in paths:
        names: tuple[str, ...] = ()
        try:
            splits = load_splits(path, (split,), default_language="und", require_text=False)
            names = splits.names
            rows = splits.split(split).utterances
        except CorpusError:
            if names or not (sounds := sounds_below(path)):
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
    """Return the route that knows a language, or None where none does."""
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
    """Score dev and unknown audio once, fit the selector of the model's packs, and measure it.

    Args:
        model: The packs to calibrate, under the selector that they have now.
        dev: Dev clips. Those in a language that no loaded pipeline knows are left out.
        unknown: Audio in languages that no loaded pipeline knows (`read_unknown`).
        options: The allowed share of unknown clips, what errors cost, beam and batch.
        progress: Whether to show a bar; None shows one on a terminal.

    Returns:
        The fitted selector with its measurements.

    Raises:
        PackError: There is no pack, or the selector's rule has nothing to calibrate.
        CorpusError: No dev clip can be used.
        RunError: An option is outside its range.
    """
    _check(model, options)
    rows: list[Row] = [(u.sound, u.language, pipeline_of(model, u.language)) for u in dev]
    known = [row for row in rows if row[2]]
    scored, lost = score_clips(model, known, options, progress=progress)
    others, others_lost = score_clips(
        model, [(sound, "und", None) for sound in unknown], options, progress=progress
    )
    if not scored:
        raise CorpusError(
            "No dev clip is in a language that is known here"
            f" ({', '.join([PRIMARY, *model.packs])})"
            + (f"; the first: {lost[0]}" if lost else "")
            + "."
        )
    routes = (PRIMARY, *model.packs)
    fitted = fit_set(scored, others, model.selector, options)
    selector = replace(fitted, packs=tuple(model.packs))
    return SetCalibration(
        before=model.selector,
        selector=selector,
        measured=(
            measure(scored, others, model.selector, routes),
            measure(scored, others, selector, routes),
        ),
        offers=_offers(model, scored, others, options),
        clips=dict(sorted(Counter(clip.language for clip in scored).items())),
        unknown=len(others),
        notes=(*_notes(model, rows, scored, others, options), *lost, *others_lost),
    )


def _check(model: DualWhisper, options: SetOptions) -> None:
    """Raise RunError or PackError for what cannot be calibrated."""
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


def _offers(
    model: DualWhisper,
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    options: SetOptions,
) -> tuple[tuple[float, float], ...]:
    """Fit other allowed shares of unknown clips: each with the accuracy on dev that it gives."""
    offers = []
    for share in SHARES if unknown else ():
        other = replace(options, max_false_accept_rate=share)
        selector = fit_set(dev, unknown, model.selector, other)
        routes = (PRIMARY, *model.packs)
        offers.append((share, measure(dev, [], selector, routes)["accuracy"]))
    return tuple(offers)


def _notes(
    model: DualWhisper,
    rows: Sequence[Row],
    dev: Sequence[ScoredClip],
    unknown: Sequence[ScoredClip],
    options: SetOptions,
) -> list[str]:
    """Say which dev clips were left out, and what could not be fitted without clips of it."""
    notes = []
    if foreign := sorted({language for _, language, pipeline in rows if pipeline is None}):
        notes.append(f"left out, for nobody loaded knows them: {', '.join(foreign)}")
    pipelines = {scored.pipeline for scored in dev}
    if missing := [name for name in (PRIMARY, *model.packs) if name not in pipelines]:
        notes.append(
            f"no dev clip of {', '.join(missing)}: their thresholds cannot be fitted"
            + ("; beta stays" if PRIMARY in missing or pipelines == {PRIMARY} else "")
        )
    if len(unknown) * options.max_false_accept_rate < 1:
        notes.append(
            f"{len(unknown)} unknown clips cannot show a share of"
            f" {options.max_false_accept_rate:g}; "
            + (
                "packs may get none of them"
                if unknown
                else "without --negatives there are no floors"
            )
        )
    return notes
