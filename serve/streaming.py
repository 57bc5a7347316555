"""The scheduler's transcripts for handlers of an event loop, as they grow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from dualasr.transcription.transcript import Transcription

from .request import ModelRequest
from .scheduler import Scheduler, Ticket


def grow(
    scheduler: Scheduler, path: Path, model_request: ModelRequest, look_s: float | None = None
) -> tuple[Ticket, AsyncIterator[tuple[Transcription | None, bool]]]:
    """Hand a request in. Its ticket, and an iterator that gives the transcript so far whenever it
    has grown, then (True) the whole; and None whenever nothing came for `look_s` seconds.

    Whoever ends the iterator cancels the request; it raises what became of the request,
    CancelledError of concurrent.futures among it. Raises what `Scheduler.submit` raises.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Queue()

    def tell(so_far: Transcription | None) -> None:  # in the scheduler's thread; None: it is done
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(news.put_nowait, so_far)

    async def transcripts() -> AsyncIterator[tuple[Transcription | None, bool]]:
        try:
            while True:
                try:
                    so_far = await asyncio.wait_for(news.get(), look_s)
                except TimeoutError:
                    yield None, False
                    continue
                if so_far is None:
                    break
                yield so_far, False
            yield ticket.future.result(), True
        finally:
            ticket.cancel()

    ticket = scheduler.submit(path, model_request, tell)
    ticket.future.add_done_callback(lambda _: tell(None))
    return ticket, transcripts()
