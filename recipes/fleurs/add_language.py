r"""Add one language to a base and its packs, and measure what that costs every other language.

    python recipes/fleurs/add_language.py ky_kg --corpus data/fleurs --out runs/ky
    python recipes/fleurs/add_language.py ga_ie --corpus data/fleurs --out runs/ga \
        --pack runs/ky/packs/ky

1 data  2 tokenizer  3 trunk activations  4 train  5 calibrate on dev  6 pack  7 evaluate  8 report

--corpus is a FLEURS folder, as prepare.py makes it. A corpus of any other layout is named with its
language: qu-EC=my/corpus. The languages of the folder that the base knows are the old ones (--old
names fewer). Their training audio shows the pack what is not its language. Their test split is
evaluated before and after, and so is that of earlier packs' languages.

OUT/packs/CODE is the pack, OUT/reports holds the evaluations. OUT is never overwritten. A run that
was stopped goes on with the same command.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dualasr.audio.torchaudio_fault import torchaudio_fault  # noqa: F401  before transformers

# isort: split
from transformers.utils.logging import set_verbosity_error as silence_transformers

from dualasr import errors
from dualasr.atomic import atomic_file
from dualasr.cli.log import log_to_terminal
from dualasr.data.corpus import Corpus, load_corpus
from dualasr.data.fleurs import find_fleurs
from dualasr.errors import CorpusError, DualasrError, PackError, RunError
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.evaluation.markdown import markdown_table
from dualasr.evaluation.report import write_report
from dualasr.languages import NINETEEN, FleursLanguage, language_of, tag_among
from dualasr.model.secondary import DECODERS, SecondaryOptions
from dualasr.model.whisper import Backbone, find_device
from dualasr.packs.format import read_pack
from dualasr.packs.load import load_model
from dualasr.text import scoring_unit
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions, check_settings


@dataclass(frozen=True)
class Setting:
    """Settings that all steps of a run share.

    `old` are the FLEURS configs of the base's languages; `negatives` hold more audio in other
    languages.
    """

    corpus: Path
    out: Path
    old: tuple[str, ...]
    base: str = "micro"
    negatives: tuple[Path, ...] = ()
    device: str = "cpu"
    beam: int = 5
    keep_answers: bool = True
    secondary: SecondaryOptions = SecondaryOptions()
    training: TrainingOptions = TrainingOptions()

    def folder(self, config: str) -> Path:
        """Return the folder of a config's tables, or the corpus that is named.

        Raises CorpusError that offers the nearest name there is.
        """
        if path := config.partition("=")[2]:
            return Path(path)
        found = {folder.name: folder for folder in find_fleurs(self.corpus)}
        if config not in found:
            near = get_close_matches(config, found) or sorted(found)
            raise CorpusError(
                f"{self.corpus} has no {config}; there is"
                f" {', '.join(near[:5]) or 'no FLEURS config'}. Make it with prepare.py --out"
                f" {self.corpus} {config}."
            )
        return found[config]

    def read(self, config: str, split: str) -> Corpus:
        """Read the clips of a split. Raises CorpusError."""
        code = language_named(config).code
        return load_corpus(self.folder(config), split, languages=[code], default_language=code)


def old_configs(
    corpus: Path, base: str, known: Collection[str], named: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the configs of a FLEURS folder that the base knows, or those of them that are named.

    Raises CorpusError.
    """
    there = [folder.name for folder in find_fleurs(corpus)]
    old = [config for config in there if language_of(config).whisper in known]
    if named is None:
        return tuple(old)
    wanted = [language_of(name).config for name in named]
    if strange := [config for config in wanted if config not in old]:
        raise CorpusError(
            f"--old {' '.join(strange)}: the base {base} does not know it, or {corpus} does not"
            f" hold it; there is {' '.join(old) or 'none'}."
        )
    return tuple(wanted)


