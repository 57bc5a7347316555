"""Evaluation: error rates of a model on transcribed speech, and how well its selector routes.

Each clip is transcribed in three modes, which differ in what is given about it:

    pipeline-aware   the pipeline that knows its language: the primary or a pack; not the language
    group-aware      whether the primary or a pack knows its language; of several packs, the one
                     that comes nearest decodes the clip (arXiv 2406.07842, section 3.3)
    agnostic         nothing: the selector chooses a route for every window

The modes share one encoding, and no pipeline decodes a window twice: not in one evaluation and,
with `answers`, not in a later one. A batch holds windows of one language only. So the batches of
the pipeline-aware mode do not depend on the loaded packs, and a report with one more pack repeats
the pipeline-aware rates of the other pipelines exactly.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dualasr.audio.load import SAMPLE_RATE, SHORTEST, Sound, load_audio, split_windows
from dualasr.data.corpus import SkippedRow, Utterance
from dualasr.data.fingerprints import fingerprint
from dualasr.errors import AudioError, CorpusError, PackError
from dualasr.evaluation.hallucination import count_hallucinations
from dualasr.evaluation.hypothesis_cache import HypothesisCache, digest
from dualasr.evaluation.scoring import (
    MODES,
    ClipResult,
    ModeResult,
    contamination_of,
    empty_references_of,
    error_counts,
    error_counts_by_sentence,
    routing_of,
    scores_of,
)
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper, WindowResult
from dualasr.model.language_id import EncodedAudio
from dualasr.model.selector import PRIMARY
from dualasr.packs.format import read_fingerprints
from dualasr.parallel import one_ahead, worker_pool
from dualasr.progress import progress_bar
from dualasr.text import scoring_unit


@dataclass(frozen=True)
class EvaluationOptions:
    """Settings of an evaluation.

    Attributes:
        beam: Beam width of both pipelines; the paper evaluates with 5.
        batch: Windows decoded together.
        bootstrap: Resamples for the intervals of the rates; 0 for no intervals.
        seed: Seed of the resampling.
        max_new_tokens: How many tokens the primary writes at most for a window; None for the
            model's own limit.
        probes: How many sounds without speech are transcribed, to count the words written for
            them.
    """

    beam: int = 5
    batch: int = 16
    bootstrap: int = 1000
    seed: int = 0
    max_new_tokens: int | None = None
    probes: int = 20

    @property
    def decoding(self) -> DecodeOptions:
        """The settings with which all windows are decoded."""
        limit = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        return DecodeOptions(beam=self.beam, generate=limit)


@dataclass(frozen=True)
class ClipSound:
    """The sound of a clip, and the agnostic results of its windows.

    Attributes:
        sound: Where the sound is.
        windows: A result for each window, without language probabilities, scores and hypotheses.
    """

    sound: Sound
    windows: tuple[WindowResult, ...]


@dataclass(frozen=True)
class Evaluation:
    """A report, and the clips behind it.

    The report can be written as JSON. Rates are fractions, None without reference text. They are
    computed with the mark-safe normaliser; those under "whisper" with Whisper's. Its keys:

    - "languages", by code: n (clips), hours, pipeline, known (whether a pipeline knows it), unit,
      and for each mode wer, cer, wer_interval, cer_interval, whisper, word and character (counts of
      errors).
    - "mean": the mean of the languages' rates, by mode.
    - "routing": `scoring.routing_of`.
    - "empty_references": `scoring.empty_references_of`.
    - "contamination": test clips in the training data of packs (`scoring.contamination_of`); None
      without packs.
    - "hallucination": words written for sounds without speech; None without probes.
    - "skipped": what could not be used, each with its reason.
    - "settings", "base", "packs": what the numbers depend on.
    - "decoded": windows by pipeline that were decoded, not counting kept hypotheses.
    - "seconds": time of reading, encoding and decoding, in seconds.
    - "real_time_factor": "seconds" divided by the length of the sound; None if there were kept
      hypotheses.

    Attributes:
        report: The report.
        clips: The clips, language by language.
        sounds: The sound of each clip, in the order of `clips`.
    """

    report: dict
    clips: tuple[ClipResult, ...]
    sounds: tuple[ClipSound, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Run:
    """What all languages of an evaluation share. `decoded` and `lost` grow while it runs.

    Attributes:
        model: What is evaluated.
        options: The settings.
        caches: Kept hypotheses, by pipeline; {} keeps none.
        lost: Source and reason of what could not be used.
        decoded: Number of windows that were decoded, by pipeline.
    """

    model: DualWhisper
    options: EvaluationOptions
    caches: Mapping[str, HypothesisCache]
    lost: list[dict[str, str]]
    decoded: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class _Window:
    """A window in every mode: its length in samples, the posterior of its route, its result."""

    samples: int
    modes: Mapping[str, ModeResult]
    confidence: float
    result: WindowResult


@dataclass(frozen=True, eq=False)
class _Clip:
    """An utterance, its results in every mode, and the agnostic results of its windows."""

    row: Utterance
    result: ClipResult
    windows: tuple[WindowResult, ...]


def evaluate(
    model: DualWhisper,
    utterances: Iterable[Utterance],
    options: EvaluationOptions = EvaluationOptions(),
    *,
    skipped: Iterable[SkippedRow] = (),
    answers: Path | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Transcribe utterances in every mode and score them.

    A clip longer than the base's window is cut at its quietest places; its transcripts are joined
    with spaces. A file that cannot be read is listed under "skipped". A clip shorter than a frame
    has no text and no language, and the primary as its agnostic route. The primary transcribes a
    language that no pipeline knows; such a language counts in no routing accuracy.

    Args:
        model: The base with its packs.
        utterances: What is transcribed and scored.
        options: The settings.
        skipped: Rows of the corpus that could not be used (`Corpus.skipped`), to be listed in the
            report.
        answers: Folder where hypotheses are kept. What a pipeline wrote for a window in an earlier
            evaluation with the same settings, or in this one before it was stopped, is not decoded
            again. None keeps nothing.
        progress: Whether to show a progress bar; None shows it on a terminal.

    Returns:
        The report, and the clips behind it.

    Raises:
        CorpusError: There is no clip, or none can be read.
        RunError: `answers` cannot be used.
    """
    started = time.monotonic()
    # 1. clips by language, and the pipeline that knows each language
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.language, []).append(utterance)
    pipelines = {language: _pipeline_of(model, language) for language in sorted(groups)}
    run = _Run(
        model=model,
        options=options,
        caches=_open_caches(model, options, answers),
        lost=[{"source": row.source, "reason": row.reason} for row in skipped],
    )
    kept_before = any(cache.known for cache in run.caches.values())
    # 2. every clip in every mode
    found = _transcribe_all(run, groups, pipelines, progress)
    seconds = time.monotonic() - started
    if not found:
        why = f" ({run.lost[0]['reason']})" if run.lost else ""
        total = sum(map(len, groups.values()))
        raise CorpusError(
            f"There is nothing to evaluate: {total} clips were given, none could be read{why}."
        )
    # 3. the rates
    report = _report(run, found, pipelines) | {"seconds": seconds, "real_time_factor": None}
    clips = [clip for group in found.values() for clip in group]
    if not kept_before:
        report["real_time_factor"] = seconds / sum(clip.result.seconds for clip in clips)
    return Evaluation(
        report=report,
        clips=tuple(clip.result for clip in clips),
        sounds=tuple(ClipSound(clip.row.sound, clip.windows) for clip in clips),
    )


