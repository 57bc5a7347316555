"""The content of a report to read, whatever its format: sections of text and a table, and the worst
clips.

Older reports have less: only the rates, the routing, skipped rows and settings are always there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dualasr.evaluation.markdown import percent
from dualasr.metrics import align, comparable
from dualasr.model.selector import PRIMARY
from dualasr.text import NORMALISERS, normalise

MODES = {"pipeline_aware": "pipeline-aware", "group_aware": "group-aware", "agnostic": "agnostic"}
_NAMES = {"marks": "mark-safe", "whisper": "Whisper's"}
WORST = 20  # clips shown
_FIRST = 10  # contaminated clips, and sounds without speech, that are shown
_ODIA, _THAI = "ଓଡ଼ିଆ ଭାଷା", "ที่นี่"  # "the Odia language", "here"


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        key: A short name, the same in every report.
        title: Its heading.
        text: A paragraph.
        head: Titles of its table's columns; () for no table.
        rows: Cells of the table; the first one names the row.
    """

    key: str
    title: str
    text: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class WorstClip:
    """A clip with a high error rate.

    Attributes:
        id: Its id in the corpus.
        note: Its language, error rate and route, for a person to read.
        aligned: Its normalised reference and transcript, part by part (`metrics.align`).
        place: Its index among the clips of the report.
    """

    id: str
    note: str
    aligned: tuple[tuple[str, str, str], ...]
    place: int


def title(report: dict) -> str:
    """Return the heading of a report."""
    return f"Evaluation of {report['base']['name']} with {', '.join(_packs(report)) or 'no pack'}"


def modes_of(report: dict) -> list[str]:
    """Return the modes that a report has, from the one where most is given."""
    return [mode for mode in MODES if mode in report["mean"]]


def sections(report: dict) -> list[Section]:
    """Return the sections of a report: rates, routing, what else went wrong, then details."""
    found = [
        _rates(report),
        _words(report),
        _routing(report),
        _empty_references(report),
        _calibration(report),
        _hallucination(report),
        *_contamination(report),
        _errors(report),
        _whisper(report),
        _skipped(report),
        _settings(report),
    ]
    return [section for section in found if section]


def worst_clips(report: dict, clips: Sequence[dict]) -> list[WorstClip]:
    """Return the clips with the highest error rates.

    Args:
        report: The report.
        clips: Rows of PATH.clips.jsonl, sorted from the highest agnostic CER.

    Returns:
        The first 20 of them that have an error.
    """
    worst = []
    wrong = [(place, row) for place, row in enumerate(clips) if row["agnostic_errors"]]
    for place, row in wrong[:WORST]:
        language, found, right = row["language"], row["agnostic"], row["pipeline_aware"]["route"]
        unit = report["languages"][language]["unit"]
        ref, hyp = comparable([row["ref"], found["hyp"]], language, "marks")[unit == "character"]
        cer = (
            f"CER {percent(row['agnostic_errors'] / row['characters'])} %"
            if row["characters"]
            else "no reference"
        )
        route = f"route {found['route']}"
        if found["route"] != right:
            route += f" (right: {right})"
        if found["language"] not in ("", language):
            route += f", heard as {found['language']}"
        if row.get("confidence") is not None:
            route += f", posterior {row['confidence']:.2f}"
        note = f"{language}, {cer}, {route}"
        worst.append(WorstClip(row["id"], note, tuple(align(ref, hyp, unit)), place))
    return worst


def _packs(report: dict) -> list[str]:
    return [pack["name"] for pack in report["packs"]]


def _rates(report: dict) -> Section:
    modes, routing, rows = modes_of(report), report["routing"], []
    for code, entry in report["languages"].items():
        counts, known = routing["confusion"][code], entry["known"]
        right = percent(counts[entry["pipeline"]] / entry["n"] if known else None)
        rows.append(
            (
                code,
                str(entry["n"]),
                entry["pipeline"] if known else "zero-shot",
                *_of(entry, modes, "cer"),
                right,
            )
        )
    clips = str(sum(entry["n"] for entry in report["languages"].values()))
    rows.append(
        ("mean", clips, "", *_of(report["mean"], modes, "cer"), percent(routing["accuracy"]))
    )
    group = " Group-aware: only whether the primary or a pack knows the language is given."
    text = (
        "CER is the share of wrong characters, here in percent, with its 95 % bootstrap interval"
        " over sentences. Texts are compared with the mark-safe normaliser, which ignores only case"
        " and punctuation. Each clip is transcribed in several modes. Pipeline-aware: the pipeline"
        " that knows its language is given (the primary, which is the base, or a pack), but not the"
        f" language.{group if 'group_aware' in modes else ''} Agnostic: nothing is given; the"
        " selector chooses the pipeline. Zero-shot: no pipeline knows the language, so the primary"
        " transcribes it. Routed right: share of clips, in percent, for which the selector chose"
        " the right pipeline."
    )
    head = (
        "language",
        "clips",
        "pipeline",
        *(f"{MODES[mode]} CER" for mode in modes),
        "routed right",
    )
    return Section("rates", "Character error rate", text, head, tuple(rows))