def open_out(out: Path, arguments: dict) -> None:
    """Make OUT and write the arguments there, or check that they are the same. Raises RunError."""
    kept, wanted = out / "arguments.json", json.loads(json.dumps(arguments, default=str))
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if changed := differences(before, wanted):
            raise RunError(
                f"{out} was begun with other settings ({', '.join(changed)}); go on with the same,"
                " or choose another --out."
            )
        return
    # hidden files are left by a start that was killed
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise RunError(
            f"{out} exists and is not a run of this recipe; choose another --out. Nothing was"
            " overwritten."
        )
    with atomic_file(kept, advice="Free some space or choose another --out.") as part:
        part.write_text(json.dumps(wanted, indent=1, ensure_ascii=False), encoding="utf-8")


def differences(before: dict, now: dict) -> list[str]:
    """List what changed, each as "name: before, now now"."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new)
        elif old != new:
            found.append(f"{key}: {json.dumps(old)}, now {json.dumps(new)}")
    return found


def train(
    setting: Setting,
    pack: Path,
    new: Sequence[FleursLanguage],
    *,
    earlier: Sequence[FleursLanguage] = (),
    init: Path | None = None,
    others: Sequence[str] = (),
    later: Sequence[str] = (),
    rehearse: float = 0.3,
    processes: int = 1,
) -> None:
    """Run steps 1 to 6: make a pack of `new`, unless it exists.

    With `init` it goes on from a pack that knows `earlier`. `others` are configs of further new
    languages, whose training audio serves as negatives; `later` are languages that the pack will
    get afterwards, whose text takes part in the vocabulary. Several processes are started as
    torchrun would, and each takes its share of every batch. Raises RunError where one fails.
    """
    if pack.exists():
        read_pack(pack)
        return
    spoken = [
        folder for folder in map(setting.folder, setting.old) if (folder / "train.tsv").is_file()
    ]
    negatives = [*spoken, *map(setting.folder, others), *setting.negatives]
    options = AddLanguageOptions(
        base=setting.base,
        generated_negatives=False,
        corpora=tuple(setting.folder(language.config) for language in new),
        languages={language.code: language.name for language in (*earlier, *new)},
        out=pack,
        negatives=tuple(negatives),
        cache=setting.out / "trunk-cache",
        source="FLEURS folder",
        licence="as the corpus",
        device=setting.device,
        secondary=setting.secondary,
        training=setting.training,
        init=init,
        rehearse=rehearse,
        rehearsal=tuple(setting.folder(language.config) for language in earlier),
        vocabulary_corpora=tuple(setting.folder(config) for config in later),
    )
    if processes == 1:
        return steps_1_to_6(options)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=pack.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGTERM",
    )
    # the recipe's own message says what failed
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        elastic_launch(launch, steps_1_to_6)(options)
    except ChildFailedError as error:
        cause = error.get_first_failure()[1].message
        if isinstance(cause, str):  # it was killed
            raise RunError(f"{pack.name}: one of {processes} processes failed. {cause}") from error
        kind, _, sentence = cause["message"].partition(": ")
        if hasattr(errors, kind):
            raise RunError(sentence) from error
        raise


def steps_1_to_6(options: AddLanguageOptions) -> None:
    """Run steps 1 to 6 in this process, which may be one of several."""
    silence_transformers()
    add_language(options, resume=True)


def measure(
    setting: Setting, packs: Sequence[Path], configs: Sequence[str], report: Path, command: str
) -> dict:
    """Run steps 7 and 8: write the report on the test split of `configs`, unless it exists."""
    if not report.exists():
        parts = [setting.read(config, "test") for config in configs]
        utterances = [u for part in parts for u in part.utterances]
        skipped = [row for part in parts for row in part.skipped]
        model = load_model(setting.base, packs, device=setting.device)
        answers = setting.out / "answers" if setting.keep_answers else None
        options = EvaluationOptions(beam=setting.beam, probes=0)
        evaluation = evaluate(model, utterances, options, skipped=skipped, answers=answers)
        write_report(report, evaluation, command, model=model)
    return json.loads(report.read_text(encoding="utf-8"))


def arguments_of(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add the arguments of every recipe that trains, but for those in `without`."""

    def option(group, flag: str, **about) -> None:
        if flag in without:
            parser.set_defaults(**{flag.strip("-").replace("-", "_"): about.get("default")})
        else:
            group.add_argument(flag, **about)

    g = parser.add_argument_group("data")
    g.add_argument(
        "--corpus",
        type=Path,
        required=True,
        metavar="DIR",
        help="FLEURS folder, as prepare.py makes it",
    )
    g.add_argument("--out", type=Path, required=True, metavar="DIR")
    g.add_argument(
        "--old",
        nargs="+",
        default=None,
        metavar="CONFIG",
        help="languages of the base (all of them in the corpus)",
    )
    option(
        g,
        "--negatives",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="more audio in other languages",
    )
    g = parser.add_argument_group("model and training")
    g.add_argument("--base", default="micro", help="built-in base, folder, or hub id (%(default)s)")
    g.add_argument(
        "--decoder", choices=DECODERS, default=SecondaryOptions.decoder, help="(%(default)s)"
    )
    option(g, "--rank", type=int, default=SecondaryOptions.rank, help="of LoRA (%(default)s)")
    option(g, "--fork", type=int, default=-1, help="first adapted encoder layer (half depth)")
    g.add_argument(
        "--steps", type=int, default=TrainingOptions.steps, help="a language (%(default)s)"
    )
    g.add_argument(
        "--batch", type=int, default=TrainingOptions.batch, help="clips a step (%(default)s)"
    )
    option(
        g,
        "--learning-rate",
        type=float,
        default=TrainingOptions.learning_rate,
        help="(%(default)s)",
    )
    g.add_argument(
        "--variants",
        type=int,
        default=TrainingOptions.variants,
        help="augmented versions of a clip (%(default)s)",
    )
    option(g, "--seed", type=int, default=1, help="(%(default)s)")
    g.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default="float32",
        help="number type of the training (%(default)s, as in results)",
    )
    g.add_argument("--device", default="cpu", help="(%(default)s)")
    option(
        g,
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="that train together, as one a GPU (%(default)s)",
    )
    g = parser.add_argument_group("evaluation")
    g.add_argument("--beam", type=int, default=5, help="(%(default)s)")
    option(
        g,
        "--fresh",
        action="store_true",
        help="decode everything after every step, though it was decoded before",
    )


