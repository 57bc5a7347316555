"""The session of one visitor of the page: one request at a time, and the last transcript."""

from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from dualasr.errors import DualasrError
from dualasr.transcription.transcript import Transcription

from .request import ModelRequest
from .scheduler import Scheduler, Ticket
from .streaming import stream_transcript


class Stopped(DualasrError):
    """The visitor pressed Stop."""


@dataclass
class Session:
    """The state of one visitor, which gradio keeps.

    Attributes:
        ticket: The request under way; None without one.
        path: The sound that was transcribed last.
        languages: Codes of the languages that were allowed for it; () for all.
        result: Its transcript; None before the first one.
        recording: Whether a recording has begun whose sound is not here yet.
    """

    ticket: Ticket | None = None
    path: str = ""
    languages: tuple[str, ...] = ()
    result: Transcription | None = None
    recording: bool = False

    def record(self) -> None:
        """Note that the visitor began to record."""
        self.recording = True

    def receive(self) -> None:
        """Note that a sound is here, or was taken away."""
        self.recording = False

    def stop(self) -> None:
        """Cancel the request under way, if there is one."""
        if self.ticket is not None:
            self.ticket.cancel()

    async def transcribe(
        self, scheduler: Scheduler, path: Path, model_request: ModelRequest
    ) -> AsyncGenerator[tuple[Transcription, bool], None]:
        """Transcribe a sound, and yield its transcript while it grows.

        This cancels the visitor's previous request, whose own call then ends without an error.
        Closing the iterator cancels this request.

        Args:
            scheduler: The scheduler.
            path: The sound file.
            model_request: Model, route, language and options.

        Yields:
            The transcript so far with False, again and again; at the end the whole one with True.

        Raises:
            Stopped: The visitor pressed Stop.
            DualasrError: The scheduler refused the request, or the sound cannot be transcribed.
        """
        self.stop()
        ticket, transcripts = stream_transcript(scheduler, path, model_request)
        self.ticket = ticket
        try:
            async with aclosing(transcripts):
                async for so_far, whole in transcripts:
                    if so_far is not None and self.ticket is ticket:
                        yield so_far, whole
        except CancelledError:
            if self.ticket is ticket:
                raise Stopped("Stopped.") from None
        finally:
            if self.ticket is ticket:
                self.ticket = None  # it would keep replaced packs in memory
