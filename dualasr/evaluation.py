"""Error rates of a model on transcribed speech, with the right pipeline given and with nothing given, and the routing.

    pipeline-aware   the primary or the pack that knows the language is given, its tag is not
    agnostic         nothing is given; the selector routes every window

Both share one encoding, and no pipeline decodes a window twice. A batch holds one language only, so what is decoded
together pipeline-aware never depends on the loaded packs, and a report after the next pack repeats those rates exactly.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from dualasr.audio import SAMPLE_RATE, SHORTEST, load_audio, split_windows
from dualasr.cores import core_pool, one_ahead
from dualasr.corpus import SkippedRow, Utterance
from dualasr.errors import AudioError, CorpusError, PackError
from dualasr.metrics import bootstrap_interval, per_clip_errors
from dualasr.model import DecodeOptions, DualWhisper, Heard
from dualasr.selector import PRIMARY
from dualasr.text import NORMALISERS, normalise, scoring_unit

MODES = ("pipeline_aware", "agnostic")


@dataclass(frozen=True)
class EvaluationOptions:
    """beam of both pipelines (the paper's 5), windows a batch, resamples of the intervals, most tokens of the primary."""

    beam: int = 5
    batch: int = 16
    bootstrap: int = 1000
    seed: int = 0
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class ModeResult:
    """What one mode made of a clip; of several windows, `route` and `language` are those of the most seconds."""

    hyp: str
    route: str
    language: str
    reason: str


@dataclass(frozen=True)
class ClipResult:
    """A clip in both modes; `language` and `ref` are the corpus', `seconds` its length, `windows` the pieces heard."""

    id: str
    language: str
    ref: str
    seconds: float
    windows: int
    pipeline_aware: ModeResult
    agnostic: ModeResult


@dataclass(frozen=True)
class Evaluation:
    """The report, ready for JSON, and the clips behind it, language by language.

    `report` holds "languages" (by code: n, hours, pipeline, known, unit, and wer, cer, wer_interval, cer_interval and
    whisper of each mode), "mean" (of the languages, each weighing the same), "routing", "skipped", "settings", "base",
    "packs", "seconds" (of reading and both modes together) and "real_time_factor" (those by the length of the sound).
    Rates are fractions, None without reference text; mark-safe normaliser, under "whisper" Whisper's.
    """

    report: dict
    clips: tuple[ClipResult, ...]


def evaluate(model: DualWhisper, utterances: Iterable[Utterance], options: EvaluationOptions = EvaluationOptions(), *,
             skipped: Iterable[SkippedRow] = (), progress: bool | None = None) -> Evaluation:  # fmt: skip
    """Transcribe utterances in both modes and score them.

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
    with tqdm(total=total, desc="evaluate", unit="clip", disable=None if progress is None else not progress) as bar:
        for language, pipeline in pipelines.items():
            if found := _transcribe(model, groups[language], pipeline or PRIMARY, options, lost, bar):
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
            **{mode: _scores([tables[mode][k]], options) for mode in MODES},
        }  # fmt: skip
    flat, backbone = tuple(clip for group in clips.values() for clip in group), model.backbone
    report = {
        "languages": languages,
        "mean": {mode: _scores(tables[mode], options) for mode in MODES},
        "routing": _routing(flat, languages, [PRIMARY, *model.packs]),
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
                lost: list[dict], bar: tqdm) -> list[ClipResult]:  # fmt: skip
    """The clips of one language that can be read, in order; the others are added to `lost`."""
    heard: dict[int, tuple[float, list]] = {}  # of a clip, its seconds, and (samples, both modes) of its windows

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

    generate = {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens}
    stream, decode = windows(), DecodeOptions(beam=options.beam, generate=generate)
    batches = iter(lambda: list(islice(stream, options.batch)), [])
    with core_pool() as (pool, _):
        for batch, evidence in one_ahead(pool, lambda batch: model.listen([samples for _, samples in batch]), batches):
            for (i, samples), (aware, agnostic) in zip(batch, _both_modes(model, evidence, route, decode), strict=True):
                heard[i][1].append((len(samples), aware, agnostic))
    clips = []
    for i, (seconds, parts) in heard.items():
        joined = [_join([(part[0], part[k]) for part in parts], name) for k, name in ((1, route), (2, PRIMARY))]
        row = utterances[i]
        clips.append(ClipResult(row.id, row.language, row.text, seconds, len(parts), *joined))
    return clips


def _both_modes(model: DualWhisper, evidence: Heard, route: str,
                options: DecodeOptions) -> list[tuple[ModeResult, ModeResult]]:  # fmt: skip
    """Each window pipeline-aware, the whole batch by `route`, and agnostic; what both need is computed once."""
    results = []
    for result in model.transcribe_heard(evidence, also=[route], options=options):
        hypothesis, language = result.hypotheses[route]
        aware = ModeResult(hypothesis.text, route, language, "the right pipeline is given")
        results.append((aware, ModeResult(result.text, result.route, result.language, result.reason)))
    return results


def _join(parts: list[tuple[int, ModeResult]], fallback: str) -> ModeResult:
    """A clip of its windows: texts joined, the route and the language of the most samples, every reason once."""
    if not parts:
        return ModeResult("", fallback, "", f"shorter than {SHORTEST} samples, not listened to")

    def most(field: str) -> str:
        names = dict.fromkeys(getattr(part, field) for _, part in parts)
        return max(names, key=lambda name: sum(samples for samples, part in parts if getattr(part, field) == name))

    reasons = "; then ".join(dict.fromkeys(part.reason for _, part in parts))
    return ModeResult(" ".join(part.hyp for _, part in parts if part.hyp), most("route"), most("language"), reasons)


def tables_of(clips: Sequence[ClipResult], mode: str) -> dict[str, dict[str, np.ndarray]]:
    """Errors and reference length of clips of one language, by normaliser and rate: int, (n, 2)."""
    tables = {}
    for method in NORMALISERS:
        refs = [normalise(clip.ref, method) for clip in clips]
        hyps = [normalise(getattr(clip, mode).hyp, method) for clip in clips]
        words = per_clip_errors(refs, hyps, "word")
        if scoring_unit(clips[0].language) == "character":  # its spaces are no part of the writing
            refs, hyps = ([text.replace(" ", "") for text in texts] for texts in (refs, hyps))
        tables[method] = {"wer": words, "cer": per_clip_errors(refs, hyps, "character")}
    return tables


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
    return {"accuracy": accuracy, "language_accuracy": language_accuracy, "confusion": confusion}