def configs_of(parser: argparse.ArgumentParser) -> None:
    """Add the argument for several new languages."""
    parser.add_argument(
        "configs",
        nargs="*",
        metavar="CONFIG",
        help="of FLEURS, or a language's code, in their order (the paper's nineteen)",
    )


def begin(
    args: argparse.Namespace, names: Sequence[str]
) -> tuple[tuple[FleursLanguage, ...], Setting, Backbone]:
    """Read the new languages (configs or codes), the settings that all steps share, and the base.

    Without names the languages are the paper's nineteen. Raises CorpusError for a language that is
    unknown, not in the corpus, named twice, or the base's; BaseModelError; and RunError for
    settings outside their range.
    """
    device = find_device(args.device)
    backbone = Backbone.load(args.base, device=device)
    known = list(backbone.languages)
    if not names:
        say("no language is named: the paper's nineteen")
    languages = tuple(map(language_named, names or NINETEEN))
    for k, language in enumerate(languages):
        if language.code in [one.code for one in languages[:k]]:
            raise CorpusError(f"{language.config} is named twice; name each language once.")
        if language.whisper in known or tag_among(language.code, known):
            raise CorpusError(
                f"{language.config}: {args.base} has {language.name} already; wanted a language it"
                " lacks."
            )
    old = old_configs(args.corpus, args.base, known, args.old)
    if not old:
        print(
            f"warning: {args.corpus} holds no language that the base {args.base} knows: what it"
            " loses cannot be measured, and packs learn from nothing what is not their own;"
            " prepare.py adds some",
            file=sys.stderr,
        )
    setting = Setting(
        args.corpus,
        args.out,
        old,
        args.base,
        tuple(args.negatives),
        device,
        args.beam,
        not args.fresh,
        SecondaryOptions(rank=args.rank, fork=args.fork, decoder=args.decoder),
        TrainingOptions(
            steps=args.steps,
            batch=args.batch,
            learning_rate=args.learning_rate,
            variants=args.variants,
            seed=args.seed,
            precision=args.precision,
        ),
    )
    check_settings(setting.secondary, setting.training, backbone.layers)
    if args.processes < 1:
        raise RunError(f"--processes {args.processes}: wanted 1 or more.")
    for language in languages:
        setting.folder(language.config)
    return languages, setting, backbone