def _pipeline_of(model: DualWhisper, language: str) -> str | None:
    """Return the pipeline that knows a language; None if none does."""
    with suppress(PackError):
        return model.route_of(language)
    return None


def _open_caches(
    model: DualWhisper, options: EvaluationOptions, folder: Path | None
) -> dict[str, HypothesisCache]:
    """Return the kept hypotheses of each pipeline."""
    if folder is None:
        return {}
    return {
        name: HypothesisCache.open(folder, model, name, options.decoding)
        for name in (PRIMARY, *model.packs)
    }


def _transcribe_all(
    run: _Run,
    groups: Mapping[str, Sequence[Utterance]],
    pipelines: Mapping[str, str | None],
    progress: bool | None,
) -> dict[str, list[_Clip]]:
    """Return the transcribed clips of each language that has any."""
    found = {}
    total = sum(map(len, groups.values()))
    with progress_bar(desc="evaluate", total=total, unit="clip", shown=progress) as bar:
        for language, pipeline in pipelines.items():
            if clips := _transcribe(run, groups[language], pipeline or PRIMARY, bar):
                found[language] = clips
    return found


def _transcribe(
    run: _Run, utterances: Sequence[Utterance], pipeline: str, bar: tqdm
) -> list[_Clip]:
    """Transcribe the utterances of one language that can be read, in order."""
    model, batch_size = run.model, run.options.batch
    durations: dict[int, float] = {}  # in seconds, by the number of the utterance
    windows: dict[int, list[_Window]] = {}

    def read() -> Iterator[tuple[int, np.ndarray]]:
        """Yield the windows of all utterances, each with the number of its utterance."""
        for i, utterance in enumerate(utterances):
            bar.update()
            try:
                samples = load_audio(utterance.sound)
            except AudioError as error:
                run.lost.append({"source": utterance.id, "reason": str(error)})
                continue
            durations[i], windows[i] = len(samples) / SAMPLE_RATE, []
            for start, end in split_windows(samples, model.backbone.window_s):
                if end - start >= SHORTEST:
                    yield i, samples[start:end]

    stream = read()
    batches = iter(lambda: list(islice(stream, batch_size)), [])
    with worker_pool() as (pool, _):
        for batch, audio in one_ahead(
            pool, lambda batch: model.encode_audio([samples for _, samples in batch]), batches
        ):
            results = _every_mode(run, [samples for _, samples in batch], audio, pipeline)
            for (i, _), window in zip(batch, results, strict=True):
                windows[i].append(window)
    return [
        _join_windows(utterances[i], seconds, windows[i], pipeline)
        for i, seconds in durations.items()
    ]


