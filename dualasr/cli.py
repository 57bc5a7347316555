"""The command line: thin sub-commands over the library. Exit code 0, 1 for an error, 130 for Ctrl-C."""

import argparse
import os
import sys
from pathlib import Path

from dualasr import transcribe_cli, transcribe_flags
from dualasr.errors import CorpusError, DualasrError, MissingExtraError, PackError, RunError
from dualasr.packs_cli import packs_dir_flag, packs_flags, run_packs

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false",
         "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    about = "Teach Whisper a new language without making it forget the ones it knows."
    parser = argparse.ArgumentParser(prog="dualasr", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    base_help = "built-in base, folder in transformers format, hub id, or a size of Whisper's (%(default)s)"

    def add(name: str, run, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=run)
        return command

    def model_flags(command) -> None:
        command.add_argument("--base", "--model", default="micro", help=base_help)
        command.add_argument("--pack", type=Path, action="append", default=[], metavar="PACK",
                             help="language pack: its folder, its name, or a folder of packs; repeat for several")  # fmt: skip
        packs_dir_flag(command)
        command.add_argument("--device", default="auto", help="auto (cuda where there is one), cpu, cuda, cuda:1 (%(default)s)")
        command.add_argument("--selector", default="calibrated",
                             help="calibrated, paper, or the JSON file of a pack set (%(default)s)")  # fmt: skip

    def layout_flags(command) -> None:
        command.add_argument("--column", action="append", default=[], metavar="FIELD=NAME",
                             help="column of a table: audio, text, language, split, speaker, id, start or end, as "
                             "text=transcription; what is not named is guessed")  # fmt: skip
        command.add_argument("--tier", metavar="NAME", help="tier of ELAN files and TextGrids (all)")

    c = add("quickstart", run_quickstart, "the main job on generated speech: add two languages, measure, transcribe")
    c.add_argument("--out", type=Path, default=Path("quickstart"), help="folder for corpus, packs, reports (%(default)s)")
    c.add_argument("--base", default="micro", help=base_help)
    c.add_argument("--steps", type=int, default=argparse.SUPPRESS, help="training steps a language (250)")
    c.add_argument("--readings", type=int, default=argparse.SUPPRESS, help="voices a training sentence (2)")
    c.add_argument("--text", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="more sentences: DIR/*_<code>.txt")
    c.add_argument("--corpus-only", action="store_true", help="generate the corpus, and stop")
    c.add_argument("--limit", type=int, default=argparse.SUPPRESS, metavar="N", help="N sentences a split, for a quick look")
    c.add_argument("--seed", type=int, default=1)

    c = add("add-language", run_add_language, "train a language pack for a frozen base")
    g = c.add_argument_group("data")
    g.add_argument("--corpus", type=Path, action="append", required=True, metavar="PATH", help="corpus, in any layout (README)")
    layout_flags(g)
    g.add_argument("--language", action="append", required=True, metavar="CODE", help="BCP 47 or ISO 639-3; repeat for a group")
    g.add_argument("--language-name", action="append", default=[], metavar="NAME", help="display name of each --language")
    g.add_argument("--negatives", type=Path, action="append", default=[], metavar="PATH",
                   help="audio in other languages, corpora or folders; transcripts are not read")  # fmt: skip
    g.add_argument("--target", choices=("written", "normalised"), default="written", help="labels as people read them, or not")
    g.add_argument("--strict", action="store_true", help="stop at a row or clip that cannot be used")
    g = c.add_argument_group("output")
    g.add_argument("--out", type=Path, required=True, metavar="DIR", help="the pack; DIR.run holds the run")
    g.add_argument("--resume", action="store_true", help="go on with an unfinished run")
    g.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    g.add_argument("--cache", type=Path, metavar="DIR", help="trunk activations (trunk-cache beside the pack)")
    g.add_argument("--name", default="", help="name of the pack (the folder's)")
    g.add_argument("--source", default="", help="where the corpus comes from, for the card")
    g.add_argument("--licence", default="", help="its licence, for the card")
    g = c.add_argument_group("model")
    g.add_argument("--base", default="micro", help=base_help)
    g.add_argument("--rank", type=int, default=16, help="LoRA rank; 0 trains the decoder alone (%(default)s)")
    g.add_argument("--alpha", type=float, default=0.0, help="LoRA alpha (the rank)")
    g.add_argument("--fork", type=int, default=-1, help="first adapted encoder layer (half depth)")
    g.add_argument("--decoder", choices=("whisper", "las", "ctc"), default="whisper",
                   help="the base's own with LoRA; the paper's LSTM; none beside CTC (%(default)s)")  # fmt: skip
    g.add_argument("--units", type=int, default=0, help="LSTM units (min(512, 2 x width))")
    g = c.add_argument_group("training")
    g.add_argument("--steps", type=int, default=1500, help="(%(default)s)")
    g.add_argument("--batch", type=int, default=24, help="clips a step (%(default)s)")
    g.add_argument("--accumulation", type=int, default=1, help="batches a step (%(default)s)")
    g.add_argument("--learning-rate", type=float, default=2e-3, help="(%(default)s)")
    g.add_argument("--variants", type=int, default=4, help="augmented versions of a clip, itself among them (%(default)s)")
    g.add_argument("--keep", choices=("last", "best"), default="last", help="weights of the last step, or best on dev")
    g.add_argument("--save-every", type=int, default=250, metavar="STEPS", help="(%(default)s)")
    g.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    g.add_argument("--bf16", action="store_true", help="bfloat16 autocast, for GPUs")
    g.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")

    c = add("evaluate", run_evaluate, "WER and CER, pipeline-aware and language-agnostic, and routing")
    model_flags(c)
    c.add_argument("--corpus", type=Path, required=True, metavar="PATH", help="corpus, in any layout (README)")
    layout_flags(c)
    c.add_argument("--split", default="test", help="(%(default)s)")
    c.add_argument("--language", action="append", default=None, metavar="CODE", help="only these languages")
    c.add_argument("--report", type=Path, required=True, metavar="OUT.json", help="beside it OUT.md, .html and .clips.jsonl")
    c.add_argument("--answers", type=Path, default=None, metavar="DIR",
                   help="what was decoded is kept there, and not decoded again (answers beside the report)")  # fmt: skip
    c.add_argument("--beam", type=int, default=5, help="(%(default)s)")
    c.add_argument("--batch", type=int, default=16, help="windows decoded together (%(default)s)")

    c = add("calibrate", run_calibrate, "fit the selector of a set of packs on dev audio")
    model_flags(c)
    c.add_argument("--corpus", type=Path, action="append", required=True, metavar="PATH",
                   help="labelled dev audio, of the primary's languages too, in any layout (README)")  # fmt: skip
    layout_flags(c)
    c.add_argument("--split", default="dev", help="never test (%(default)s)")
    c.add_argument("--negatives", type=Path, action="append", default=[], metavar="PATH",
                   help="audio in languages that neither the primary nor a pack knows")  # fmt: skip
    c.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="for --selector")
    c.add_argument("--plot", type=Path, metavar="FILE.png", help="reliability before and after (beside --out)")
    c.add_argument("--most_stolen", type=float, default=0.01, metavar="SHARE",
                   help="of the negatives, that packs may take (%(default)s)")  # fmt: skip
    c.add_argument("--taken", type=float, default=2.0, metavar="X",
                   help="what a clip taken from the primary counts, beside any other routed wrongly (%(default)s)")  # fmt: skip
    c.add_argument("--beam", type=int, default=1, help="(%(default)s)")
    c.add_argument("--batch", type=int, default=16, help="clips decoded together (%(default)s)")

    c = add("compare", run_compare, "how far two reports on the same clips lie apart, with paired intervals")
    c.add_argument("reports", type=Path, nargs=2, metavar="REPORT.json", help="A and B, each with its clips beside it")
    c.add_argument("--mode", action="append", choices=("pipeline_aware", "group_aware", "agnostic"), default=None,
                   help="repeat for several (agnostic and pipeline_aware)")  # fmt: skip
    c.add_argument("--out", type=Path, default=None, metavar="DIFF.json", help="write it as JSON, too")
    c.add_argument("--seed", type=int, default=0, help="of the resampling (%(default)s)")

    c = add("transcribe", run_transcribe, "transcribe files, each by the pipeline that knows its language")
    c.usage = "dualasr transcribe [options] AUDIO [AUDIO ...]"
    transcribe_flags.add_flags(c)
    g = c.add_argument_group("model")
    model_flags(g)

    c = add("serve", run_serve, "a page to try it on, and OpenAI's transcription endpoint")
    g = c.add_argument_group("server")
    g.add_argument("--host", default="127.0.0.1", help="0.0.0.0: whoever reaches this machine (%(default)s)")
    g.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    g.add_argument("--key", type=_key, default=os.environ.get("DUALASR_KEY") or None,
                   help="bearer key of the endpoints and password of the page (DUALASR_KEY)")  # fmt: skip
    g.add_argument("--no_page", action="store_true", help="the endpoints alone")
    g = c.add_argument_group("limits")
    g.add_argument("--queue", type=int, default=64, metavar="N", help="requests admitted at once (%(default)s)")
    g.add_argument("--max_upload_mb", type=float, default=200.0, metavar="MB", help="a request (%(default)s)")
    g.add_argument("--max_audio_s", type=float, default=3600.0, metavar="S", help="of sound a request (%(default)s)")
    g.add_argument("--time_limit_s", type=float, default=600.0, metavar="S", help="from request to answer (%(default)s)")
    g = c.add_argument_group("model")
    model_flags(g)
    g.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="(%(default)s)")
    g.add_argument("--batch_size", type=int, default=8, metavar="N", help="windows decoded together (%(default)s)")

    c = add("corpus", run_corpus, "look into a corpus, or split it into train, dev and test")
    actions = c.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (("check", "what is in a corpus, and what is wrong with it"),
                         ("split", "write a manifest with no sentence in two splits")):  # fmt: skip
        c = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        c.add_argument("path", type=Path, metavar="PATH")
        c.add_argument("--language", metavar="CODE", help="of rows that name none")
        layout_flags(c)
        if action == "check":
            c.add_argument("--html", type=Path, metavar="OUT.html", help="a page with histograms")
            continue
        c.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/manifest.jsonl is written")
        c.add_argument("--dev", type=float, default=0.1, help="share of the clips (%(default)s)")
        c.add_argument("--test", type=float, default=0.1, help="share of the clips (%(default)s)")
        c.add_argument("--by-speaker", action="store_true", help="no speaker in two splits, either")
        c.add_argument("--seed", type=int, default=1, help="(%(default)s)")

    c = add("export", run_export, "a pack merged and alone, and its base for faster-whisper and whisper.cpp")
    c.add_argument("pack", type=Path, metavar="PACK", help="language pack: its folder or its name")
    c.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder; its README.md says what is what")
    c.add_argument("--base", default="micro", help=base_help)
    packs_dir_flag(c)

    packs_flags(add("packs", run_packs, "list, look into, check, add and remove packs"))
    for command in commands.choices.values():
        _take_both_spellings(command)
    return parser