def language_named(name: str) -> FleursLanguage:
    """Find a language by FLEURS config or code, or by a corpus of its own, as qu-EC=my/corpus.

    Raises CorpusError.
    """
    code, _, path = name.partition("=")
    if not path:
        return language_of(name)
    if not Path(path).is_dir():
        raise CorpusError(
            f"{name}: {path} is no folder; wanted CODE=FOLDER with a corpus that has train, dev and"
            " test."
        )
    return FleursLanguage(name, code, code, None, "", scoring_unit(code))


def run(
    main: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Run a recipe and return its exit code: 1 with a sentence for an error, 130 for Ctrl-C."""
    name = Path(parser.prog).stem
    args = parser.parse_args(argv)
    silence_transformers()
    args.command = shlex.join(
        ["python", f"recipes/fleurs/{name}.py", *(sys.argv[1:] if argv is None else map(str, argv))]
    )
    try:
        with log_to_terminal():
            return main(args)
    except DualasrError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (OSError, SafetensorError) as error:
        print(
            f"{name}: {error}; what is done is kept, and the same command goes on", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        return 130


def write_result(path: Path, found: dict, text: str) -> None:
    """Write PATH.json and PATH.md, each whole or not at all, and print the latter."""
    for ending, content in (("json", json.dumps(found, indent=1)), ("md", text)):
        with atomic_file(path.with_suffix(f".{ending}")) as part:
            part.write_text(content, encoding="utf-8")
    print(text)


def say(line: str) -> None:
    print(line, flush=True)


def add_one(args: argparse.Namespace) -> int:
    (language,), setting, _ = begin(args, [args.config])
    earlier, named = [], {one.code: one for one in map(language_named, args.earlier)}
    for folder in args.pack:
        held = read_pack(folder)["languages"]
        if language.code in held:
            raise PackError(
                f"{folder} holds {language.name} already; leave it out, or add another language."
            )
        earlier += [named[code] if code in named else language_of(code) for code in held]
    open_out(args.out, asdict(setting) | {"config": language.config, "packs": args.pack})
    before = [*setting.old, *(one.config for one in earlier)]
    pack = args.out / "packs" / language.code
    say("before: evaluate")
    first = measure(
        setting,
        args.pack,
        [*before, language.config],
        args.out / "reports" / "before.json",
        args.command,
    )
    train(
        setting, pack, [language], others=[one.config for one in earlier], processes=args.processes
    )
    say("  7 evaluate")
    packs, report = [*args.pack, pack], args.out / "reports" / "after.json"
    second = measure(setting, packs, [*before, language.config], report, args.command)
    say(f"  8 report -> {report.with_suffix('.html')}")
    print(
        "\n".join(
            markdown_table(
                ("language", "", "pipeline known", "nothing known"), rows_of(first, second)
            )
        )
    )
    return 0


def rows_of(before: dict, after: dict) -> list[tuple[str, ...]]:
    """Return CER of each language before and after, in percent."""
    rows = []
    for code, found in after["languages"].items():
        pairs = [
            (before["languages"][code][mode]["cer"], found[mode]["cer"])
            for mode in ("pipeline_aware", "agnostic")
        ]
        old = "old" if before["languages"][code]["known"] else "new"
        rows.append((code, old, *(f"{100 * a:.1f} -> {100 * b:.1f}" for a, b in pairs)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="add_language.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="of FLEURS, or the language's code")
    arguments_of(parser)
    parser.add_argument(
        "--pack",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="pack that is there already",
    )
    parser.add_argument(
        "--earlier",
        action="append",
        default=[],
        metavar="CODE=FOLDER",
        help="corpus of a language of such a pack, where FLEURS has none of it",
    )
    return run(add_one, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