def _words(report: dict) -> Section:
    modes = modes_of(report)
    rows = [
        (code, *_of(entry, modes, "wer"))
        for code, entry in [*report["languages"].items(), ("mean", report["mean"])]
    ]
    text = (
        "WER is the share of wrong words, here in percent, with its 95 % interval. For a language"
        " that is written without spaces, read CER instead."
    )
    return Section(
        "words",
        "Word error rate",
        text,
        ("language", *(f"{MODES[mode]} WER" for mode in modes)),
        tuple(rows),
    )


def _of(entry: dict, modes: Sequence[str], rate: str) -> list[str]:
    return [percent(entry[mode][rate], entry[mode][f"{rate}_interval"]) for mode in modes]


def _routing(report: dict) -> Section:
    routing = report["routing"]
    text = (
        "Number of clips by language (rows) and by the pipeline that the selector chose (columns)."
        " Of the clips whose language a pipeline knows,"
        f" {percent(routing['accuracy'])} % went to the right pipeline, and"
        f" {percent(routing['language_accuracy'])} % were transcribed in the right language."
    )
    rows = tuple(
        (code, *map(str, counts.values())) for code, counts in routing["confusion"].items()
    )
    return Section("routing", "Routing", text, ("language", PRIMARY, *_packs(report)), rows)


def _empty_references(report: dict) -> Section | None:
    if (found := report.get("empty_references")) is None:
        return None
    counts = {
        method: sum(of[method]["n"] for of in found.values() if method in of)
        for method in NORMALISERS
    }
    total = sum(entry["n"] for entry in report["languages"].values())
    text = (
        f"References that are empty after normalising: {counts['marks']} of {total} with the"
        f" mark-safe normaliser, {counts['whisper']} with Whisper's. Each word that is written for"
        " such a clip is an insertion."
    )
    if not found:
        return Section("empty", "Empty references", text)
    text += " Error rates in percent on all clips, and on those whose reference is not empty."
    rows = []
    for code, methods in found.items():
        entry = report["languages"][code]
        for method, without in methods.items():
            for mode in modes_of(report):
                all_clips = entry[mode]["whisper"] if method == "whisper" else entry[mode]
                sides = (all_clips, without[mode])
                rates = [percent(side[rate]) for rate in ("cer", "wer") for side in sides]
                rows.append((code, _NAMES[method], MODES[mode], str(without["n"]), *rates))
    columns = ("CER, all", "CER, without", "WER, all", "WER, without")
    head = ("language", "normaliser", "mode", "empty", *columns)
    return Section("empty", "Empty references", text, head, tuple(rows))


def _calibration(report: dict) -> Section | None:
    found = report["routing"].get("calibration") or {}
    if found.get("ece") is None:
        return None
    text = (
        "The selector gives the chosen pipeline a probability, the posterior. It is calibrated if,"
        " for example, 80 % of the clips with a posterior of 0.8 are routed right. Expected"
        f" calibration error {percent(found['ece'])} %: the mean distance between the posterior and"
        " the share of clips that are routed right, over the clips of all rows."
    )
    rows = [
        (
            f"{b['low']:.2f} to {b['high']:.2f}",
            str(b["n"]),
            percent(b["confidence"]),
            percent(b["accuracy"]),
        )
        for b in found["bins"]
    ]
    return Section(
        "calibration",
        "Calibration",
        text,
        ("posterior", "clips", "mean posterior, %", "routed right, %"),
        tuple(rows),
    )


def _hallucination(report: dict) -> Section | None:
    if not (found := report.get("hallucination")):
        return None
    text = (
        "For silence, noise, hum and music a good model writes nothing."
        f" Of {found['probes']} sounds without speech, {found['with_words']} were given words,"
        f" {found['words']} in all."
    )
    if len(found["examples"]) > _FIRST:
        text += f" The first {_FIRST} are shown."
    rows = [(row["sound"], row["route"], row["text"]) for row in found["examples"][:_FIRST]]
    head = ("sound", "route", "written") if rows else ()
    return Section("hallucination", "Words for silence and noise", text, head, tuple(rows))


