"""The library's log on the terminal: progress on standard output, warnings on standard error."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dualasr.errors import visible

LOGGER = logging.getLogger("dualasr")


class _Terminal(logging.Handler):
    """A handler that looks up `sys.stdout` and `sys.stderr` for each message."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        try:
            if record.levelno >= logging.WARNING:
                print(f"dualasr: {record.levelname.lower()}: {visible(message)}", file=sys.stderr)
            else:
                print(message, flush=True)
        except (OSError, ValueError):  # no reader, or a closed stream: this must not end the work
            pass


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Show the library's log while a command runs. With torchrun, only the first process shows its
    progress; the others show warnings.
    """
    handler, level = _Terminal(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
