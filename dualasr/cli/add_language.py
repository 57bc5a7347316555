"""The command `dualasr add-language`: train a language pack."""

import argparse
from pathlib import Path

from dualasr.cli.loading import BASE_HELP, CORPUS_HELP, layout, layout_flags
from dualasr.languages import english_name


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of `dualasr add-language`."""
    g = command.add_argument_group("data")
    g.add_argument(
        "--corpus",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help=f"transcribed speech to train on: {CORPUS_HELP}; repeat for several",
    )
    layout_flags(g)
    g.add_argument(
        "--language",
        action="append",
        required=True,
        metavar="CODE",
        help="code of the language to add (BCP 47 or ISO 639-3); repeat for a group of languages",
    )
    g.add_argument(
        "--language-name",
        action="append",
        default=[],
        metavar="NAME",
        help="name to show for the --language at the same place (default: its English name)",
    )
    g.add_argument(
        "--negatives",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help=(
            "audio in other languages, which teaches the pack what is not its own: a corpus or a"
            " folder of sound files; transcripts are not read; repeat for several"
        ),
    )
    g.add_argument(
        "--no-generated-negatives",
        action="store_true",
        help=(
            "use only what --negatives names; else generated speech in about a hundred other"
            " languages is added to it"
        ),
    )
    g.add_argument(
        "--target",
        choices=("written", "normalised"),
        default="written",
        help=(
            "text that the pack learns to write: with case and punctuation (written), or without"
            " (normalised) (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first row or clip that cannot be used, instead of skipping it",
    )
    g = command.add_argument_group("output")
    g.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write the pack to; logs and checkpoints go to DIR.run",
    )
    g.add_argument("--resume", action="store_true", help="continue an unfinished run")
    g.add_argument(
        "--dry-run",
        action="store_true",
        help="print how much data, memory, disk and time the run needs, and stop",
    )
    g.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder for the frozen encoder's outputs (default: trunk-cache beside the pack)",
    )
    g.add_argument("--name", default="", help="name of the pack (default: name of its folder)")
    g.add_argument("--source", default="", help="origin of the corpus, for the model card")
    g.add_argument("--licence", default="", help="licence of the corpus, for the model card")
    g = command.add_argument_group("model")
    g.add_argument("--base", default="micro", help=BASE_HELP)
    g.add_argument(
        "--rank",
        type=int,
        default=16,
        help="rank of LoRA; 0 trains only decoder and heads (default: %(default)s)",
    )
    g.add_argument(
        "--alpha",
        type=float,
        default=0.0,
        help="alpha of LoRA, which scales it by alpha / rank; 0: the rank (default: 0)",
    )
    g.add_argument(
        "--fork",
        type=int,
        default=-1,
        help="first encoder layer that gets LoRA, from 0; -1: half of the layers (default: -1)",
    )
    g.add_argument(
        "--decoder",
        choices=("whisper", "las", "ctc"),
        default="whisper",
        help=(
            "decoder of the pack: the base's own with LoRA (whisper), the LSTM of the paper (las),"
            " or only a CTC head (ctc) (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--vocabulary",
        choices=("own", "base"),
        default="own",
        help=(
            "text units of the pack: trained on its own text (own), or the base's units that spell"
            " it, whose meaning the base's decoder knows (base) (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--units",
        type=int,
        default=0,
        help="size of the LSTM of --decoder las; 0: min(512, 2 x width of the base) (default: 0)",
    )
    g = command.add_argument_group("training")
    g.add_argument(
        "--steps", type=int, default=1500, help="number of training steps (default: %(default)s)"
    )
    g.add_argument(
        "--batch", type=int, default=24, help="number of clips in a batch (default: %(default)s)"
    )
    g.add_argument(
        "--accumulation",
        type=int,
        default=1,
        help="number of batches in a step, to train with less memory (default: %(default)s)",
    )
    g.add_argument(
        "--learning-rate",
        type=float,
        default=2e-3,
        help="highest learning rate of the schedule (default: %(default)s)",
    )
    g.add_argument(
        "--variants",
        type=int,
        default=4,
        help=(
            "number of versions of each training clip: itself, and augmented ones (default:"
            " %(default)s)"
        ),
    )
    g.add_argument(
        "--keep",
        choices=("last", "best"),
        default="last",
        help=(
            "weights to keep: of the last step, or of the step with the lowest dev CER (default:"
            " %(default)s)"
        ),
    )
    g.add_argument(
        "--save-every",
        type=int,
        default=250,
        metavar="STEPS",
        help="steps between two checkpoints, each with dev scores (default: %(default)s)",
    )
    g.add_argument("--seed", type=int, default=1, help="seed of all randomness (default: 1)")
    g.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help=(
            "number type of the computation; auto: bfloat16 on processors and GPUs that are made"
            " for it, which is up to three times as fast (default: %(default)s)"
        ),
    )
    g.add_argument(
        "--report-to",
        action="append",
        default=[],
        metavar="NAME",
        help=(
            "show the losses in tensorboard, wandb or trackio as well; metrics.jsonl and loss.png"
            " are always written to DIR.run; repeat for several"
        ),
    )
    g.add_argument(
        "--device",
        default="cpu",
        help="device to train on: cpu, cuda, cuda:1, ... (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train a pack, or print the plan of it; return the exit code."""
    from dualasr.model.las_decoder import LASOptions
    from dualasr.model.secondary import SecondaryOptions
    from dualasr.training.add_language import add_language
    from dualasr.training.options import AddLanguageOptions, TrainingOptions
    from dualasr.training.plan import plan

    names = dict(zip(args.language, args.language_name, strict=False))
    options = AddLanguageOptions(
        base=args.base,
        corpora=tuple(args.corpus),
        languages={code: names.get(code) or english_name(code) for code in args.language},
        **layout(args),
        out=args.out,
        negatives=tuple(args.negatives),
        generated_negatives=not args.no_generated_negatives,
        name=args.name,
        target=args.target,
        strict=args.strict,
        cache=args.cache,
        source=args.source,
        licence=args.licence,
        device=args.device,
        vocabulary=args.vocabulary,
        secondary=SecondaryOptions(
            args.rank, args.alpha, args.fork, args.decoder, LASOptions(units=args.units)
        ),
        training=TrainingOptions(
            steps=args.steps,
            batch=args.batch,
            accumulation=args.accumulation,
            learning_rate=args.learning_rate,
            variants=args.variants,
            save_every=args.save_every,
            evaluate_every=args.save_every,
            keep=args.keep,
            seed=args.seed,
            precision=args.precision,
            report_to=tuple(args.report_to),
        ),
    )
    if args.dry_run:
        for key, value in plan(options).items():
            print(f"{key:14} {value}")
        return 0
    add_language(options, resume=args.resume)
    return 0
