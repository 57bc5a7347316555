"""Add a real new language from real recordings, Kichwa, with LoRA and without.

    python recipes/micro/kichwa.py --data DATA --out runs/kichwa

DATA/kichwa, and DATA/swahili and DATA/fsdd as negatives, are manifest folders. --negatives adds
more, for example the speech that quickstart generated in the base's languages. Kichwa played
backwards is a negative, too: same actors, same studio, no Kichwa, so that the pack cannot learn
that every real recording is its own. One chapter of train is held out for choosing the learning
rate, the CTC weight and the calibration. Every system transcribes dev once, at the end.

The systems are the base zero-shot; decoder-only (rank 0, LSTM); decoder-only with as many added
parameters as the dual pipeline; and the dual pipeline. All have the same grid of learning rates,
steps, seeds and augmentation. Finished cells are kept, so that a stopped run goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.cli.log import log_to_terminal
from dualasr.data.corpus import load_corpus, write_manifest
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.report import write_report
from dualasr.evaluation.scoring import error_counts_by_sentence
from dualasr.metrics import paired_bootstrap
from dualasr.model.las_decoder import LASOptions
from dualasr.model.secondary import DECODERS, Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.packs.format import read_pack
from dualasr.packs.load import load_model
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions

CODE = "qu-EC"


def hold_out_chapter(data: Path, out: Path, chapter: str) -> Path:
    """Write a manifest with one chapter of train as dev; the dev of `data` is its test split."""
    folder = out / "corpus"
    if not (folder / "manifest.jsonl").exists():
        train = load_corpus(data / "kichwa", "train").utterances
        rows = [
            replace(
                u, split="dev" if u.id.startswith(chapter) else "train", audio=u.audio.absolute()
            )
            for u in train
        ]
        if len({row.split for row in rows}) < 2:
            raise SystemExit(
                f"No clip of train starts with {chapter!r}; chapters:"
                f" {sorted({u.id[:4] for u in train})}"
            )
        test = load_corpus(data / "kichwa", "dev").utterances
        rows += [replace(u, split="test", audio=u.audio.absolute()) for u in test]
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder / "manifest.jsonl", rows)
    return folder


def play_backwards(corpus: Path, out: Path) -> Path:
    """Write a folder with every other training clip of a corpus, backwards."""
    folder = out / "backwards"
    if not folder.exists():
        part = out / ".backwards.part"
        part.mkdir(parents=True, exist_ok=True)
        for utterance in load_corpus(corpus, "train").utterances[::2]:
            soundfile.write(
                part / f"{utterance.audio.stem}.flac",
                load_audio(utterance.sound)[::-1],
                SAMPLE_RATE,
            )
        part.rename(folder)
    return folder


def units_for(base: str, corpus: Path, ours: SecondaryOptions) -> int:
    """Find the LSTM units with which decoder-only has as many own parameters as `ours`."""
    backbone = Backbone.load(base)
    tokenizer = PackTokenizer.train(
        [u.text for u in load_corpus(corpus, "train").utterances], (CODE,)
    )

    def size(options: SecondaryOptions) -> int:
        return sum(p.numel() for _, p in Secondary(backbone, tokenizer, options).own_tensors())

    wanted, units = size(ours), 4
    while size(SecondaryOptions(rank=0, decoder="las", las=LASOptions(units=units))) < wanted:
        units += 4
    return units


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="micro")
    parser.add_argument(
        "--chapter", default="ch04", help="chapter of train to tune on, as its ids start"
    )
    parser.add_argument(
        "--negatives", type=Path, action="append", default=[], help="more audio in other languages"
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--decoder", choices=DECODERS, default=SecondaryOptions.decoder, help="of the dual pipeline"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--corpus-only", action="store_true", help="make OUT/corpus, for recipes/fleurs, and stop"
    )
    args = parser.parse_args()

    corpus = hold_out_chapter(args.data, args.out, args.chapter)
    if args.corpus_only:
        print(corpus)
        return
    negatives = (
        args.data / "swahili",
        args.data / "fsdd",
        play_backwards(corpus, args.out),
        *args.negatives,
    )
    ours = SecondaryOptions(rank=args.rank, decoder=args.decoder)
    equal = LASOptions(units=units_for(args.base, corpus, ours))
    systems = {
        "decoder-only": SecondaryOptions(rank=0, decoder="las"),
        "decoder-only, equal parameters": SecondaryOptions(rank=0, decoder="las", las=equal),
        "dual pipeline": ours,
    }

    def train(system: str, rate: float, seed: int) -> Path:
        folder = (
            args.out / "packs" / f"{system.replace(', ', '-').replace(' ', '-')}-{rate:g}-{seed}"
        )
        if not folder.exists():
            print(f"== {folder.name}", flush=True)
            add_language(
                AddLanguageOptions(
                    base=args.base,
                    generated_negatives=False,
                    corpora=(corpus,),
                    languages={CODE: "Kichwa"},
                    out=folder,
                    cache=args.out / "trunk-cache",
                    negatives=negatives,
                    secondary=systems[system],
                    source="ctaguchi/killkan",
                    licence="CC BY 4.0",
                    training=TrainingOptions(steps=args.steps, learning_rate=rate, seed=seed),
                ),
                resume=True,
                say=lambda line: print(line, flush=True),
            )
        return folder

    chosen = {}
    for system in systems:
        tuned = {
            rate: read_pack(train(system, rate, args.seeds[0]))["scores"]["dev CER"]
            for rate in args.rates
        }
        chosen[system] = min(tuned, key=tuned.get)
        print(f"{system}: CER on the held-out chapter {tuned}; learning rate {chosen[system]:g}")

    dev = load_corpus(args.data / "kichwa", "dev").utterances
    counts, rows = {}, []
    for system in ["zero-shot", *systems]:
        rates, pooled = [], []
        for seed in args.seeds if system in systems else [0]:
            packs = [train(system, chosen[system], seed)] if system in systems else []
            evaluation = evaluate(load_model(args.base, packs), dev, EvaluationOptions())
            write_report(args.out / "reports" / f"{system}-{seed}.json", evaluation)
            pooled.append(
                error_counts_by_sentence(evaluation.clips, "pipeline_aware")["marks"]["cer"]
            )
            rates.append(evaluation.report["languages"][CODE]["pipeline_aware"]["cer"])
        counts[system] = sum(pooled)
        rows.append(
            {
                "system": system,
                "learning_rate": chosen.get(system),
                "cer": rates,
                "mean": float(np.mean(rates)),
            }
        )
    for row in rows:
        if row["system"].startswith("decoder-only"):
            pair = counts["dual pipeline"], counts[row["system"]]
            row["dual_relative"] = paired_bootstrap(*pair, samples=2000, relative=True)
    (args.out / "results.json").write_text(json.dumps(rows, indent=1))
    print(
        "| system | learning rate | CER by seed | mean | dual pipeline against it, relative (95 %)"
        " |\n|---|---|---|---|---|"
    )
    for row in rows:
        gain = row.get("dual_relative")
        text = (
            f"{100 * gain[0]:+.1f} % ({100 * gain[1]:+.1f} to {100 * gain[2]:+.1f})" if gain else ""
        )
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in row["cer"])
        print(
            f"| {row['system']} | {row['learning_rate'] or ''} | {by_seed} |"
            f" {100 * row['mean']:.1f} | {text} |"
        )


if __name__ == "__main__":
    with log_to_terminal():
        main()
