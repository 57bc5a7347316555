"""Fill in what the code knows best, so that the pages cannot fall behind it.

`{{ help COMMAND }}` becomes what `dualasr COMMAND --help` prints; `{{ modules PACKAGE FIRST ... }}`
becomes the API of all modules of a sub-package, those that are named first.
"""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

COLUMNS = "90"
PACKAGE = Path(__file__).parents[1] / "dualasr"


def on_page_markdown(markdown: str, **_) -> str:
    """Fill a page in. mkdocs calls this for each page that it builds."""
    filled = {"help": help_of, "modules": modules_of}
    place = re.compile(r"^\{\{ (help|modules) ([a-z_ -]+) \}\}$", re.MULTILINE)
    return place.sub(lambda match: filled[match[1]](match[2].split()), markdown)


def help_of(command: list[str]) -> str:
    """Return the help of a command as a code block."""
    from dualasr.cli.main import build_parser

    with patch.dict(os.environ, COLUMNS=COLUMNS), redirect_stdout(io.StringIO()) as out:
        with suppress(SystemExit):
            build_parser().parse_args([*command, "--help"])
    return f"```text\n{out.getvalue().rstrip()}\n```"


def modules_of(words: list[str]) -> str:
    """Return a directive of mkdocstrings for each module of a sub-package."""
    package, *first = words
    found = sorted(path.stem for path in (PACKAGE / package).glob("[!_]*.py"))
    names = [*first, *(name for name in found if name not in first)]
    return "\n\n".join(f"::: dualasr.{package}.{name}" for name in names)
