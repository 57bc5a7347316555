"""The command line: one sub-command for each job. Exit code 0, 1 for an error, 130 for Ctrl-C."""

import argparse
import os
import sys

from dualasr import __version__
from dualasr.cli import (
    add_language,
    calibrate,
    corpus,
    evaluate,
    packs,
    quickstart,
    serve,
    transcribe,
)
from dualasr.cli.log import log_to_terminal
from dualasr.errors import DualasrError

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
COMMANDS = (  # name, its flags, what it does, and what the help says
    (
        "quickstart",
        quickstart.add_flags,
        quickstart.run,
        "the main job on generated speech: add two languages, measure, transcribe",
    ),
    (
        "add-language",
        add_language.add_flags,
        add_language.run,
        "train a language pack for a frozen base",
    ),
    (
        "evaluate",
        evaluate.add_flags,
        evaluate.run,
        "WER and CER, pipeline-aware and language-agnostic, and routing",
    ),
    (
        "calibrate",
        calibrate.add_flags,
        calibrate.run,
        "fit the selector of a set of packs on dev audio",
    ),
    (
        "compare",
        evaluate.add_compare_flags,
        evaluate.run_compare,
        "how far two reports on the same clips lie apart, with paired intervals",
    ),
    (
        "transcribe",
        transcribe.add_flags,
        transcribe.run,
        "transcribe files, each by the pipeline that knows its language",
    ),
    (
        "serve",
        serve.add_flags,
        serve.run,
        "a page to try it on, and OpenAI's transcription endpoint",
    ),
    (
        "corpus",
        corpus.add_flags,
        corpus.run,
        "look into a corpus, or split it into train, dev and test",
    ),
    (
        "export",
        packs.add_export_flags,
        packs.run_export,
        "a pack merged and alone, and its base for faster-whisper and whisper.cpp",
    ),
    ("packs", packs.add_flags, packs.run, "list, look into, check, add and remove packs"),
)


# flags with hyphens; the other commands have underscores
_HYPHENATED = ("quickstart", "add-language", "corpus")


class _Parser(argparse.ArgumentParser):
    """Takes `--output-dir` for `--output_dir`, and the reverse; the help shows the one that is
    declared.
    """

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args(
            _as_declared(sys.argv[1:] if args is None else list(args)), namespace
        )


def _as_declared(arguments: list[str]) -> list[str]:
    """Write the names of flags as their command declares them; values, and what stands after `--`,
    stay as they are.
    """
    other, own = "_-" if arguments[:1] and arguments[0] in _HYPHENATED else "-_"
    end = arguments.index("--") if "--" in arguments else len(arguments)
    written = []
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        if name.startswith("--") and " " not in name:  # argparse takes what has a space for a value
            argument = f"--{name[2:].replace(other, own)}{equals}{value}"
        written.append(argument)
    return written + arguments[end:]


def build_parser() -> argparse.ArgumentParser:
    about = "Teach Whisper a new language without making it forget the ones it knows."
    parser = _Parser(prog="dualasr", description=about)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for name, add_flags, run, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_flags(command)
        command.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        with log_to_terminal():
            return args.run(args)
    except DualasrError as error:
        print(f"dualasr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dualasr: interrupted; what was finished is kept", file=sys.stderr)
        return 130