def _contamination(report: dict) -> list[Section]:
    if not (found := report.get("contamination")):
        return []
    kinds = ("same sentence", "similar sentence", "same recording", "similar recording")
    rows = tuple(
        (name, *(str(counts.get(kind, 0)) if counts["known"] else "not known" for kind in kinds))
        for name, counts in found["packs"].items()
    )
    text = (
        "Number of test clips that are in the training data of a pack, or similar to a clip there."
        " Not known: the pack has no record of its training data."
    )
    out = [Section("contamination", "Contamination", text, ("pack", *kinds), rows)]
    if found["clean"]:
        out.append(_clean(report, found["clean"]))
    if found["leaks"]:
        out.append(_leaks(found["leaks"]))
    return out


def _clean(report: dict, clean: dict) -> Section:
    rows = []
    for code, without in clean.items():
        entry = report["languages"][code]
        for mode in modes_of(report):
            sides = (entry[mode], without.get(mode, {}))
            rates = [percent(side.get(rate)) for rate in ("cer", "wer") for side in sides]
            rows.append((code, MODES[mode], str(entry["n"]), str(without["n"]), *rates))
    columns = ("CER, all", "CER, clean", "WER, all", "WER, clean")
    head = ("language", "mode", "clips", "clean", *columns)
    text = "Error rates in percent on all clips, and on those that are not contaminated (clean)."
    return Section("clean", "Without the contaminated clips", text, head, tuple(rows))


def _leaks(leaks: Sequence[dict]) -> Section:
    rows = tuple(
        (leak["id"], leak["pack"], leak["kind"], f"{leak['similarity']:.2f}")
        for leak in leaks[:_FIRST]
    )
    text = f"{len(leaks)} in all" + (f"; the first {_FIRST}." if len(leaks) > _FIRST else ".")
    text += " A similarity of 1 means the same; unrelated recordings have about 0.5."
    head = ("clip", "pack", "what", "similarity")
    return Section("leaks", "Contaminated clips", text, head, rows)


def _errors(report: dict) -> Section | None:
    kinds, rows = ("substitutions", "deletions", "insertions"), []
    for code, entry in report["languages"].items():
        for mode in modes_of(report):
            counts = entry[mode].get(entry["unit"])
            if counts and counts["length"]:
                rows.append(
                    (
                        code,
                        MODES[mode],
                        entry["unit"],
                        *(percent(counts[kind] / counts["length"]) for kind in kinds),
                    )
                )
    if not rows:
        return None
    text = (
        "Words or characters that were replaced by others (substitutions), left out (deletions) or"
        " added (insertions), in percent of the length of the reference. The unit is the one that"
        " the language is usually scored in. The sum of the three is its error rate."
    )
    return Section(
        "errors", "Kinds of errors", text, ("language", "mode", "unit", *kinds), tuple(rows)
    )


def _whisper(report: dict) -> Section:
    modes = modes_of(report)
    whispers, thais = (normalise(text, "whisper") for text in (_ODIA, _THAI))
    text = (
        "Most published error rates use Whisper's normaliser; these can be compared with them. It"
        f" replaces every combining mark by a space: Odia “{_ODIA}” is scored as “{whispers}” and"
        f" Thai “{_THAI}” as “{thais}”, and a wrong vowel sign is not counted as an error. The"
        " mark-safe normaliser of all other tables removes only case and punctuation. It leaves"
        " both words as they are."
    )
    rows = []
    for code, entry in [*report["languages"].items(), ("mean", report["mean"])]:
        rows.append(
            (
                code,
                *(
                    percent(entry[mode]["whisper"][rate])
                    for mode in modes
                    for rate in ("cer", "wer")
                ),
            )
        )
    head = ("language", *(f"{MODES[mode]} {rate}" for mode in modes for rate in ("CER", "WER")))
    return Section("whisper", "With Whisper's normaliser", text, head, tuple(rows))


def _skipped(report: dict) -> Section | None:
    if not report["skipped"]:
        return None
    rows = tuple((row["source"], row["reason"]) for row in report["skipped"])
    return Section(
        "skipped",
        f"Skipped: {len(rows)}",
        "Rows of the corpus and sound files that could not be used.",
        ("source", "reason"),
        rows,
    )


def _settings(report: dict) -> Section:
    settings = report["settings"] | {
        key: report[key] for key in ("base", "packs", "seconds", "real_time_factor")
    }
    lacks = {
        "calibration": (report["routing"].get("calibration") or {}).get("ece"),
        "words for silence and noise": report.get("hallucination"),
        "contamination": report.get("contamination"),
    }
    missing = [name for name, value in lacks.items() if value is None]
    text = f"Not measured: {', '.join(missing)}." if missing else "The numbers depend on these."
    rows = tuple((key, json.dumps(value, ensure_ascii=False)) for key, value in settings.items())
    return Section("settings", "Settings", text, ("setting", "value"), rows)
