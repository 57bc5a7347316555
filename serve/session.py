"""One visitor of the page: what is heard for them now, and what they were answered last. One
request at a time.
"""

from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from dualasr.errors import DualasrError
from dualasr.transcription.transcript import Transcription

from .request import ModelRequest
from .scheduler import Scheduler, Ticket
from .streaming import grow


class Stopped(DualasrError):
    """The visitor pressed Stop."""


@dataclass
class Visit:
    """Kept by gradio for each visitor. `path`, `languages` and `result` are the sound that was
    answered last, the languages that it could be, and its transcript.
    """

    ticket: Ticket | None = None
    path: str = ""
    languages: tuple[str, ...] = ()
    result: Transcription | None = None

    def stop(self) -> None:
        """End what is under way, if anything is."""
        if self.ticket is not None:
            self.ticket.cancel()

    async def heard(
        self, scheduler: Scheduler, path: Path, asked: ModelRequest
    ) -> AsyncIterator[tuple[Transcription, bool]]:
        """The transcript so far as it grows, then (True) the whole. Who stops listening cancels the
        request.

        It takes the place of what is under way for this visitor, which ends without another word.
        Raises Stopped, and what the scheduler raises.
        """
        self.stop()
        ticket, transcripts = grow(scheduler, path, asked)
        self.ticket = ticket
        try:
            async with aclosing(transcripts):
                async for so_far, whole in transcripts:
                    if self.ticket is ticket:
                        yield so_far, whole
        except CancelledError:
            if self.ticket is ticket:
                raise Stopped("Stopped.") from None
        finally:
            if self.ticket is ticket:
                self.ticket = None  # which holds the packs of then
