"""Add two languages to the built-in base, one after the other, on generated speech.

The languages that the base knew before are measured after every step: their rates stay the same.

1. Generate a FLEURS-shaped corpus.
2. Measure the base on all languages, the new ones zero-shot.
3. Add the first language, and measure.
4. Add the second language, and measure.
5. Write the regression table and its plot.
6. Transcribe a few clips.

A stopped quickstart goes on where it was: the corpus, finished packs and finished measurements are
kept.
"""

import json
import logging
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from dualasr.data.corpus import load_corpus
from dualasr.data.synthetic import GenerateOptions, generate_corpus
from dualasr.errors import RunError
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.plots import draw_regression
from dualasr.evaluation.report import write_report
from dualasr.packs.format import attach_regression
from dualasr.packs.load import load_model
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.transcription.transcribe import transcribe

log = logging.getLogger("dualasr")

# FLEURS config and name by code, in the order in which they are added
NEW = {"ky": ("ky_kg", "Kyrgyz"), "ga": ("ga_ie", "Irish")}
OLD = {"en": "en_us", "es": "es_419", "de": "de_de", "tr": "tr_tr", "bg": "bg_bg"}


@dataclass(frozen=True)
class QuickstartOptions:
    """Settings of the quickstart.

    Attributes:
        out: Folder for everything that it makes.
        base: The base.
        readings: Voices that read each training sentence.
        steps: Training steps of each pack.
        text: Folder of more sentences, <code>.txt or *_<code>.txt.
        seed: Seed of the voices and of the training.
        beam: Beam width of the measurements.
        limit: Sentences of each split, for a quick look; None for all.
    """

    out: Path
    base: str = "micro"
    readings: int = 2
    steps: int = 250
    text: Path | None = None
    seed: int = 1
    beam: int = 1
    limit: int | None = None


def command_of(options: QuickstartOptions) -> str:
    """Return the command that makes a quickstart again; of `out` only its name is in it.

    The packs carry the command, and say nothing of the folders of the machine.
    """
    values = {key: value for key, value in vars(options).items() if value is not None}
    values["out"] = options.out.name
    flags = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return shlex.join(["dualasr", "quickstart", *flags])


def regression_table(steps: list[dict]) -> str:
    """Return the error rates as Markdown: a row for each step, a column for each language.

    A cell is pipeline-aware CER, with agnostic CER in brackets, both in percent.
    """
    codes = [code for code in [*OLD, *NEW] if code in steps[-1]["languages"]]
    lines = [
        "| after | " + " | ".join(codes) + " | routed right |",
        "|---" * (len(codes) + 2) + "|",
    ]
    for step in steps:
        cells = []
        for code in codes:
            row = step["languages"][code]
            cells.append(
                f"{100 * row['pipeline_aware']['cer']:.1f} ({100 * row['agnostic']['cer']:.1f})"
            )
        lines.append(
            f"| {step['step']} | "
            + " | ".join(cells)
            + f" | {100 * step['routing']['accuracy']:.1f} % |"
        )
    return "\n".join(lines)


def quickstart(options: QuickstartOptions, *, corpus_only: bool = False) -> list[dict]:
    """Run all six steps, and write their results to `options.out`.

    Args:
        options: The settings.
        corpus_only: Whether to stop after the first step.

    Returns:
        The report after each added language, with its "step"; [] with `corpus_only`.

    Raises:
        RunError: The folder holds something else.
    """
    began, out = time.time(), options.out
    settings = json.loads(json.dumps(options.__dict__, default=str)) | {"out": out.name}
    kept = out / "quickstart.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise RunError(
            f"{out} holds a quickstart with other settings; choose another --out or remove it."
        )
    if out.exists() and not kept.exists() and any(out.iterdir()):
        raise RunError(f"{out} exists and is not a quickstart; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings, indent=1))
    command = command_of(options)

    log.info(
        f"[{0:4.0f} s] generating speech: new languages {', '.join(NEW)}; the base's"
        f" {', '.join(OLD)}"
    )
    corpus, configs = out / "corpus", [config for config, _ in NEW.values()] + list(OLD.values())
    spoken = GenerateOptions(
        readings=options.readings, text=options.text, seed=options.seed, limit=options.limit
    )
    generate_corpus(corpus, configs, spoken)
    if corpus_only:
        log.info(f"[{time.time() - began:4.0f} s] done: {corpus}")
        return []
    negatives = tuple(corpus / "data" / config for config in OLD.values())
    packs: list[Path] = []
    steps = []
    for number, code in enumerate([None, *NEW]):
        if code is not None:
            pack = out / "packs" / code
            log.info(f"[{time.time() - began:4.0f} s] adding {NEW[code][1]} ({code})")
            if not pack.exists():
                earlier = tuple(
                    corpus / "data" / NEW[other][0]
                    for other in NEW
                    if other != code and other in [path.name for path in packs]
                )
                add_language(
                    AddLanguageOptions(
                        base=options.base,
                        generated_negatives=False,
                        corpora=(corpus / "data" / NEW[code][0],),
                        languages={code: NEW[code][1]},
                        out=pack,
                        negatives=negatives + earlier,
                        cache=out / "trunk-cache",
                        source="generated by espeak-ng",
                        licence="CC0",
                        training=TrainingOptions(
                            steps=options.steps,
                            variants=1,
                            seed=options.seed,
                            precision="float32",  # the same table on every processor
                        ),
                    ),
                    resume=True,
                )
            packs.append(pack)
        label = "base" if code is None else f"+ {code}"
        report_path = out / "reports" / f"{number}-{code or 'base'}.json"
        log.info(f"[{time.time() - began:4.0f} s] measuring {label}")
        if not report_path.exists():
            report_path.parent.mkdir(exist_ok=True)
            test = load_corpus(corpus, "test").utterances
            # no hypothesis cache: that the old languages' rates stay the same must be measured
            model = load_model(options.base, packs)
            evaluation = evaluate(model, test, EvaluationOptions(beam=options.beam, probes=0))
            write_report(report_path, evaluation, command, model=model)
        steps.append(json.loads(report_path.read_text()) | {"step": label})
        log.info(regression_table(steps))

    table = regression_table(steps)
    summary = (
        "# Regression\n\nCER in percent with the pipeline known, in brackets with nothing known;"
        f" mark-safe normaliser, beam {options.beam}, held-out sentences and"
        f" voices.\n\n{table}\n\n![](regression.png)\n\nMade by `{command}`.\n"
    )
    (out / "regression.md").write_text(summary, encoding="utf-8")
    draw_regression(steps, out / "regression.png", old=OLD, new=NEW)
    for pack in packs:
        attach_regression(pack, out / "regression.md", out / "regression.png")

    log.info(f"[{time.time() - began:4.0f} s] transcribing, no language given")
    model = load_model(options.base, packs)
    test = load_corpus(corpus, "test").utterances
    for code in [*NEW, *OLD]:
        for utterance in [u for u in test if u.language == code][: 1 if code in OLD else 2]:
            result = transcribe(model, utterance.sound)
            log.info(
                f"  {code} -> {result.language or '-':3} by {result.route:8}"
                f" {result.text}\n{'':17}(said: {utterance.text})"
            )
    log.info(
        f"[{time.time() - began:4.0f} s] done: {out / 'regression.md'}, {out / 'regression.png'},"
        f" packs in {out / 'packs'}"
    )
    return steps
