"""Calibrate a set of packs: dev audio in; a selector file, a table of before and after and a plot out. No pack is changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualasr.audio import Sound
from dualasr.corpus import Utterance, load_corpus
from dualasr.errors import CorpusError, PackError, RunError
from dualasr.model import DualWhisper
from dualasr.pack import write_selector
from dualasr.report_content import markdown_table, percent
from dualasr.selector import PRIMARY, SelectorOptions
from dualasr.set_calibration import SetOptions, fit_set, hear_set, measure
from dualasr.training_data import sounds_below, splits_of
from dualasr.whole_file import whole_file

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)  # of unknown clips; what each costs is shown


@dataclass(frozen=True)
class SetCalibration:
    """The selector of a set; what `measure` says before and after, on the audio it was fitted on.

    `offers` are (most_stolen, accuracy) of other choices; `notes` say what was left out.
    """

    before: SelectorOptions
    selector: SelectorOptions
    measured: tuple[dict, dict]
    offers: tuple[tuple[float, float], ...]
    clips: dict[str, int]  # dev clips by language
    unknown: int
    notes: tuple[str, ...] = ()


def refuse_test(split: str) -> None:
    """Raises CorpusError for a split that is there to measure on."""
    if split.strip().lower() in ("test", "testing", "eval", "evaluation"):
        raise CorpusError(f"--split {split} is for measuring; what is fitted on it cannot be measured on it. Give dev.")


def read_unknown(paths: Sequence[Path], split: str, model: DualWhisper) -> list[Sound]:
    """Sounds of a split of corpora, without languages that somebody loaded knows, or every sound file below a folder.

    Raises CorpusError for a path that is neither, or a corpus without the split or without a clip in another language.
    """
    found: list[Sound] = []
    for path in paths:
        try:
            rows = load_corpus(path, split, default_language="und", require_text=False).utterances
        except CorpusError:
            if splits_of(path) or not (sounds := sounds_below(path)):
                raise
        else:
            sounds = [row.sound for row in rows if pipeline_of(model, row.language) is None]
            if not sounds:
                raise CorpusError(f"{path} has no clip in a language that nobody here knows; --negatives wants such.")
        found += sounds
    return found


def pipeline_of(model: DualWhisper, language: str) -> str | None:
    try:
        return model.route_of(language)
    except PackError:
        return None


def calibrate_set(model: DualWhisper, dev: Sequence[Utterance], unknown: Sequence[Sound],
                  options: SetOptions = SetOptions(), *, progress: bool | None = None) -> SetCalibration:  # fmt: skip
    """Hear dev and unknown audio once, and fit the selector of the model's packs.

    Raises PackError without packs or for a rule that has nothing to calibrate, CorpusError where no dev clip can be used,
    RunError for options that make no sense.
    """
    if not 0 <= options.most_stolen <= 1 or options.taken < 0:
        raise RunError(f"--most_stolen {options.most_stolen:g} --taken {options.taken:g}: wanted a share and a price.")
    if options.batch < 1 or options.beam < 1:
        raise RunError(f"--batch {options.batch} --beam {options.beam}: wanted 1 or more of both.")
    if not model.packs:
        raise PackError("There is no pack to calibrate; name some with --pack.")
    if model.selector.rule != "calibrated":
        raise PackError(f"The {model.selector.rule} rule has nothing to calibrate; give another --selector.")
    rows = [(u.sound, u.language, pipeline_of(model, u.language)) for u in dev]
    foreign = sorted({language for _, language, pipeline in rows if pipeline is None})
    notes = [f"left out, for nobody loaded knows them: {', '.join(foreign)}"] if foreign else []
    claims, lost = hear_set(model, [row for row in rows if row[2]], options, progress=progress)
    others, lost_too = hear_set(model, [(sound, "und", None) for sound in unknown], options, progress=progress)
    if not claims:
        raise CorpusError(f"No dev clip is in a language that is known here ({', '.join([PRIMARY, *model.packs])})"
                          + (f"; the first: {lost[0]}" if lost else "") + ".")  # fmt: skip
    heard = {claim.pipeline for claim in claims}
    if missing := [name for name in (PRIMARY, *model.packs) if name not in heard]:
        notes.append(f"no dev clip of {', '.join(missing)}: what is theirs cannot be told" +
                     ("; beta stays" if PRIMARY in missing or heard == {PRIMARY} else ""))  # fmt: skip
    if len(others) * options.most_stolen < 1:
        notes.append(f"{len(others)} unknown clips cannot show a share of {options.most_stolen:g}; "
                     + ("none of them may be taken" if others else "without --negatives there are no floors"))  # fmt: skip
    routes = (PRIMARY, *model.packs)
    selector = replace(fit_set(claims, others, model.selector, options), packs=tuple(model.packs))
    offers = []
    for share in SHARES if others else ():
        other = fit_set(claims, others, model.selector, replace(options, most_stolen=share))
        offers.append((share, measure(claims, [], other, routes)["accuracy"]))
    measured = tuple(measure(claims, others, one, routes) for one in (model.selector, selector))
    clips = dict(sorted(Counter(claim.language for claim in claims).items()))
    return SetCalibration(model.selector, selector, measured, tuple(offers), clips, len(others), (*notes, *lost, *lost_too))


def to_text(found: SetCalibration) -> str:
    """Before and after, as Markdown."""
    sides, measured = (found.before, found.selector), found.measured
    floors = [(f"floor of {name}", *(f"{one.floors[name]:+.2f}" if name in one.floors else "none" for one in sides))
              for name in found.selector.packs if any(name in one.floors for one in sides)]  # fmt: skip
    rows = [
        ("beta", *(f"{one.beta:+.2f}" for one in sides)), *floors,
        ("no speech above", *(f"{one.no_speech:g}" for one in sides)),
        ("posterior", *(f"{one.posterior.weights[0]:.2f} x log-odds {one.posterior.offset:+.2f}" for one in sides)),
        ("routed right, %", *(percent(m["accuracy"]) for m in measured)),
        ("calibration error of the posterior, 10 bins of equal mass, %", *(percent(m["calibration"]["ece"]) for m in measured)),
        ("decoded twice, %", *(percent(m["twice"]) for m in measured)),
        ("unknown clips taken by packs, %", *(percent(m["stolen"]) for m in measured)),
    ]  # fmt: skip
    clips = ", ".join(f"{code} {count}" for code, count in found.clips.items())
    lines = [f"dev clips: {clips}; in languages nobody knows: {found.unknown}. All figures are of the audio fitted on.", "",
             *markdown_table(("", "before", "after"), rows), "Clips by language and route, before and after:", ""]  # fmt: skip
    first, last = (m["confusion"] for m in measured)
    cells = [(code, *(str(last[code][r]) if counts[r] == last[code][r] else f"{counts[r]} -> {last[code][r]}" for r in counts))
             for code, counts in first.items()]  # fmt: skip
    lines += markdown_table(("language", *next(iter(first.values()))), cells)
    if found.offers:
        offers = [(f"{share:g}", percent(accuracy)) for share, accuracy in found.offers]
        lines += ["What other shares would cost:", "", *markdown_table(("--most_stolen", "routed right, %"), offers)]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)]).rstrip()


def draw(found: SetCalibration, path: Path) -> None:
    """Reliability before and after: in every bin the mean posterior and the share of right routes, with its clips.

    Raises RunError where the PNG cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, measured in zip(panels, ("before", "after"), found.measured, strict=True):
        bins = measured["calibration"]["bins"]
        places = range(len(bins))
        axes.bar(places, [b["accuracy"] for b in bins], color="#3b82c4", alpha=0.45, label="share of right routes")
        axes.plot(places, [b["confidence"] for b in bins], "o", color="#d9622b", label="mean posterior of the route")
        for place, b in enumerate(bins):
            axes.annotate(f"n={b['n']}", (place, 0.02), ha="center", fontsize=8)
        axes.set_xticks(places, [f"{b['low']:.3f} to {b['high']:.3f}" for b in bins], rotation=55, ha="right", fontsize=8)
        axes.set_title(f"{title}: {percent(measured['accuracy'])} % routed right, "
                       f"calibration error {percent(measured['calibration']['ece'])} %", fontsize=10)  # fmt: skip
        axes.set_ylim(0, 1.04)
    figure.supxlabel("posterior of the route, from the least sure tenth of the dev clips to the surest", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    try:
        with whole_file(path) as part:
            figure.savefig(part, dpi=130, format="png")
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_calibration(path: Path, found: SetCalibration, model: DualWhisper, command: str) -> None:
    """The selector file, with where it comes from. Raises RunError."""
    sides = [{key: side[key] for key in ("accuracy", "confusion", "twice", "stolen")} | {"ece": side["calibration"]["ece"]}
             for side in found.measured]  # fmt: skip
    write_selector(path, found.selector, {
        "command": command, "base": {"name": model.backbone.name, "checksum": model.backbone.checksum},
        "packs": {name: list(pack.info.languages) for name, pack in model.packs.items()}, "dev": found.clips,
        "unknown": found.unknown, "before": sides[0], "after": sides[1],
    })  # fmt: skip
