"""The server process: serve until a signal, then finish the requests under way."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from dualasr.model.dual_whisper import DualWhisper

from .app import Settings, create_app
from .scheduler import Limits, Scheduler

_LAST_BYTES_S = 0.5  # seconds for responses that are written but not yet sent


class Server(uvicorn.Server):
    """A uvicorn server that stops as soon as the requests under way are done.

    uvicorn itself waits for all connections, but the connection of an open page never ends. A first
    SIGTERM or Ctrl-C lets requests under way finish, and then closes all connections. A second one
    closes them at once. The process then ends with exit code 0.

    Args:
        config: uvicorn's configuration.
        under_way: Function that returns the number of requests under way.
    """

    def __init__(self, config: uvicorn.Config, under_way: Callable[[], int]):
        super().__init__(config)
        self._under_way = under_way

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        asyncio.get_running_loop().create_task(self._close_when_done())

    async def _close_when_done(self) -> None:
        while self._under_way():
            await asyncio.sleep(0.05)
        await asyncio.sleep(_LAST_BYTES_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(_LAST_BYTES_S)
        self.force_exit = True  # even if something still runs


def run(
    load: Callable[[], DualWhisper],
    *,
    host: str,
    port: int,
    limits: Limits = Limits(),
    settings: Settings = Settings(),
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        load: Function that loads the model with the packs that are on disk now. It is called at
            the start, and whenever the packs are reloaded.
        host: Address to listen on.
        port: Port to listen on.
        limits: Limits of the queue and of a request.
        settings: Key, limits of uploads, and page.
    """
    with tempfile.TemporaryDirectory(prefix="dualasr-") as uploads:
        scheduler = Scheduler(load(), limits)
        try:
            app = create_app(scheduler, load, Path(uploads), settings)
            config = uvicorn.Config(
                app, host=host, port=port, log_level="info", access_log=False, server_header=False
            )
            Server(config, lambda: app.state.under_way() or len(scheduler)).run()
        finally:
            scheduler.close(drop=True)  # all clients are disconnected by now