def _every_mode(
    run: _Run, clips: Sequence[np.ndarray], audio: EncodedAudio, pipeline: str
) -> list[_Window]:
    """Decode a batch in every mode. Its windows are of one language, which `pipeline` knows."""
    model = run.model
    # 1. hypotheses by all routes that a mode needs; kept ones are not decoded again
    keys = [digest(samples) for samples in clips] if run.caches else []
    cached = {
        name: {i: cache.known[key] for i, key in enumerate(keys) if key in cache.known}
        for name, cache in run.caches.items()
    }
    routing = model.route(audio)
    plan = routing.plan(pipeline, runners_up=pipeline != PRIMARY)
    decoded = model.decode_routes(audio, routing, plan, run.options.decoding, cached=cached)
    results = model.conclude(audio, routing, decoded)
    # 2. what was decoded is counted and kept
    for name, hypotheses in decoded.hypotheses.items():
        run.decoded[name] += len(hypotheses.keys() - cached.get(name, {}).keys())
        if name in run.caches:
            run.caches[name].keep({keys[i]: known for i, known in sorted(hypotheses.items())})
    # 3. the modes
    return [
        _Window(
            samples=len(samples),
            modes=_modes(result, pipeline),
            confidence=_posterior(model, result),
            result=replace(result, language_probs={}, scores={}, hypotheses={}),
        )
        for samples, result in zip(clips, results, strict=True)
    ]


def _modes(result: WindowResult, pipeline: str) -> dict[str, ModeResult]:
    """Return a window's result in each mode."""
    nearest = PRIMARY if pipeline == PRIMARY else result.runner_up
    assert nearest is not None, "a pack is loaded, so one comes nearest"
    given = {
        "pipeline_aware": (pipeline, "the pipeline that knows the language is given"),
        "group_aware": (nearest, "whether the primary or a pack knows the language is given"),
    }
    modes = {}
    for mode, (name, reason) in given.items():
        hypothesis, language = result.hypotheses[name]
        modes[mode] = ModeResult(hypothesis.text, name, language, reason)
    agnostic = ModeResult(result.text, result.route, result.language, result.reason)
    return {**modes, "agnostic": agnostic}


def _posterior(model: DualWhisper, result: WindowResult) -> float:
    """Return the probability of a window's route: the sum over the languages of its pipeline."""
    of_packs = {
        name: sum(result.language_probs.get(code, 0.0) for code in pack.info.languages)
        for name, pack in model.packs.items()
    }
    return of_packs.get(result.route, 1.0 - sum(of_packs.values()))


