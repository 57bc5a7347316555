"""Error rates of a model on transcribed speech, by what is known of a clip beforehand, and the routing.

    pipeline-aware   the primary or the pack that knows the language is given, its tag is not
    group-aware      only old or new is given: the primary, or the pack that comes nearest (paper, section 3.3)
    agnostic         nothing is given; the selector routes every window

All share one encoding, and no pipeline decodes a window twice: not in one evaluation, nor, with `answers`, in a later
one. A batch holds one language only, so what is decoded together pipeline-aware never depends on the loaded packs, and
a report after the next pack repeats those rates exactly.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dualasr.answers import Answers, digest
from dualasr.audio import SAMPLE_RATE, SHORTEST, load_audio, split_windows
from dualasr.cores import core_pool, one_ahead
from dualasr.corpus import SkippedRow, Utterance
from dualasr.errors import AudioError, CorpusError, PackError
from dualasr.hallucination import count_hallucinations
from dualasr.metrics import bootstrap_interval, character_errors, comparable, per_clip_errors, reliability, word_errors
from dualasr.model import DecodeOptions, DualWhisper, Heard, WindowResult
from dualasr.selector import PRIMARY
from dualasr.text import NORMALISERS, scoring_unit

MODES = ("pipeline_aware", "group_aware", "agnostic")


@dataclass(frozen=True)
class EvaluationOptions:
    """beam of both pipelines (the paper's 5), windows a batch, resamples of the intervals, most tokens of the primary.

    `probes` sounds without speech are transcribed, too, and the words written for them counted.
    """

    beam: int = 5
    batch: int = 16
    bootstrap: int = 1000
    seed: int = 0
    max_new_tokens: int | None = None
    probes: int = 20


@dataclass(frozen=True)
class ModeResult:
    """What one mode made of a clip; of several windows, `route` and `language` are those of the most seconds."""

    hyp: str
    route: str
    language: str
    reason: str


@dataclass(frozen=True)
class ClipResult:
    """A clip in every mode; `language` and `ref` are the corpus', `seconds` its length, `windows` the pieces heard.

    `confidence` is the selector's posterior of the agnostic route, the mean over the windows by their length.
    """

    id: str
    language: str
    ref: str
    seconds: float
    windows: int
    pipeline_aware: ModeResult
    group_aware: ModeResult
    agnostic: ModeResult
    confidence: float | None


@dataclass(frozen=True)
class Evaluation:
    """The report, ready for JSON, and the clips behind it, language by language.

    `report` holds "languages" (by code: n, hours, pipeline, known, unit, and wer, cer, wer_interval, cer_interval and
    whisper of each mode), "mean" (of the languages, each weighing the same), "routing", "skipped", "settings", "base",
    "packs", "seconds" (of reading and all modes together) and "real_time_factor" (those by the length of the sound).
    Rates are fractions, None without reference text; mark-safe normaliser, under "whisper" Whisper's.
    """

    report: dict
    clips: tuple[ClipResult, ...]


def evaluate(model: DualWhisper, utterances: Iterable[Utterance], options: EvaluationOptions = EvaluationOptions(), *,
             skipped: Iterable[SkippedRow] = (), answers: Path | None = None,
             progress: bool | None = None) -> Evaluation:  # fmt: skip
    """Transcribe utterances in every mode and score them.

    `answers` is a folder where hypotheses are kept: what a pipeline said of a window in an earlier evaluation with the same
    decoding settings, or in this one before it was killed, is not decoded again.

    A clip longer than the base's window is cut where it is quietest and its transcripts are joined with spaces. A file
    that cannot be read is listed in the report's "skipped", after the rows that `skipped` hands in (`Corpus.skipped`).
    A clip too short to be heard has no text and no language, and the primary as its agnostic route.
    A language that no pipeline knows is given to the primary and left out of the routing accuracies. `progress` None
    shows a bar on a terminal. Raises CorpusError if no clip can be read, or there is none.
    """
    started = time.monotonic()
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.language, []).append(utterance)
    lost = [{"source": row.source, "reason": row.reason} for row in skipped]
    pipelines: dict[str, str | None] = dict.fromkeys(sorted(groups))  # None where no pipeline knows the language
    for language in pipelines:
        with suppress(PackError):
            pipelines[language] = model.route_of(language)
    total, clips = sum(map(len, groups.values())), {}
    kept = None
    if answers is not None:
        kept = {name: Answers.open(answers, model, name, _decoding(options)) for name in (PRIMARY, *model.packs)}
    with tqdm(total=total, desc="evaluate", unit="clip", disable=None if progress is None else not progress) as bar:
        for language, pipeline in pipelines.items():
            if found := _transcribe(model, groups[language], pipeline or PRIMARY, options, lost, bar, kept):
                clips[language] = found
    seconds = time.monotonic() - started
    if not clips:
        why = f" ({lost[0]['reason']})" if lost else ""
        raise CorpusError(f"There is nothing to evaluate: {total} clips were given, none could be read{why}.")
    languages, tables = {}, {mode: [tables_of(group, mode) for group in clips.values()] for mode in MODES}
    for k, (code, group) in enumerate(clips.items()):
        languages[code] = {
            "n": len(group), "hours": sum(clip.seconds for clip in group) / 3600, "pipeline": pipelines[code] or PRIMARY,
            "known": pipelines[code] is not None, "unit": scoring_unit(code),
            **{mode: _scores([tables[mode][k]], options) | _counts(group, mode) for mode in MODES},
        }  # fmt: skip
    flat, backbone = tuple(clip for group in clips.values() for clip in group), model.backbone
    report = {
        "languages": languages,
        "mean": {mode: _scores(tables[mode], options) for mode in MODES},
        "routing": _routing(flat, languages, [PRIMARY, *model.packs]),
        "hallucination": count_hallucinations(model, options.probes, _decoding(options)) if options.probes else None,
        "skipped": lost,
        "settings": {
            **asdict(options), "selector": asdict(model.selector), "device": str(backbone.device),
            "dtype": str(backbone.model.dtype), "splits": sorted({u.split for group in groups.values() for u in group}),
        },
        "base": {"name": backbone.name, "checksum": backbone.checksum},
        "packs": [{"name": pack.name, "languages": list(pack.info.languages)} for pack in model.packs.values()],
        "seconds": seconds,
        "real_time_factor": seconds / sum(clip.seconds for clip in flat),
    }  # fmt: skip
    return Evaluation(report, flat)


def _transcribe(model: DualWhisper, utterances: Sequence[Utterance], route: str, options: EvaluationOptions,
                lost: list[dict], bar: tqdm, kept: dict[str, Answers] | None) -> list[ClipResult]:  # fmt: skip
    """The clips of one language that can be read, in order; the others are added to `lost`."""
    heard: dict[int, tuple[float, list]] = {}  # of a clip, its seconds, and (samples, modes, confidence) of its windows

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
    with core_pool() as (pool, _):
        for batch, evidence in one_ahead(pool, lambda batch: model.listen([samples for _, samples in batch]), batches):
            results = _every_mode(model, [samples for _, samples in batch], evidence, route, options, kept)
            for (i, samples), (modes, confidence) in zip(batch, results, strict=True):
                heard[i][1].append((len(samples), modes, confidence))
    clips = []
    for i, (seconds, parts) in heard.items():
        joined = [_join([(count, modes[mode]) for count, modes, _ in parts], route if mode != "agnostic" else PRIMARY)
                  for mode in MODES]  # fmt: skip
        total = sum(count for count, _, _ in parts)
        confidence = sum(count * sure for count, _, sure in parts) / total if total else None
        row = utterances[i]
        clips.append(ClipResult(row.id, row.language, row.text, seconds, len(parts), *joined, confidence))
    return clips


def _decoding(options: EvaluationOptions) -> DecodeOptions:
    generate = {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens}
    return DecodeOptions(beam=options.beam, generate=generate)


def _every_mode(model: DualWhisper, windows: Sequence[np.ndarray], evidence: Heard, route: str, options: EvaluationOptions,
                kept: dict[str, Answers] | None) -> list[tuple[dict[str, ModeResult], float]]:  # fmt: skip
    """Each window in every mode, and the posterior of its agnostic route; what the modes share is computed once.

    Pipeline-aware the whole batch goes by `route`.
    """
    keys = [digest(samples) for samples in windows] if kept else []
    given = {name: {i: answers.known[key] for i, key in enumerate(keys) if key in answers.known}
             for name, answers in (kept or {}).items()}  # fmt: skip
    results = model.transcribe_heard(evidence, also=[route], rivals=route != PRIMARY, given=given, options=_decoding(options))
    for name, answers in (kept or {}).items():
        said = {key: result.hypotheses[name] for key, result in zip(keys, results, strict=True) if name in result.hypotheses}
        answers.keep(said)

    def mode(result: WindowResult, name: str, reason: str) -> ModeResult:
        hypothesis, language = result.hypotheses[name]
        return ModeResult(hypothesis.text, name, language, reason)

    found = []
    for result in results:
        new = route if route == PRIMARY else result.rival
        modes = (mode(result, route, "the right pipeline is given"), mode(result, new, "old or new is given"),
                 ModeResult(result.text, result.route, result.language, result.reason))  # fmt: skip
        found.append((dict(zip(MODES, modes, strict=True)), _posterior(model, result)))
    return found


def _posterior(model: DualWhisper, result: WindowResult) -> float:
    """Of the pipeline that a window went to: the probabilities of its languages."""
    of_packs = {name: sum(result.language_probs.get(code, 0.0) for code in pack.info.languages)
                for name, pack in model.packs.items()}  # fmt: skip
    return of_packs.get(result.route, 1.0 - sum(of_packs.values()))


def _join(parts: list[tuple[int, ModeResult]], fallback: str) -> ModeResult:
    """A clip of its windows: texts joined, the route and the language of the most samples, every reason once."""
    if not parts:
        return ModeResult("", fallback, "", f"shorter than {SHORTEST} samples, not listened to")

    def most(field: str) -> str:
        names = dict.fromkeys(getattr(part, field) for _, part in parts)
        return max(names, key=lambda name: sum(samples for samples, part in parts if getattr(part, field) == name))

    reasons = "; then ".join(dict.fromkeys(part.reason for _, part in parts))
    return ModeResult(" ".join(part.hyp for _, part in parts if part.hyp), most("route"), most("language"), reasons)


def _texts(clips: Sequence[ClipResult], mode: str, method: str) -> dict[str, tuple[list[str], list[str]]]:
    """References and hypotheses of clips of one language, as each rate counts them."""
    refs, hyps = (comparable(texts, clips[0].language, method)
                  for texts in ([clip.ref for clip in clips], [getattr(clip, mode).hyp for clip in clips]))  # fmt: skip
    return dict(zip(("wer", "cer"), zip(refs, hyps, strict=True), strict=True))


def tables_of(clips: Sequence[ClipResult], mode: str) -> dict[str, dict[str, np.ndarray]]:
    """Errors and reference length of clips of one language, by normaliser and rate: int, (n, 2)."""
    units = {"wer": "word", "cer": "character"}
    return {method: {rate: per_clip_errors(*texts, units[rate]) for rate, texts in _texts(clips, mode, method).items()}
            for method in NORMALISERS}  # fmt: skip


def _counts(clips: Sequence[ClipResult], mode: str) -> dict[str, dict[str, int]]:
    """Substitutions, deletions and insertions in words and in characters, mark-safe."""
    texts = _texts(clips, mode, "marks")
    found = {"word": word_errors(*texts["wer"]), "character": character_errors(*texts["cer"])}
    keys = ("substitutions", "deletions", "insertions", "length")
    return {unit: {key: getattr(count, key) for key in keys} for unit, count in found.items()}


def _scores(languages: Sequence[dict[str, dict[str, np.ndarray]]], options: EvaluationOptions) -> dict:
    """Rates of `_tables`; of several languages, the mean of their rates. A language without reference has none."""
    scores: dict = {"whisper": {}}
    for method, into in (("marks", scores), ("whisper", scores["whisper"])):
        for rate in ("wer", "cer"):
            tables = [language[method][rate] for language in languages if language[method][rate][:, 1].any()]
            rates = [errors / length for errors, length in (table.sum(axis=0) for table in tables)]
            into[rate] = float(np.mean(rates)) if rates else None
            if method == "marks":
                into[f"{rate}_interval"] = _interval(tables, options) if rates and options.bootstrap else None
    return scores


def _interval(tables: Sequence[np.ndarray], options: EvaluationOptions) -> list[float]:
    """95 % bootstrap interval of the mean rate, the clips of each language resampled on their own."""
    if len(tables) == 1:
        return list(bootstrap_interval(tables[0], samples=options.bootstrap, seed=options.seed))
    generator = np.random.default_rng(options.seed)
    means = np.zeros(options.bootstrap)
    for table in tables:
        for k in range(options.bootstrap):
            errors, length = table[generator.integers(len(table), size=len(table))].sum(axis=0)
            means[k] += errors / max(length, 1) / len(tables)
    return np.quantile(means, [0.025, 0.975]).tolist()


def _routing(clips: Sequence[ClipResult], languages: dict[str, dict], routes: Sequence[str]) -> dict:
    """Confusion of languages and agnostic routes in clips; accuracies over the languages that a pipeline knows."""
    confusion = {code: dict.fromkeys(routes, 0) for code in languages}
    for clip in clips:
        confusion[clip.language][clip.agnostic.route] += 1
    known = {code: entry["pipeline"] for code, entry in languages.items() if entry["known"]}
    of_known = [clip for clip in clips if clip.language in known]
    routed = sum(confusion[code][pipeline] for code, pipeline in known.items())
    named = sum(clip.agnostic.language == clip.language for clip in of_known)
    accuracy, language_accuracy = (hits / len(of_known) if of_known else None for hits in (routed, named))
    sure = [clip for clip in of_known if clip.confidence is not None]
    right = [clip.agnostic.route == known[clip.language] for clip in sure]
    calibration = reliability([clip.confidence for clip in sure], right)
    return {"accuracy": accuracy, "language_accuracy": language_accuracy, "confusion": confusion, "calibration": calibration}
