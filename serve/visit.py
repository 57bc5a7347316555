"""One visitor of the page: what is heard for them now, and what they were answered last. One request at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from dualasr.errors import DualasrError
from dualasr.transcript import Transcription

from .orders import Order
from .scheduler import Scheduler, Ticket


class Stopped(DualasrError):
    """The visitor pressed Stop."""


@dataclass
class Visit:
    """Kept by gradio for each visitor. `path` and `result` are the sound that was answered last and its transcript."""

    ticket: Ticket | None = None
    path: str = ""
    result: Transcription | None = None

    def stop(self) -> None:
        """End what is under way, if anything is."""
        if self.ticket is not None:
            self.ticket.cancel()

    async def heard(self, scheduler: Scheduler, path: Path, asked: Order) -> AsyncIterator[tuple[Transcription, bool]]:
        """The transcript so far as it grows, then (True) the whole. Who stops listening cancels the request.

        It takes the place of what is under way for this visitor, which ends without another word. Raises Stopped, and what
        the scheduler raises.
        """
        loop, grown = asyncio.get_running_loop(), asyncio.Event()
        latest: list[Transcription] = []

        def tell(so_far: Transcription | None = None) -> None:  # in the scheduler's thread
            if so_far is not None:
                latest[:] = [so_far]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(grown.set)

        self.stop()
        self.ticket = ticket = scheduler.submit(path, asked, tell)
        ticket.future.add_done_callback(lambda _: tell())
        try:
            while not ticket.future.done():
                await grown.wait()
                grown.clear()
                if latest and not ticket.future.done():
                    yield latest.pop(), False
            if self.ticket is ticket:
                yield ticket.future.result(), True
        except CancelledError:
            raise Stopped("Stopped.") from None
        finally:
            ticket.cancel()