def _take_both_spellings(command: argparse.ArgumentParser) -> None:
    """`--output-dir` beside `--output_dir`, and the reverse; the help shows the one."""
    for flag, action in list(command._option_string_actions.items()):
        if flag.startswith("--"):
            for other in (flag[2:].replace("_", "-"), flag[2:].replace("-", "_")):
                command._option_string_actions.setdefault(f"--{other}", action)
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _take_both_spellings(below)


def _key(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; leave it out, or give the key")
    return text


def _packs(args) -> list[Path]:
    """The folders of --pack, as they are now."""
    from dualasr.pack_folder import find_packs, packs_dir

    return find_packs(args.pack, packs_dir(args.packs_dir), empty=args.command == "serve")


def _load(args, **options):
    return _with_packs(_base(args, **options), args)


def _base(args, **options):
    """The base with the selector, as yet without a pack."""
    from dualasr.backbone import find_device
    from dualasr.model import load_model
    from dualasr.pack import read_selector
    from dualasr.selector import SelectorOptions

    named = {"calibrated": SelectorOptions(), "paper": SelectorOptions.paper()}
    selector = named[args.selector] if args.selector in named else read_selector(Path(args.selector))
    return load_model(args.base, device=find_device(args.device), selector=selector, **options)


def _with_packs(base, args):
    """The base with the packs that are there now."""
    from dualasr.model import with_packs

    model, selector = with_packs(base, _packs(args)), base.selector
    if selector.packs and set(selector.packs) != set(model.packs):
        print(f"dualasr: warning: {args.selector} was fitted for the packs {', '.join(selector.packs)}, not for "
              f"{', '.join(model.packs) or 'none'}", file=sys.stderr)  # fmt: skip
    for name, pack in model.packs.items():
        if not pack.info.calibration.negatives:
            print(f"dualasr: warning: pack {name!r} had no --negatives; its routing is unreliable", file=sys.stderr)
    return model


def _layout(args) -> dict:
    """What --column and --tier say. Raises CorpusError."""
    from dualasr.corpus import Columns

    pairs = [item.partition("=") for item in args.column]
    known = Columns.__dataclass_fields__
    for field, _, name in pairs:
        if field not in known or not name:
            raise CorpusError(f"--column {field}{'=' + name if name else ''}: wanted FIELD=NAME, with FIELD one of "
                              f"{', '.join(known)}.")  # fmt: skip
    return {"columns": Columns(**{field: name for field, _, name in pairs}), "tier": args.tier}


def run_quickstart(args) -> int:
    from dualasr.quickstart import QuickstartOptions, quickstart

    given = {key: vars(args)[key] for key in ("out", "base", "steps", "readings", "text", "limit", "seed") if key in args}
    quickstart(QuickstartOptions(**given), corpus_only=args.corpus_only, say=lambda line: print(line, flush=True))
    return 0


def run_add_language(args) -> int:
    from dualasr.adding import add_language
    from dualasr.las import LASOptions
    from dualasr.planning import plan
    from dualasr.secondary import SecondaryOptions
    from dualasr.training import TrainingOptions
    from dualasr.training_data import AddLanguageOptions

    names = dict(zip(args.language, args.language_name, strict=False))
    options = AddLanguageOptions(
        base=args.base, corpora=tuple(args.corpus), languages={code: names.get(code, code) for code in args.language},
        **_layout(args), out=args.out, negatives=tuple(args.negatives), name=args.name, target=args.target, strict=args.strict,
        cache=args.cache, source=args.source, licence=args.licence, device=args.device,
        secondary=SecondaryOptions(args.rank, args.alpha, args.fork, args.decoder, LASOptions(units=args.units)),
        training=TrainingOptions(
            steps=args.steps, batch=args.batch, accumulation=args.accumulation, learning_rate=args.learning_rate,
            variants=args.variants, save_every=args.save_every, evaluate_every=args.save_every, keep=args.keep,
            seed=args.seed, bf16=args.bf16,
        ),
    )  # fmt: skip
    if args.dry_run:
        for key, value in plan(options).items():
            print(f"{key:14} {value}")
        return 0
    add_language(options, resume=args.resume, say=lambda line: print(line, flush=True))
    return 0


def run_evaluate(args) -> int:
    from dualasr.corpus import load_corpus
    from dualasr.evaluation import EvaluationOptions, evaluate
    from dualasr.report import to_markdown, write_report

    only = args.language[0] if args.language and len(args.language) == 1 else None
    corpus = load_corpus(args.corpus, args.split, languages=args.language, default_language=only, **_layout(args))
    for note in corpus.notes:
        print(f"dualasr: {note}", file=sys.stderr)
    evaluation = evaluate(_load(args), corpus.utterances, EvaluationOptions(beam=args.beam, batch=args.batch),
                          skipped=corpus.skipped, answers=args.answers or args.report.parent / "answers")  # fmt: skip
    packs = "".join(f" --pack {path.name}" for path in args.pack)
    command = f"dualasr evaluate --base {args.base}{packs} --corpus {args.corpus.name} --split {args.split} --beam {args.beam}"
    command += "".join(f" --column {column}" for column in args.column) + (f" --tier {args.tier}" if args.tier else "")
    write_report(args.report, evaluation, command)
    print(to_markdown(evaluation.report, command))
    return 0


def run_calibrate(args) -> int:
    from dualasr.calibrating import calibrate_set, draw, read_unknown, refuse_test, to_text, write_calibration
    from dualasr.corpus import load_corpus
    from dualasr.set_calibration import SetOptions

    refuse_test(args.split)
    corpora = [load_corpus(path, args.split, require_text=False, **_layout(args)) for path in args.corpus]
    for note in (note for corpus in corpora for note in corpus.notes):
        print(f"dualasr: {note}", file=sys.stderr)
    model, options = _load(args), SetOptions(args.most_stolen, args.taken, args.beam, args.batch)
    unknown = read_unknown(args.negatives, args.split, model)
    found = calibrate_set(model, [u for corpus in corpora for u in corpus.utterances], unknown, options)
    named = (("--pack", args.pack), ("--corpus", args.corpus), ("--negatives", args.negatives))
    command = f"dualasr calibrate --base {args.base}" + "".join(f" {flag} {p.name}" for flag, paths in named for p in paths)
    command += f" --split {args.split} --most_stolen {args.most_stolen} --taken {args.taken} --beam {args.beam}"
    print(to_text(found))
    write_calibration(args.out, found, model, f"{command} --selector {Path(args.selector).name} --out {args.out.name}")
    draw(found, args.plot or args.out.with_suffix(".png"))
    return 0


def run_compare(args) -> int:
    from dualasr.compare import compare, to_markdown, write_comparison

    comparison = compare(*args.reports, tuple(args.mode or ("agnostic", "pipeline_aware")), seed=args.seed)
    if args.out is not None:
        write_comparison(args.out, comparison)
    print(to_markdown(comparison))
    return 0


def run_transcribe(args) -> int:
    if args.local_files_only:
        os.environ["HF_HUB_OFFLINE"] = "1"

    def load():
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        return _load(args, dtype=getattr(torch, args.dtype))

    if args.ray is None:
        return transcribe_cli.transcribe_all(args, load)
    from dualasr.backbone import find_device
    from dualasr.ray_transcription import RayTranscriber

    def start(args, load):
        args.device = find_device(args.device)
        return RayTranscriber(args, load)

    return transcribe_cli.transcribe_all(args, load, start)


def run_serve(args) -> int:
    import torch

    try:
        from dualasr_serve.app import Settings
        from dualasr_serve.gate import UploadLimits
        from dualasr_serve.scheduler import Limits
        from dualasr_serve.server import run
    except ImportError as error:
        raise MissingExtraError(error.name or "gradio", "serve") from error

    try:
        limits = Limits(args.queue, args.max_audio_s, args.time_limit_s, args.batch_size)
    except ValueError as error:
        raise RunError(f"{error}.") from error
    base = _base(args, dtype=getattr(torch, args.dtype))
    settings = Settings(args.key, UploadLimits(body=round(1e6 * args.max_upload_mb)), page=not args.no_page)
    run(lambda: _with_packs(base, args), host=args.host, port=args.port, limits=limits, settings=settings)
    return 0


def run_corpus(args) -> int:
    if args.action == "check":
        from dualasr.corpus_check import check_corpus, to_text, write_html

        check = check_corpus(args.path, default_language=args.language, **_layout(args))
        print(to_text(check).encode(errors="backslashreplace").decode())
        if args.html:
            write_html(args.html, check)
        return 0
    from dualasr.corpus_split import SplitOptions, split_corpus

    options = SplitOptions(args.dev, args.test, args.by_speaker, args.seed)
    counts = split_corpus(args.path, args.out, options, default_language=args.language, **_layout(args))
    print(f"{args.out / 'manifest.jsonl'}: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    return 0


def run_export(args) -> int:
    from dualasr.export import export
    from dualasr.pack_folder import find_packs, packs_dir

    packs = find_packs([args.pack], packs_dir(args.packs_dir))
    if len(packs) > 1:
        raise PackError(f"{args.pack} holds {len(packs)} packs; name one of them: {', '.join(map(str, packs))}.")
    export(packs[0], args.to, args.base)
    print(f"{args.to}: primary, secondary, README.md")
    return 0


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return args.run(args)
    except DualasrError as error:
        print(f"dualasr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dualasr: interrupted; what was finished is kept", file=sys.stderr)
        return 130
