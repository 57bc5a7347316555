"""Progress of long work: a bar on a terminal, else a line in the log every half minute."""

import io
import logging
import os
import time
from collections.abc import Iterable

from tqdm import tqdm

LINE_EVERY = 30  # seconds

log = logging.getLogger("dualasr")


def progress_bar(
    items: Iterable | None = None,
    *,
    desc: str,
    total: int,
    unit: str,
    shown: bool | None = None,
    initial: int = 0,
) -> tqdm:
    """Return a bar of tqdm, or what has its methods and writes lines to the log.

    Args:
        items: What it goes through; None where `update` counts.
        desc: What is done, in a word or two.
        total: Number of items.
        unit: What an item is called.
        shown: Whether there is a bar; None for a bar on a terminal and lines elsewhere.
        initial: Number of items that were done before.
    """
    if shown is None and not os.isatty(2):
        return _Lines(items, desc, total, unit, initial=initial, file=io.StringIO())
    return tqdm(items, desc, total, unit=unit, initial=initial, disable=shown is False)


class _Lines(tqdm):
    """A bar that writes lines to the log."""

    def __init__(self, items: Iterable | None, desc: str, total: int, unit: str, **more):
        self._called, self._all = (desc, unit), total
        self._began = self._told = time.monotonic()
        super().__init__(items, desc, total, mininterval=0, miniters=1, unit=unit, **more)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line if the last one is old enough, in place of drawing the bar."""
        now, done = time.monotonic(), self.n - self.initial
        if done <= 0 or now - self._told < LINE_EVERY:
            return
        self._told = now
        (desc, unit), left = self._called, (self._all - self.n) * (now - self._began) / done
        units = unit + ("es" if unit.endswith("ch") else "s")
        more = f"; {self.postfix}" if self.postfix else ""
        log.info(f"  {desc}: {self.n} of {self._all} {units}, {_span(left)} left{more}")


def _span(seconds: float) -> str:
    """Return a length of time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
