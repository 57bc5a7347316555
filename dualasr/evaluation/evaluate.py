"""Error rates of a model on transcribed speech, by what is known of a clip beforehand, and the
routing.

    pipeline-aware   the primary or the pack that knows the language is given, its tag is not
    group-aware      only old or new is given: the primary, or the pack that comes nearest (paper, section 3.3)
    agnostic         nothing is given; the selector routes every window

All share one encoding, and no pipeline decodes a window twice: not in one evaluation, nor, with
`answers`, in a later one. A batch holds one language only, so what is decoded together
pipeline-aware never depends on the loaded packs, and a report after the next pack repeats those
rates exactly.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
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
    error_counts,
    error_counts_by_sentence,
    routing_of,
    scores_of,
)
from dualasr.model.dual_whisper import NOTHING_CACHED, DecodeOptions, DualWhisper, WindowResult
from dualasr.model.language_id import EncodedAudio
from dualasr.model.selector import PRIMARY
from dualasr.packs.format import read_fingerprints
from dualasr.parallel import one_ahead, worker_pool
from dualasr.text import scoring_unit


@dataclass(frozen=True)
class EvaluationOptions:
    """beam of both pipelines (the paper's 5), windows a batch, resamples of the intervals, most
    tokens of the primary.

    `probes` sounds without speech are transcribed, too, and the words written for them counted.
    """

    beam: int = 5
    batch: int = 16
    bootstrap: int = 1000
    seed: int = 0
    max_new_tokens: int | None = None
    probes: int = 20


@dataclass(frozen=True)
class ClipSound:
    """Where a clip's sound is, and the agnostic result of each of its windows, without evidence."""

    sound: Sound
    windows: tuple[WindowResult, ...]


@dataclass(frozen=True)
class Evaluation:
    """The report, ready for JSON, and the clips behind it, language by language, each with its
    sound.

    `report` holds "languages" (by code: n, hours, pipeline, known, unit, and wer, cer,
    wer_interval, cer_interval and whisper of each mode), "mean" (of the languages, each weighing
    the same), "routing", "contamination" (test clips in the training data of packs; None without
    packs), "hallucination", "skipped", "settings", "base", "packs", "decoded" (windows by pipeline;
    what `answers` held is not among them), "seconds" (of reading and all modes together) and
    "real_time_factor" (those by the length of the sound; None where answers were kept). Rates are
    fractions, None without reference text; mark-safe normaliser, under "whisper" Whisper's.
    """

    report: dict
    clips: tuple[ClipResult, ...]
    sounds: tuple[ClipSound, ...] = ()  # of the clips, in their order


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

    `answers` is a folder where hypotheses are kept: what a pipeline said of a window in an earlier
    evaluation with the same decoding settings, or in this one before it was killed, is not decoded
    again.

    A clip longer than the base's window is cut where it is quietest and its transcripts are joined
    with spaces. A file that cannot be read is listed in the report's "skipped", after the rows that
    `skipped` hands in (`Corpus.skipped`). A clip too short to be heard has no text and no language,
    and the primary as its agnostic route. A language that no pipeline knows is given to the primary
    and left out of the routing accuracies. `progress` None shows a bar on a terminal. Raises
    CorpusError if no clip can be read, or there is none.
    """
    started = time.monotonic()
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.language, []).append(utterance)
    lost = [{"source": row.source, "reason": row.reason} for row in skipped]
    # None where no pipeline knows the language
    pipelines: dict[str, str | None] = dict.fromkeys(sorted(groups))
    for language in pipelines:
        with suppress(PackError):
            pipelines[language] = model.route_of(language)
    total, rows, clips, sounds, decoded = sum(map(len, groups.values())), [], {}, [], Counter()
    kept, decoded_before = None, False
    if answers is not None:
        kept = {
            name: HypothesisCache.open(answers, model, name, _decoding(options))
            for name in (PRIMARY, *model.packs)
        }
        decoded_before = any(answers.known for answers in kept.values())
    with tqdm(
        total=total,
        desc="evaluate",
        unit="clip",
        disable=None if progress is None else not progress,
    ) as bar:
        for language, pipeline in pipelines.items():
            if found := _transcribe(
                model, groups[language], pipeline or PRIMARY, options, lost, bar, kept, decoded
            ):
                rows += [row for row, _, _ in found]
                clips[language] = [clip for _, clip, _ in found]
                sounds += [ClipSound(row.sound, windows) for row, _, windows in found]
    seconds = time.monotonic() - started
    if not clips:
        why = f" ({lost[0]['reason']})" if lost else ""
        raise CorpusError(
            f"There is nothing to evaluate: {total} clips were given, none could be read{why}."
        )
    tables = {
        code: {mode: error_counts_by_sentence(group, mode) for mode in MODES}
        for code, group in clips.items()
    }
    resampling, languages = (options.bootstrap, options.seed), {}
    for code, group in clips.items():
        scores = {
            mode: scores_of([tables[code][mode]], *resampling) | error_counts(group, mode)
            for mode in MODES
        }
        languages[code] = {
            "n": len(group),
            "hours": sum(clip.seconds for clip in group) / 3600,
            "pipeline": pipelines[code] or PRIMARY,
            "known": pipelines[code] is not None,
            "unit": scoring_unit(code),
            **scores,
        }
    flat, backbone = tuple(clip for group in clips.values() for clip in group), model.backbone
    report = {
        "languages": languages,
        "mean": {
            mode: scores_of([table[mode] for table in tables.values()], *resampling)
            for mode in MODES
        },
        "routing": routing_of(flat, languages, [PRIMARY, *model.packs]),
        "contamination": _contamination(model, rows, flat),
        "hallucination": (
            count_hallucinations(model, options.probes, _decoding(options))
            if options.probes
            else None
        ),
        "skipped": lost,
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
        "decoded": {name: decoded[name] for name in (PRIMARY, *model.packs)},
        "seconds": seconds,
        "real_time_factor": (
            None if decoded_before else seconds / sum(clip.seconds for clip in flat)
        ),
    }
    return Evaluation(report, flat, tuple(sounds))


def _contamination(
    model: DualWhisper, rows: Sequence[Utterance], clips: Sequence[ClipResult]
) -> dict | None:
    """None where no pack is loaded, for what the base was trained on is not known."""
    trained = {name: read_fingerprints(pack.folder) for name, pack in model.packs.items()}
    if not trained:
        return None
    asked = rows if any(known is not None for known in trained.values()) else []
    heard = fingerprint([(row.sound, row.text, row.language) for row in asked], progress=False)
    return contamination_of(clips, heard, trained)


def _transcribe(
    model: DualWhisper,
    utterances: Sequence[Utterance],
    route: str,
    options: EvaluationOptions,
    lost: list[dict],
    bar: tqdm,
    kept: dict[str, HypothesisCache] | None,
    decoded: Counter[str],
) -> list[tuple[Utterance, ClipResult, tuple[WindowResult, ...]]]:
    """The utterances of one language that can be read, in order, and what became of them; the
    others go to `lost`.
    """
    # of a clip its seconds, and of each of its windows (samples, modes, confidence, result)
    heard: dict[int, tuple[float, list]] = {}

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        for i, utterance in enumerate(utterances):
            bar.update()
            try:
                samples = load_audio(utterance.sound)
            except AudioError as error:
                lost.append({"source": utterance.id, "reason": str(error)})
                continue
            heard[i] = len(samples) / SAMPLE_RATE, []
            for start, end in split_windows(samples, model.backbone.window_s):
                if end - start >= SHORTEST:
                    yield i, samples[start:end]

    stream = windows()
    batches = iter(lambda: list(islice(stream, options.batch)), [])
    with worker_pool() as (pool, _):
        for batch, audio in one_ahead(
            pool, lambda batch: model.encode_audio([samples for _, samples in batch]), batches
        ):
            results = _every_mode(
                model, [samples for _, samples in batch], audio, route, options, kept, decoded
            )
            for (i, samples), found in zip(batch, results, strict=True):
                heard[i][1].append((len(samples), *found))
    clips = []
    for i, (seconds, parts) in heard.items():
        joined = [
            _join(
                [(count, modes[mode]) for count, modes, *_ in parts],
                route if mode != "agnostic" else PRIMARY,
            )
            for mode in MODES
        ]
        total = sum(count for count, *_ in parts)
        confidence = sum(count * sure for count, _, sure, _ in parts) / total if total else None
        row = utterances[i]
        clip = ClipResult(row.id, row.language, row.text, seconds, len(parts), *joined, confidence)
        clips.append((row, clip, tuple(result for *_, result in parts)))
    return clips


def _decoding(options: EvaluationOptions) -> DecodeOptions:
    generate = {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens}
    return DecodeOptions(beam=options.beam, generate=generate)


def _every_mode(
    model: DualWhisper,
    windows: Sequence[np.ndarray],
    audio: EncodedAudio,
    route: str,
    options: EvaluationOptions,
    kept: dict[str, HypothesisCache] | None,
    decoded: Counter[str],
) -> list[tuple[dict[str, ModeResult], float, WindowResult]]:
    """Each window in every mode, the posterior of its agnostic route, and its agnostic result.

    What the modes share is computed once. The result comes without its evidence, for all are kept.
    Pipeline-aware the whole batch goes by `route`.
    """
    keys = [digest(samples) for samples in windows] if kept else []
    cached = {
        name: {i: answers.known[key] for i, key in enumerate(keys) if key in answers.known}
        for name, answers in (kept or {}).items()
    }
    routing = model.route(audio)
    plan = routing.plan(route, runners_up=route != PRIMARY)
    found = model.decode_routes(
        audio, routing, plan, _decoding(options), cached=cached or NOTHING_CACHED
    )
    results = model.conclude(audio, routing, found)
    decoded.update(
        name
        for i, result in enumerate(results)
        for name in result.hypotheses
        if i not in cached.get(name, {})
    )
    for name, answers in (kept or {}).items():
        said = {
            key: result.hypotheses[name]
            for key, result in zip(keys, results, strict=True)
            if name in result.hypotheses
        }
        answers.keep(said)

    def mode(result: WindowResult, name: str, reason: str) -> ModeResult:
        hypothesis, language = result.hypotheses[name]
        return ModeResult(hypothesis.text, name, language, reason)

    rows = []
    for result in results:
        new = route if route == PRIMARY else result.runner_up
        modes = (
            mode(result, route, "the right pipeline is given"),
            mode(result, new, "old or new is given"),
            ModeResult(result.text, result.route, result.language, result.reason),
        )
        small = replace(result, language_probs={}, scores={}, hypotheses={})
        rows.append((dict(zip(MODES, modes, strict=True)), _posterior(model, result), small))
    return rows


def _posterior(model: DualWhisper, result: WindowResult) -> float:
    """Of the pipeline that a window went to: the probabilities of its languages."""
    of_packs = {
        name: sum(result.language_probs.get(code, 0.0) for code in pack.info.languages)
        for name, pack in model.packs.items()
    }
    return of_packs.get(result.route, 1.0 - sum(of_packs.values()))


def _join(parts: list[tuple[int, ModeResult]], fallback: str) -> ModeResult:
    """A clip of its windows: texts joined, the route and the language of the most samples, every
    reason once.
    """
    if not parts:
        return ModeResult("", fallback, "", f"shorter than {SHORTEST} samples, not listened to")

    def most(field: str) -> str:
        names = dict.fromkeys(getattr(part, field) for _, part in parts)
        return max(
            names,
            key=lambda name: sum(
                samples for samples, part in parts if getattr(part, field) == name
            ),
        )

    reasons = "; then ".join(dict.fromkeys(part.reason for _, part in parts))
    return ModeResult(
        " ".join(part.hyp for _, part in parts if part.hyp),
        most("route"),
        most("language"),
        reasons,
    )
