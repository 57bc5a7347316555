"""`dualasr add-language`: train a language pack."""

import argparse
from pathlib import Path

from dualasr.cli.loading import BASE_HELP, layout, layout_flags
from dualasr.languages import english_name


def add_flags(command: argparse.ArgumentParser) -> None:
    g = command.add_argument_group("data")
    g.add_argument(
        "--corpus",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="corpus, in any layout (README)",
    )
    layout_flags(g)
    g.add_argument(
        "--language",
        action="append",
        required=True,
        metavar="CODE",
        help="BCP 47 or ISO 639-3; repeat for a group",
    )
    g.add_argument(
        "--language-name",
        action="append",
        default=[],
        metavar="NAME",
        help="display name of each --language",
    )
    g.add_argument(
        "--negatives",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="audio in other languages, corpora or folders; transcripts are not read",
    )
    g.add_argument(
        "--target",
        choices=("written", "normalised"),
        default="written",
        help="labels as people read them, or not",
    )
    g.add_argument(
        "--strict", action="store_true", help="stop at a row or clip that cannot be used"
    )
    g = command.add_argument_group("output")
    g.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the pack; DIR.run holds the run"
    )
    g.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    g.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    g.add_argument(
        "--cache", type=Path, metavar="DIR", help="trunk activations (trunk-cache beside the pack)"
    )
    g.add_argument("--name", default="", help="name of the pack (the folder's)")
    g.add_argument("--source", default="", help="where the corpus comes from, for the card")
    g.add_argument("--licence", default="", help="its licence, for the card")
    g = command.add_argument_group("model")
    g.add_argument("--base", default="micro", help=BASE_HELP)
    g.add_argument(
        "--rank", type=int, default=16, help="LoRA rank; 0 trains the decoder alone (%(default)s)"
    )
    g.add_argument("--alpha", type=float, default=0.0, help="LoRA alpha (the rank)")
    g.add_argument("--fork", type=int, default=-1, help="first adapted encoder layer (half depth)")
    g.add_argument(
        "--decoder",
        choices=("whisper", "las", "ctc"),
        default="whisper",
        help="the base's own with LoRA; the paper's LSTM; none beside CTC (%(default)s)",
    )
    g.add_argument("--units", type=int, default=0, help="LSTM units (min(512, 2 x width))")
    g = command.add_argument_group("training")
    g.add_argument("--steps", type=int, default=1500, help="(%(default)s)")
    g.add_argument("--batch", type=int, default=24, help="clips a step (%(default)s)")
    g.add_argument("--accumulation", type=int, default=1, help="batches a step (%(default)s)")
    g.add_argument("--learning-rate", type=float, default=2e-3, help="(%(default)s)")
    g.add_argument(
        "--variants",
        type=int,
        default=4,
        help="augmented versions of a clip, itself among them (%(default)s)",
    )
    g.add_argument(
        "--keep",
        choices=("last", "best"),
        default="last",
        help="weights of the last step, or best on dev",
    )
    g.add_argument("--save-every", type=int, default=250, metavar="STEPS", help="(%(default)s)")
    g.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    g.add_argument("--bf16", action="store_true", help="bfloat16 autocast, for GPUs")
    g.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")


def run(args: argparse.Namespace) -> int:
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
        name=args.name,
        target=args.target,
        strict=args.strict,
        cache=args.cache,
        source=args.source,
        licence=args.licence,
        device=args.device,
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
            bf16=args.bf16,
        ),
    )
    if args.dry_run:
        for key, value in plan(options).items():
            print(f"{key:14} {value}")
        return 0
    add_language(options, resume=args.resume)
    return 0
