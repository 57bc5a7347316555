"""The server process: serve until a signal, then finish the requests under way."""

import asyncio
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from dualasr.model.dual_whisper import DualWhisper

from .app import Settings, create_app
from .folder import private_folder
from .scheduler import Limits, Scheduler

GRACE_S = 6.0  # container runtimes kill a process 10 seconds after the first signal
_LAST_BYTES_S = 0.5  # seconds for responses that are written but not yet sent


class Server(uvicorn.Server):
    """A uvicorn server that stops as soon as the requests under way are done.

    uvicorn itself waits for all connections, but the connection of an open page never ends. A first
    SIGTERM or Ctrl-C lets requests under way finish, and then closes all connections. Requests that
    are not done within the grace time are answered with an error. A second signal closes all
    connections at once. The process then ends with exit code 0.

    Args:
        config: uvicorn's configuration.
        under_way: Function that returns the number of requests under way.
        drop: Function that fails the requests under way.
        grace_s: Longest time in seconds from the first signal until `drop` is called.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        under_way: Callable[[], int],
        drop: Callable[[], None],
        grace_s: float,
    ):
        super().__init__(config)
        self._under_way, self._drop, self._grace_s = under_way, drop, grace_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        asyncio.get_running_loop().create_task(self._close_when_done())

    async def _close_when_done(self) -> None:
        end = time.monotonic() + self._grace_s
        while self._under_way() and time.monotonic() < end:
            await asyncio.sleep(0.05)
        self._drop()
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
    grace_s: float = GRACE_S,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        load: Function that loads the model with the packs that are on disk now. It is called at
            the start, and whenever the packs are reloaded.
        host: Address to listen on.
        port: Port to listen on.
        limits: Limits of the queue and of a request.
        settings: Key, limits of uploads, page and more.
        grace_s: Longest time in seconds to finish requests after a signal.
    """
    with private_folder() as folder:
        scheduler = Scheduler(load(), limits)
        try:
            app = create_app(scheduler, load, folder, settings)
            config = uvicorn.Config(
                app, host=host, port=port, log_level="info", access_log=False, server_header=False
            )
            Server(
                config,
                lambda: app.state.under_way() or len(scheduler),
                scheduler.drop,
                grace_s,
            ).run()
        finally:
            scheduler.close(drop=True)  # all clients are disconnected by now
