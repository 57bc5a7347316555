"""Compare the cost of training a pack with the usual recipe's, on Kichwa, one after the other.

    python recipes/micro/bench_training.py --data DATA --out runs/bench

Ours has the settings of kichwa.py's quality row: trunk activations of every clip and variant are
computed once, then batches of clips of like length train the upper layers and the pack's own
decoder. The usual recipe is transformers' Seq2SeqTrainer with peft's LoRA of the same rank on
encoder and decoder of the same base: every step loads its clips, augments them as ours does, pads
them to the window and runs the whole model. Clips, batch and held-out chapter are the same. Ratios
are printed. Two things count against ours: its negatives are not counted as samples, and its
measurements on the way are counted as training, the other's are not.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from kichwa import CODE, hold_out_chapter, play_backwards
from peft import LoraConfig, get_peft_model
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from dualasr.audio.load import load_audio
from dualasr.metrics import character_errors
from dualasr.model.secondary import DECODERS, LORA_TARGETS, Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer
from dualasr.model.whisper import Backbone
from dualasr.parallel import worker_pool
from dualasr.text import normalise
from dualasr.training.dataset import CachedClips, collate, plan_batches
from dualasr.training.options import AddLanguageOptions, TrainingOptions
from dualasr.training.prepare import ReadCorpora, prepare, read_corpora
from dualasr.training.trainer import train_secondary
from dualasr.training.trunk_cache import TrunkCache

DEV = 64  # clips of the held-out chapter that both are measured on while they train
TAG = "es"  # the base has no Kichwa: the usual recipe borrows a neighbour's tag


class Stages:
    """Seconds by stage: data, model forward, gradients."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str):
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        return ", ".join(
            f"{name} {100 * value / total:.0f} %" for name, value in self.seconds.items()
        )


def ours(options: AddLanguageOptions, backbone: Backbone, corpora: ReadCorpora) -> dict:
    """Time the cache and the training, and record dev CER on the way."""
    shutil.rmtree(options.cache, ignore_errors=True)
    shutil.rmtree(options.run, ignore_errors=True)
    options.run.mkdir(parents=True)
    tokenizer = PackTokenizer.train([u.text for u in corpora.train], (CODE,))
    torch.manual_seed(options.training.seed)
    secondary = Secondary(backbone, tokenizer, options.secondary)
    began, clock = time.perf_counter(), time.time()
    data = prepare(options, backbone, tokenizer, replace(corpora, skipped=()))
    cache = time.perf_counter() - began
    train_secondary(
        secondary, data.train, data.negatives, data.dev[:DEV], options.run, options.training
    )
    total = time.perf_counter() - began
    rows = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    way = [(row["step"], row["time"] - clock, row["dev_cer"]) for row in rows if "dev_cer" in row]
    stages = profile_ours(secondary, data, options.training)
    return {
        "name": "ours",
        "cache": cache,
        "total": total,
        "steps": options.training.steps,
        "way": way,
        "stages": stages,
    }


