"""The command line: one command for each job.

Exit codes: 0 for success, 1 for an error, 2 for wrong flags, 130 for Ctrl-C.
"""

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

QUIET = {  # environment variables that keep libraries from writing to the terminal
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
COMMANDS = (  # name, function that adds its flags, function that runs it, help
    (
        "quickstart",
        quickstart.add_flags,
        quickstart.run,
        "try everything on generated speech: add two languages, measure, transcribe",
    ),
    (
        "add-language",
        add_language.add_flags,
        add_language.run,
        "train a language pack for a base, which stays unchanged",
    ),
    (
        "evaluate",
        evaluate.add_flags,
        evaluate.run,
        "measure WER, CER and routing on a corpus, with and without knowing the language",
    ),
    (
        "calibrate",
        calibrate.add_flags,
        calibrate.run,
        "fit the selector, which chooses between base and packs, on dev audio",
    ),
    (
        "compare",
        evaluate.add_compare_flags,
        evaluate.run_compare,
        "compare two reports on the same clips, with confidence intervals",
    ),
    (
        "transcribe",
        transcribe.add_flags,
        transcribe.run,
        "transcribe sound files, each by the base or pack that knows its language",
    ),
    (
        "serve",
        serve.add_flags,
        serve.run,
        "serve a web page for transcription, and an API like OpenAI's",
    ),
    (
        "corpus",
        corpus.add_flags,
        corpus.run,
        "check a corpus, or split it into train, dev and test",
    ),
    (
        "export",
        packs.add_export_flags,
        packs.run_export,
        "export a pack that works alone, and its base for faster-whisper and whisper.cpp",
    ),
    ("packs", packs.add_flags, packs.run, "list, show, verify, add and remove packs"),
)


# commands whose flags are declared with hyphens; those of the others have underscores
_HYPHENATED = ("quickstart", "add-language", "corpus")


class _Parser(argparse.ArgumentParser):
    """A parser that accepts `--output-dir` for `--output_dir`, and the reverse; its help shows only
    the declared one.
    """

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args(
            _as_declared(sys.argv[1:] if args is None else list(args)), namespace
        )


def _as_declared(arguments: list[str]) -> list[str]:
    """Spell flags as their command declares them. Values, and all after `--`, stay as they are."""
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
    """Build the parser of all commands."""
    about = (
        "Add new languages to Whisper without making it forget the ones it knows. A language pack"
        " holds a new language; the base, a Whisper, stays as it is."
    )
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
    """Run the command line with arguments, by default those of the process; return the exit code.

    An error that dualasr raises on purpose is printed as one line.
    """
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
        print("dualasr: interrupted; finished work is kept", file=sys.stderr)
        return 130