def _join_windows(
    row: Utterance, seconds: float, windows: Sequence[_Window], pipeline: str
) -> _Clip:
    """Join the windows of a clip. Its confidence is the mean, weighted by their lengths."""
    total = sum(window.samples for window in windows)
    confidence = (
        sum(window.samples * window.confidence for window in windows) / total if total else None
    )
    modes = {
        mode: _join_mode(
            [(window.samples, window.modes[mode]) for window in windows],
            PRIMARY if mode == "agnostic" else pipeline,
        )
        for mode in MODES
    }
    result = ClipResult(
        id=row.id,
        language=row.language,
        ref=row.text,
        seconds=seconds,
        windows=len(windows),
        **modes,
        confidence=confidence,
    )
    return _Clip(row, result, tuple(window.result for window in windows))


def _join_mode(parts: Sequence[tuple[int, ModeResult]], fallback: str) -> ModeResult:
    """Join a mode's results of windows, each with the window's length in samples.

    Texts are joined; route and language are those of the most samples; each reason is given once. A
    clip without windows has `fallback` as its route.
    """
    if not parts:
        return ModeResult("", fallback, "", f"shorter than {SHORTEST} samples, not transcribed")

    def most(field: str) -> str:
        lengths: dict[str, int] = {}
        for samples, part in parts:
            name = getattr(part, field)
            lengths[name] = lengths.get(name, 0) + samples
        return max(lengths, key=lengths.__getitem__)

    return ModeResult(
        hyp=" ".join(part.hyp for _, part in parts if part.hyp),
        route=most("route"),
        language=most("language"),
        reason="; then ".join(dict.fromkeys(part.reason for _, part in parts)),
    )


def _report(
    run: _Run, found: Mapping[str, Sequence[_Clip]], pipelines: Mapping[str, str | None]
) -> dict:
    """Return the report of transcribed clips, without times."""
    model, options, backbone = run.model, run.options, run.model.backbone
    results = {code: [clip.result for clip in clips] for code, clips in found.items()}
    rows = [clip.row for clips in found.values() for clip in clips]
    flat = [result for group in results.values() for result in group]
    languages, mean = _rates(results, pipelines, options)
    return {
        "languages": languages,
        "mean": mean,
        "routing": routing_of(flat, languages, [PRIMARY, *model.packs]),
        "empty_references": empty_references_of(results),
        "contamination": _contamination(model, rows, flat),
        "hallucination": (
            count_hallucinations(model, options.probes, options.decoding)
            if options.probes
            else None
        ),
        "skipped": run.lost,
        "settings": {
            **asdict(options),
            "selector": json.loads(json.dumps(asdict(model.selector))),
            "device": str(backbone.device),
            "dtype": str(backbone.model.dtype),
            "splits": sorted({row.split for row in rows}),
        },
        "base": {"name": backbone.name, "checksum": backbone.checksum},
        "packs": [
            {"name": pack.name, "languages": list(pack.info.languages)}
            for pack in model.packs.values()
        ],
        "decoded": {name: run.decoded[name] for name in (PRIMARY, *model.packs)},
    }


def _rates(
    results: Mapping[str, Sequence[ClipResult]],
    pipelines: Mapping[str, str | None],
    options: EvaluationOptions,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Return "languages" and "mean" of a report."""
    tables = {
        code: {mode: error_counts_by_sentence(clips, mode) for mode in MODES}
        for code, clips in results.items()
    }
    languages = {}
    for code, clips in results.items():
        scores = {
            mode: scores_of([tables[code][mode]], options.bootstrap, options.seed)
            | error_counts(clips, mode)
            for mode in MODES
        }
        languages[code] = {
            "n": len(clips),
            "hours": sum(clip.seconds for clip in clips) / 3600,
            "pipeline": pipelines[code] or PRIMARY,
            "known": pipelines[code] is not None,
            "unit": scoring_unit(code),
            **scores,
        }
    mean = {
        mode: scores_of([of[mode] for of in tables.values()], options.bootstrap, options.seed)
        for mode in MODES
    }
    return languages, mean


def _contamination(
    model: DualWhisper, rows: Sequence[Utterance], clips: Sequence[ClipResult]
) -> dict | None:
    """Return which clips the packs were trained on.

    None without packs: the training data of the base is not known.
    """
    trained = {name: read_fingerprints(pack.folder) for name, pack in model.packs.items()}
    if not trained:
        return None
    # without fingerprints of a pack there is nothing to compare the clips with
    compared = rows if any(known is not None for known in trained.values()) else []
    test = fingerprint([(row.sound, row.text, row.language) for row in compared], progress=False)
    return contamination_of(clips, test, trained)
