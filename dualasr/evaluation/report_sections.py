"""What an evaluation's report says, for paper of any kind: sections of a sentence and a table, and
the worst clips.

Everything but the rates of both modes and the routing may be missing from a report: an older one,
or one not asked for it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dualasr.evaluation.markdown import percent
from dualasr.metrics import align, comparable
from dualasr.model.selector import PRIMARY
from dualasr.text import normalise

MODES = {"pipeline_aware": "pipeline-aware", "group_aware": "group-aware", "agnostic": "agnostic"}
WORST = 20  # clips shown
_FIRST = 10  # contaminated clips and hallucinations shown
_ODIA, _THAI = "ଓଡ଼ିଆ ଭାଷା", "ที่นี่"  # "the Odia language", "here"


@dataclass(frozen=True)
class Section:
    """A title, a paragraph, and a table of text cells whose first column names the row; no head, no
    table.
    """

    key: str
    title: str
    text: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class WorstClip:
    """A clip to look at: what it is, what became of it, and its normalised texts side by side
    (`metrics.align`).

    `place` is where it stands among the clips of the report.
    """

    id: str
    note: str
    aligned: tuple[tuple[str, str, str], ...]
    place: int


def title(report: dict) -> str:
    return f"Evaluation of {report['base']['name']} with {', '.join(_packs(report)) or 'no pack'}"


def modes_of(report: dict) -> list[str]:
    """The modes that the report has, the most given first."""
    return [mode for mode in MODES if mode in report["mean"]]


def sections(report: dict) -> list[Section]:
    """The report in order of interest: rates, routing, what went wrong beside the words, then the
    fine print.
    """
    found = [
        _rates(report),
        _words(report),
        _routing(report),
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
    """The first `WORST` of `clips`, rows of PATH.clips.jsonl, worst first; those without an error
    are left out.
    """
    worst = []
    for place, row in [(place, row) for place, row in enumerate(clips) if row["agnostic_errors"]][
        :WORST
    ]:
        language, said, right = row["language"], row["agnostic"], row["pipeline_aware"]["route"]
        unit = report["languages"][language]["unit"]
        texts = comparable([row["ref"], said["hyp"]], language, "marks")[unit == "character"]
        cer = (
            f"CER {percent(row['agnostic_errors'] / row['characters'])} %"
            if row["characters"]
            else "no reference"
        )
        route = f"route {said['route']}" + ("" if said["route"] == right else f" (right: {right})")
        sure = "" if row.get("confidence") is None else f", posterior {row['confidence']:.2f}"
        heard = "" if said["language"] in ("", language) else f", heard as {said['language']}"
        note = f"{language}, {cer}, {route}{heard}{sure}"
        worst.append(WorstClip(row["id"], note, tuple(align(*texts, unit)), place))
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
    group = (
        "group-aware, only whether it is the primary or a pack; " if "group_aware" in modes else ""
    )
    text = (
        "CER in percent with the 95 % bootstrap interval over sentences, by the mark-safe"
        " normaliser. Pipeline-aware: the right pipeline is given, the language tag is not;"
        f" {group}agnostic: nothing is given."
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
    text = "WER in percent, likewise. Of a language written without spaces, read CER."
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
        "Clips by language and agnostic route. Of those whose language a pipeline knows,"
        f" {percent(routing['accuracy'])} % went to the right pipeline,"
        f" {percent(routing['language_accuracy'])} % got the right tag."
    )
    rows = tuple(
        (code, *map(str, counts.values())) for code, counts in routing["confusion"].items()
    )
    return Section("routing", "Routing", text, ("language", PRIMARY, *_packs(report)), rows)


def _calibration(report: dict) -> Section | None:
    found = report["routing"].get("calibration") or {}
    if found.get("ece") is None:
        return None
    text = (
        f"Expected calibration error {percent(found['ece'])} %: how far the posterior of the chosen"
        " route lies from the share of right routes, on average over clips."
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
        ("posterior", "clips", "mean posterior", "routed right"),
        tuple(rows),
    )


def _hallucination(report: dict) -> Section | None:
    if not (found := report.get("hallucination")):
        return None
    text = (
        f"Of {found['probes']} sounds without speech, {found['with_words']} were given words,"
        f" {found['words']} in all."
    )
    rows = [(row["sound"], row["route"], row["text"]) for row in found["examples"][:_FIRST]]
    head = ("sound", "route", "written") if rows else ()
    return Section("hallucination", "Words for silence and noise", text, head, tuple(rows))


def _contamination(report: dict) -> list[Section]:
    if not (found := report.get("contamination")):
        return []
    kinds = ("same sentence", "similar sentence", "same recording", "similar recording")
    packs = [
        (name, *(str(counts.get(kind, 0)) if counts["known"] else "not known" for kind in kinds))
        for name, counts in found["packs"].items()
    ]
    text = (
        "Clips that a pack was trained on, or on something like them. Not known: the pack does not"
        " say what it has heard."
    )
    out = [Section("contamination", "Contamination", text, ("pack", *kinds), tuple(packs))]
    if clean := found["clean"]:
        rows = []
        for code, without in clean.items():
            entry = report["languages"][code]
            for mode in modes_of(report):
                sides = (entry[mode], without.get(mode, {}))
                rates = [percent(side.get(rate)) for rate in ("cer", "wer") for side in sides]
                rows.append((code, MODES[mode], str(entry["n"]), str(without["n"]), *rates))
        head = (
            "language",
            "mode",
            "clips",
            "clean",
            "CER, all",
            "CER, clean",
            "WER, all",
            "WER, clean",
        )
        text = "Percent on all clips, and on the clean ones alone."
        out.append(Section("clean", "Without the contaminated clips", text, head, tuple(rows)))
    if leaks := found["leaks"]:
        rows = [
            (leak["id"], leak["pack"], leak["kind"], f"{leak['similarity']:.2f}")
            for leak in leaks[:_FIRST]
        ]
        text = f"{len(leaks)} in all" + (f"; the first {_FIRST}." if len(leaks) > _FIRST else ".")
        out.append(
            Section(
                "leaks",
                "Contaminated clips",
                text,
                ("clip", "pack", "what", "similarity"),
                tuple(rows),
            )
        )
    return out


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
        "In percent of the reference, in the unit that the language is scored in; together they are"
        " its error rate."
    )
    return Section(
        "errors", "Kinds of errors", text, ("language", "mode", "unit", *kinds), tuple(rows)
    )


def _whisper(report: dict) -> Section:
    modes = modes_of(report)
    whispers, thais = (normalise(text, "whisper") for text in (_ODIA, _THAI))
    text = (
        "Whisper's normaliser, for comparison with the literature, puts a space in place of every"
        f" combining mark: Odia “{_ODIA}” is scored as “{whispers}” and Thai “{_THAI}” as"
        f" “{thais}”, and a wrong vowel is no error. The mark-safe one of all other tables takes"
        " away case and punctuation alone, and leaves both as they are."
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
        "skipped", f"Skipped: {len(rows)}", "What could not be used.", ("source", "reason"), rows
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
    text = f"Not measured: {', '.join(missing)}." if missing else "What the numbers depend on."
    rows = tuple((key, json.dumps(value, ensure_ascii=False)) for key, value in settings.items())
    return Section("settings", "Settings", text, ("setting", "value"), rows)
