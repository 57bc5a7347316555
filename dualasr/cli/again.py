"""The command that makes a result again, from the arguments that made it."""

import argparse
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def command_line(args: argparse.Namespace) -> str:
    """Write the arguments of a command as a line for a shell.

    Every option with a value is in it, given or default, so that none can be forgotten. Paths below
    the working directory are written relative to it.

    Args:
        args: Parsed arguments; `args.parser` is the parser of the command.

    Returns:
        The line, quoted. In the same working directory it does the same again.
    """
    words = args.parser.prog.split()
    positional: list[str] = []
    for action in args.parser._actions:
        value = getattr(args, action.dest, None)
        if not action.option_strings:
            positional += _words(value)
        elif value is True:
            words.append(action.option_strings[0])
        elif value is not False:
            words += _flags(action.option_strings[0], _words(value))
    return shlex.join([*words, *positional])


def _words(value: Any) -> list[str]:
    """Return a value, or each of several, as it is typed; none for None."""
    if value is None:
        return []
    several = value if isinstance(value, (list, tuple)) else [value]
    return [_typed(item) for item in several]


def _typed(value: Any) -> str:
    """Return a value as it is typed, a path below the working directory relative to it."""
    text = str(value)
    if os.path.isabs(text) and Path(text).is_relative_to(Path.cwd()):
        return os.path.relpath(text)
    return text


def _flags(name: str, values: Iterable[str]) -> Iterator[str]:
    """Yield a flag with each of its values; a value that looks like a flag is joined to it."""
    for value in values:
        yield from (f"{name}={value}",) if value.startswith("-") else (name, value)
