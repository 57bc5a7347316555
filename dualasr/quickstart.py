"""The main job on generated speech: two new languages join the built-in base, one after the other, and nothing moves.

    1 generate a FLEURS-shaped corpus     2 measure the base, new languages zero-shot     3 add the first, measure
    4 add the second, measure             5 the regression table and its plot             6 transcribe a handful

The sentences are dualasr's own (dualasr/sentences); test sentences and test voices are in no training set. A stopped
quickstart goes on where it was: the corpus, finished packs and finished measurements are kept.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile

from dualasr.adding import add_language
from dualasr.audio import SAMPLE_RATE
from dualasr.corpus import load_corpus, text_file
from dualasr.errors import RunError
from dualasr.evaluation import EvaluationOptions, evaluate
from dualasr.model import load_model
from dualasr.report import write_report
from dualasr.synth import Speaker, draw_voice
from dualasr.training import TrainingOptions
from dualasr.training_data import AddLanguageOptions
from dualasr.transcription import transcribe

NEW = {"ky": ("ky_kg", "Kyrgyz"), "ga": ("ga_ie", "Irish")}  # code: FLEURS config, name; in the order they are added
OLD = {"en": "en_us", "es": "es_419", "de": "de_de", "tr": "tr_tr", "bg": "bg_bg"}
ENLARGED = 4000  # training clips of a new language, at least, where `text` gives more sentences


@dataclass(frozen=True)
class QuickstartOptions:
    """`readings` voices for each training sentence; `text` a folder of more sentences, <code>.txt or *_<code>.txt."""

    out: Path
    base: str = "micro"
    readings: int = 2
    steps: int = 250
    text: Path | None = None
    seed: int = 1
    beam: int = 1
    limit: int | None = None  # sentences of each split, for a quick look


def sentences(language: str, split: str) -> list[str]:
    """The committed sentences of a language and split, one a line."""
    return (files("dualasr") / "sentences" / f"{language}.{split}.txt").read_text(encoding="utf-8").splitlines()


def recombine(pool: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Further sentences from the words of two others: the start of one and the end of the other, as read by nobody yet."""
    made = []
    for _ in range(count):
        first, second = (pool[rng.integers(len(pool))].rstrip(".?!").split() for _ in range(2))
        words = first[: int(rng.integers(1, len(first)))] + second[int(rng.integers(1, len(second))) :]
        made.append(" ".join(words).strip(",") + ".")
    return made


