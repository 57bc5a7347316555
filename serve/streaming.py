"""Growing transcripts of the scheduler, for handlers in an event loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from dualasr.transcription.transcript import Transcription

from .request import ModelRequest
from .scheduler import Scheduler, Ticket


def stream_transcript(
    scheduler: Scheduler, path: Path, model_request: ModelRequest, poll_s: float | None = None
) -> tuple[Ticket, AsyncGenerator[tuple[Transcription | None, bool], None]]:
    """Submit a request, and stream its transcript while it grows.

    Args:
        scheduler: The scheduler.
        path: The sound file.
        model_request: Model, route, language and options.
        poll_s: The iterator also yields (None, False) whenever nothing new came for this many
            seconds; None for never.

    Returns:
        The ticket of the request, and an iterator. The iterator yields the transcript so far with
        False whenever it has grown, and at the end the whole one with True. It raises the error of
        the request, or CancelledError of concurrent.futures. Closing it cancels the request.

    Raises:
        Busy: The queue is full.
        Stopping: The server is stopping.
    """
    loop = asyncio.get_running_loop()
    updates: asyncio.Queue[Transcription | None] = asyncio.Queue()  # None at the end

    def put(so_far: Transcription | None) -> None:  # is called in the scheduler's thread
        with suppress(RuntimeError):  # the loop is closed, so nobody waits for updates
            loop.call_soon_threadsafe(updates.put_nowait, so_far)

    async def transcripts() -> AsyncGenerator[tuple[Transcription | None, bool], None]:
        try:
            while True:
                try:
                    so_far = await asyncio.wait_for(updates.get(), poll_s)
                except TimeoutError:
                    yield None, False
                    continue
                if so_far is None:
                    break
                yield so_far, False
            yield ticket.future.result(), True
        finally:
            ticket.cancel()

    ticket = scheduler.submit(path, model_request, put)
    ticket.future.add_done_callback(lambda _: put(None))
    return ticket, transcripts()