def profile_ours(secondary: Secondary, data, options: TrainingOptions, batches: int = 12) -> Stages:
    stages, clips = (
        Stages(),
        CachedClips([*data.train, *data.negatives], secondary.tokenizer, options),
    )
    planned = plan_batches(
        [c.frames for c in data.train], [c.frames for c in data.negatives], options
    )
    secondary.train()
    own = [p for name, p in secondary.own_tensors() if not name.startswith("language_head")]
    for parameter in own:
        parameter.requires_grad_(True)
    with worker_pool():
        for batch in planned[:: max(1, len(planned) // batches)]:
            with stages("reading the cache"):
                inputs = collate([clips[item] for item in batch])
            with stages("upper layers, forward"), torch.no_grad():
                secondary.encode(inputs["trunk"], inputs["lengths"])
            with stages("all, forward"):
                loss = secondary(**inputs)["loss"]
            with stages("gradients"):
                torch.autograd.grad(loss, own, allow_unused=True)
    forward = stages.seconds.pop("all, forward")
    stages.seconds["decoder and losses, forward"] = max(
        0.0, forward - stages.seconds["upper layers, forward"]
    )
    return stages


def usual(
    backbone: Backbone,
    utterances,
    options: TrainingOptions,
    rank: int,
    rate: float,
    steps: int,
    out: Path,
) -> dict:
    """Time the usual recipe: a whole Whisper with LoRA, padded, nothing cached."""
    train, dev = utterances
    tokenizer, extractor, stages = backbone.tokenizer, backbone.extractor, Stages()
    tokenizer.set_prefix_tokens(language=TAG, task="transcribe")
    torch.manual_seed(options.seed)
    model = Backbone.load(backbone.name).model
    model.generation_config.forced_decoder_ids = None
    lora = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS), lora_dropout=0.0, bias="none"
    )
    model = get_peft_model(model, lora)
    rng = np.random.default_rng([options.seed, 29])
    # used for its augmentation alone
    variants = TrunkCache(out, backbone, 0, options.augmentation, options.seed)

    def batch_of(rows: list) -> dict:
        with stages("decoding, augmenting, features"):
            sounds = [
                variants.samples(row.sound, int(rng.integers(options.variants))) for row in rows
            ]
            features = extractor(sounds, sampling_rate=16_000, return_tensors="pt").input_features
            labels = [torch.tensor(tokenizer(row.text).input_ids[1:]) for row in rows]
            padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
            return {"input_features": features, "labels": padded}

    way, paused = [], [0.0]

    def measure(step: int) -> None:
        began = time.perf_counter()
        model.eval()
        refs, hyps = [row.text for row in dev[:DEV]], []
        with torch.no_grad():
            for first in range(0, len(dev[:DEV]), 16):
                features = extractor(
                    [load_audio(row.sound) for row in dev[:DEV][first : first + 16]],
                    sampling_rate=16_000,
                    return_tensors="pt",
                ).input_features
                ids = model.generate(
                    input_features=features, language=TAG, task="transcribe", max_new_tokens=120
                )
                hyps += tokenizer.batch_decode(ids, skip_special_tokens=True)
        model.train()
        rate = character_errors(
            [normalise(t, "marks") for t in refs], [normalise(t, "marks") for t in hyps]
        ).rate
        way.append((step, began - start - paused[0], rate))
        paused[0] += time.perf_counter() - began
        print(f"  step {step}: {way[-1][1]:.0f} s, dev CER {100 * rate:.1f} %", flush=True)

    class Measure(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step % options.evaluate_every == 0 or state.global_step == steps:
                measure(state.global_step)

    class Recipe(Seq2SeqTrainer):
        def training_step(self, *args, **kwargs):
            with stages("forward and backward"):
                return super().training_step(*args, **kwargs)

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        learning_rate=rate,
        seed=options.seed,
        lr_scheduler_type="linear",
        warmup_steps=round(steps * options.warmup),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Recipe(
        model=model,
        args=arguments,
        train_dataset=list(train),
        data_collator=batch_of,
        callbacks=[Measure()],
    )
    start = time.perf_counter()
    trainer.train()
    total = time.perf_counter() - start - paused[0]
    return {
        "name": "usual recipe",
        "cache": 0.0,
        "total": total,
        "steps": steps,
        "way": way,
        "stages": stages,
    }


def seconds_to(way: list, rate: float) -> float | None:
    return next((seconds for _, seconds, found in way if found <= rate), None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="micro")
    parser.add_argument(
        "--negatives", type=Path, action="append", default=[], help="more audio in other languages"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--decoder", choices=DECODERS, default=SecondaryOptions.decoder)
    parser.add_argument(
        "--rate",
        type=float,
        default=4e-3,
        help="learning rate of ours, as kichwa.py chose it (%(default)s)",
    )
    parser.add_argument(
        "--usual-rate",
        type=float,
        default=1e-3,
        help="of the usual recipe, as in peft's (%(default)s)",
    )
    parser.add_argument(
        "--usual-steps", type=int, default=None, help="of the usual recipe (as many)"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    corpus = hold_out_chapter(args.data, args.out, "ch04")
    training = TrainingOptions(
        steps=args.steps, learning_rate=args.rate, seed=args.seed, evaluate_every=50
    )
    options = AddLanguageOptions(
        base=args.base,
        generated_negatives=False,
        corpora=(corpus,),
        languages={CODE: "Kichwa"},
        out=args.out / "pack",
        cache=args.out / "bench-cache",
        negatives=(
            args.data / "swahili",
            args.data / "fsdd",
            play_backwards(corpus, args.out),
            *args.negatives,
        ),
        secondary=SecondaryOptions(rank=args.rank, decoder=args.decoder),
        training=training,
    )
    backbone = Backbone.load(args.base)
    corpora = read_corpora(options, backbone.window_s)
    train, dev = corpora.train, corpora.dev
    median = statistics.median(u.duration for u in train)
    print(
        f"{len(train)} clips, {sum(u.duration for u in train) / 60:.0f} minutes, median"
        f" {median:.1f} s, window {backbone.window_s:.0f} s; batch {training.batch},"
        f" {training.variants_of(len(train))} variants, seed {args.seed}, {torch.get_num_threads()}"
        " cores",
        flush=True,
    )
    first = ours(options, backbone, corpora)
    for step, seconds, rate in first["way"]:
        print(f"  step {step}: {seconds:.0f} s, dev CER {100 * rate:.1f} %")
    print("usual recipe", flush=True)
    second = usual(
        backbone,
        (train, dev),
        training,
        args.rank,
        args.usual_rate,
        args.usual_steps or args.steps,
        args.out,
    )

    for side in (first, second):
        side["samples a second"] = side["steps"] * training.batch / side["total"]
        print(
            f"{side['name']}: {side['samples a second']:.1f} samples a second, {side['steps']}"
            f" steps in {side['total']:.0f} s, {side['cache']:.0f} s of them for the cache;"
            f" {side['stages']}"
        )
    print(
        "samples a second, cache and all:"
        f" {first['samples a second'] / second['samples a second']:.1f} x"
    )
    target = max(min(rate for *_, rate in side["way"]) for side in (first, second))
    both = [seconds_to(side["way"], target) for side in (first, second)]
    print(
        f"to a dev CER of {100 * target:.1f} %: ours {both[0]:.0f} s, the usual recipe"
        f" {both[1]:.0f} s: {both[1] / both[0]:.1f} x"
    )
    kept = {side["name"]: {**side, "stages": side["stages"].seconds} for side in (first, second)}
    (args.out / "bench.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