def generate_corpus(out: Path, options: QuickstartOptions, say: Callable[[str], None] = print) -> Path:
    """Step 1: data/{config}/{train,dev,test}.tsv and audio/{split}/ under `out`, 16 kHz FLAC; languages appear whole."""
    root = out / "corpus" / "data"
    jobs = [(code, config, ("train", "dev", "test")) for code, (config, _) in NEW.items()]
    jobs += [(code, config, ("train", "test")) for code, config in OLD.items()]
    with Speaker() as speaker:
        for number, (code, config, splits) in enumerate(jobs):
            folder = root / config
            if folder.exists():
                continue
            part = root / f".{config}.part"
            shutil.rmtree(part, ignore_errors=True)
            for split in splits:
                rng = np.random.default_rng([options.seed, number, len(split)])
                texts, ids = texts_of(code, split, options, rng)
                (part / "audio" / split).mkdir(parents=True)
                rows = []
                for i, (text, ident) in enumerate(zip(texts, ids, strict=True)):
                    samples = speaker.speak(text, code, draw_voice(rng, "test" if split == "test" else "train"))
                    if len(samples) < SAMPLE_RATE // 4:
                        continue
                    name = f"{i:05d}.flac"
                    soundfile.write(part / "audio" / split / name, samples, SAMPLE_RATE)
                    plain = text.lower()
                    rows.append([str(ident), name, text, plain, "|".join(plain), str(len(samples)), "OTHER"])
                (part / f"{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
            os.replace(part, folder)
            say(f"  {config}")
    return out / "corpus"


def texts_of(code: str, split: str, options: QuickstartOptions, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Texts to read and their sentence ids. A base language's training split is audio for negatives, from other words."""
    if code in OLD and split == "train":
        texts = recombine(sentences(code, "negatives")[: options.limit], 2 * options.limit if options.limit else 240, rng)
        return texts, list(range(len(texts)))
    texts = sentences(code, split)[: options.limit]
    ids = list(range(len(texts)))
    if split == "train":
        more = []
        if options.text is not None:
            held = {line.strip().lower() for s in ("dev", "test") for line in sentences(code, s)}
            lines = text_file(options.text, code).read_text(encoding="utf-8").splitlines()
            more = [line for line in lines if line.strip().lower() not in held]
        pool = texts + more
        if more:
            texts = pool + recombine(pool, max(0, ENLARGED - len(pool)), rng)
        else:
            texts = pool * options.readings + recombine(pool, len(pool), rng)
        ids = list(range(len(texts)))
    return texts, ids


def regression_table(steps: list[dict]) -> str:
    """Markdown: a row a step, a column a language, pipeline-aware CER (agnostic in brackets), in percent."""
    codes = [code for code in [*OLD, *NEW] if code in steps[-1]["languages"]]
    lines = ["| after | " + " | ".join(codes) + " | routed right |", "|---" * (len(codes) + 2) + "|"]
    for step in steps:
        cells = []
        for code in codes:
            row = step["languages"][code]
            cells.append(f"{100 * row['pipeline_aware']['cer']:.1f} ({100 * row['agnostic']['cer']:.1f})")
        lines.append(f"| {step['step']} | " + " | ".join(cells) + f" | {100 * step['routing']['accuracy']:.1f} % |")
    return "\n".join(lines)


def draw_regression(steps: list[dict], path: Path) -> None:
    """A line a language over the steps: CER when the pipeline is known (solid) and when nothing is (dotted)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for k, code in enumerate([*OLD, *NEW]):
        colour = f"C{k}"
        for mode, style in (("pipeline_aware", "-"), ("agnostic", ":")):
            rates = [100 * step["languages"][code][mode]["cer"] for step in steps]
            axes.plot(range(len(steps)), rates, style, color=colour, marker="o", markersize=4,
                      linewidth=2.5 if code in NEW else 1.2, label=code if style == "-" else None)  # fmt: skip
    axes.set_xticks(range(len(steps)), [step["step"] for step in steps])
    axes.set(ylabel="CER, %", title="Test CER after each added language")
    axes.set_ylim(bottom=0)
    axes.legend(title="solid: pipeline known\ndotted: nothing known", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.grid(alpha=0.3)
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=130)
    pyplot.close(figure)
    os.replace(part, path)


def quickstart(options: QuickstartOptions, *, corpus_only: bool = False,
               say: Callable[[str], None] = print) -> list[dict]:  # fmt: skip
    """Run all six steps into `options.out`, or the first alone; the reports after each step.

    Raises RunError for a folder of another run.
    """
    began, out = time.time(), options.out
    settings = json.loads(json.dumps(options.__dict__, default=str)) | {"out": out.name}
    kept = out / "quickstart.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise RunError(f"{out} holds a quickstart with other settings; choose another --out or remove it.")
    if out.exists() and not kept.exists() and any(out.iterdir()):
        raise RunError(f"{out} exists and is not a quickstart; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings, indent=1))
    command = (f"dualasr quickstart --base {options.base} --steps {options.steps} --readings {options.readings} "
               f"--seed {options.seed}")  # fmt: skip

    say(f"[{0:4.0f} s] generating speech: new languages {', '.join(NEW)}; the base's {', '.join(OLD)}")
    corpus = generate_corpus(out, options, say)
    if corpus_only:
        say(f"[{time.time() - began:4.0f} s] done: {corpus}")
        return []
    negatives = tuple(corpus / "data" / config for config in OLD.values())
    packs: list[Path] = []
    steps = []
    for number, code in enumerate([None, *NEW]):
        if code is not None:
            pack = out / "packs" / code
            say(f"[{time.time() - began:4.0f} s] adding {NEW[code][1]} ({code})")
            if not pack.exists():
                earlier = tuple(corpus / "data" / NEW[other][0] for other in NEW if other != code and other in
                                [path.name for path in packs])  # fmt: skip
                add_language(
                    AddLanguageOptions(
                        base=options.base, corpora=(corpus / "data" / NEW[code][0],), languages={code: NEW[code][1]},
                        out=pack, negatives=negatives + earlier, cache=out / "trunk-cache", source="generated by espeak-ng",
                        licence="CC0", training=TrainingOptions(steps=options.steps, variants=1, seed=options.seed),
                    ),
                    resume=True, say=lambda line: say(f"         {line}"),
                )  # fmt: skip
            packs.append(pack)
        label = "base" if code is None else f"+ {code}"
        report_path = out / "reports" / f"{number}-{code or 'base'}.json"
        say(f"[{time.time() - began:4.0f} s] measuring {label}")
        if not report_path.exists():
            report_path.parent.mkdir(exist_ok=True)
            test = load_corpus(corpus, "test")
            # no kept answers: that the old languages do not move is to be seen, not assumed
            asked = EvaluationOptions(beam=options.beam, probes=0)
            evaluation = evaluate(load_model(options.base, packs), test.utterances, asked)
            write_report(report_path, evaluation, command)
        steps.append(json.loads(report_path.read_text()) | {"step": label})
        say(regression_table(steps))

    table = regression_table(steps)
    summary = (f"# Regression\n\nCER in percent with the pipeline known, in brackets with nothing known; mark-safe normaliser, "
               f"beam {options.beam}, held-out sentences and voices.\n\n{table}\n\n![](regression.png)\n\n"
               f"Made by `{command}`.\n")  # fmt: skip
    (out / "regression.md").write_text(summary, encoding="utf-8")
    draw_regression(steps, out / "regression.png")

    say(f"[{time.time() - began:4.0f} s] transcribing, no language given")
    model = load_model(options.base, packs)
    test = load_corpus(corpus, "test").utterances
    for code in [*NEW, *OLD]:
        for utterance in [u for u in test if u.language == code][:1 if code in OLD else 2]:
            result = transcribe(model, utterance.sound)
            say(f"  {code} -> {result.language or '-':3} by {result.route:8} {result.text}\n{'':17}(said: {utterance.text})")
    say(f"[{time.time() - began:4.0f} s] done: {out / 'regression.md'}, {out / 'regression.png'}, packs in {out / 'packs'}")
    return steps


