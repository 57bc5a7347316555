"""Measure how much speech a new language needs: Kichwa from 5, 10, 20 and all 45 minutes.

    python recipes/micro/data_curve.py --data DATA --out runs/curve

Each portion is trained on alone, and after generated speech. The smaller portions are parts of the
larger ones; every eighth clip of a portion is its dev. espeak-ng's Quechua voices read the
generated speech from all of train's sentences and from recombinations of them, for a user has more
text than transcribed speech. A pack that was trained on it goes on with the portion. Each pack
transcribes Kichwa's dev once, pipeline-aware. Finished packs are kept, so that a stopped run goes
on; the plot is data_curve.png.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from kichwa import CODE

from dualasr.audio.load import SAMPLE_RATE
from dualasr.cli.log import log_to_terminal
from dualasr.data.corpus import Utterance, load_corpus, write_manifest
from dualasr.data.espeak import Speaker, draw_voice
from dualasr.data.synthetic import recombine
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.plots import new_figure, save_figure
from dualasr.evaluation.report import write_report
from dualasr.packs.load import load_model
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions

GENERATED = 1000  # clips


def portion(data: Path, out: Path, minutes: float | None, seed: int) -> tuple[Path, float]:
    """Write a manifest of so many minutes of train, in a seeded order; None for all.

    Returns its folder, and the minutes found.
    """
    folder = out / "corpora" / f"{minutes or 'all'}-{seed}"
    rows, seconds = [], 0.0
    train = load_corpus(data / "kichwa", "train").utterances
    for number, k in enumerate(np.random.default_rng([seed, 31]).permutation(len(train))):
        if minutes is not None and seconds >= 60 * minutes:
            break
        rows.append(
            replace(
                train[k], split="train" if number % 8 else "dev", audio=train[k].audio.absolute()
            )
        )
        seconds += train[k].duration
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.jsonl", rows)
    return folder, seconds / 60


def generate(data: Path, out: Path) -> Path:
    """Generate speech in the language, from train's sentences."""
    folder = out / "corpora" / "generated"
    if (folder / "manifest.jsonl").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(37), []
    texts = [u.text for u in load_corpus(data / "kichwa", "train").utterances]
    texts += recombine(
        [text for text in texts if len(text.split()) > 1], GENERATED - len(texts), rng
    )
    with Speaker() as speaker:
        for i, text in enumerate(texts):
            samples = speaker.speak(text, "qu", draw_voice(rng, "train"))
            if len(samples) < SAMPLE_RATE // 4:
                continue
            path = folder / f"{i:05d}.flac"
            soundfile.write(path, samples, SAMPLE_RATE)
            rows.append(
                Utterance(
                    path.stem, text, CODE, path.absolute(), len(samples) / SAMPLE_RATE, "train"
                )
            )
    write_manifest(folder / "manifest.jsonl", rows)
    return folder


def draw(points: list[dict], path: Path) -> None:
    """Plot CER over minutes: a line with and one without generated speech, a dot for each seed."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    mean = {}
    for colour, mixed in (("C0", False), ("C1", True)):
        mine = [p for p in points if p["generated"] == mixed]
        wanted = sorted({p["wanted"] for p in mine})
        at = [np.mean([p["minutes"] for p in mine if p["wanted"] == m]) for m in wanted]
        mean[colour] = [100 * np.mean([p["cer"] for p in mine if p["wanted"] == m]) for m in wanted]
        label = "after generated speech" if mixed else "recorded speech alone"
        axes.plot(at, mean[colour], "-", color=colour, label=label)
        axes.plot(
            [p["minutes"] for p in mine],
            [100 * p["cer"] for p in mine],
            "o",
            color=colour,
            markersize=5,
        )
    for x, *pair in zip(at, mean["C0"], mean["C1"], strict=True):
        for (y, colour), up in zip(sorted(zip(pair, mean, strict=True)), (-16, 8), strict=True):
            beside = {"textcoords": "offset points", "xytext": (0, up), "ha": "center"}
            axes.annotate(f"{y:.1f}", (x, y), color=colour, **beside)
    axes.set_xscale("log")
    axes.set_xticks([5, 10, 20, 45], ["5", "10", "20", "45"])
    axes.minorticks_off()
    axes.set(
        xlabel="minutes of transcribed speech",
        ylabel="CER, %",
        title="Kichwa on micro: what more speech brings",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="micro")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[5, 10, 20, 0], help="0 is all there is"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=3e-3, help="(%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    dev = load_corpus(args.data / "kichwa", "dev").utterances
    generated, points = generate(args.data, args.out), []

    def add(pack: Path, corpus: Path, seed: int, first: Path | None = None) -> Path:
        if not pack.exists():
            print(f"== {pack.name}", flush=True)
            add_language(
                AddLanguageOptions(
                    base=args.base,
                    generated_negatives=False,
                    corpora=(corpus,),
                    languages={CODE: "Kichwa"},
                    out=pack,
                    cache=args.out / "trunk-cache",
                    source="ctaguchi/killkan",
                    licence="CC BY 4.0",
                    init=first,
                    training=TrainingOptions(steps=args.steps, learning_rate=args.rate, seed=seed),
                ),
                resume=True,
            )
        return pack

    for seed in args.seeds:
        first = add(args.out / "packs" / f"generated-{seed}", generated, seed)
        for wanted in args.minutes:
            corpus, minutes = portion(args.data, args.out, wanted or None, seed)
            for after in (False, True):
                name = f"{corpus.name}{'-after-generated' if after else ''}"
                pack = add(args.out / "packs" / name, corpus, seed, first if after else None)
                report = args.out / "reports" / f"{name}.json"
                if not report.exists():
                    options = EvaluationOptions(probes=0)
                    write_report(
                        report,
                        evaluate(
                            load_model(args.base, [pack]),
                            dev,
                            options,
                            answers=args.out / "answers",
                        ),
                    )
                cer = json.loads(report.read_text())["languages"][CODE]["pipeline_aware"]["cer"]
                points.append(
                    {
                        "wanted": wanted or 1e9,
                        "minutes": minutes,
                        "generated": after,
                        "seed": seed,
                        "cer": cer,
                    }
                )
                print(f"{name}: {minutes:.1f} minutes, CER {100 * cer:.1f} %", flush=True)
    (args.out / "data_curve.json").write_text(json.dumps(points, indent=1))
    draw(points, args.out / "data_curve.png")
    print("| minutes | recorded alone | after generated |\n|---|---|---|")
    for wanted in args.minutes:
        cells = []
        for mixed in (False, True):
            mine = [p for p in points if p["wanted"] == (wanted or 1e9) and p["generated"] == mixed]
            cells.append(", ".join(f"{100 * p['cer']:.1f}" for p in mine))
            minutes = np.mean([p["minutes"] for p in mine])
        print(f"| {minutes:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    with log_to_terminal():
        main()
