"""The process: serves until a signal, then finishes what is under way."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from dualasr.model.dual_whisper import DualWhisper

from .app import Settings, create_app
from .scheduler import Limits, Scheduler

_LAST_BYTES_S = 0.5  # for answers that are written but not sent


class Server(uvicorn.Server):
    """Uvicorn, but that a first SIGTERM or Ctrl-C waits for what is under way alone: a page that is
    open would never end.

    A second one cuts them off, too. After either the process goes on, to end with exit code 0.
    """

    def __init__(self, config: uvicorn.Config, under_way: Callable[[], int]):
        super().__init__(config)
        self._under_way = under_way

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        asyncio.get_running_loop().create_task(self._cut_when_done())

    async def _cut_when_done(self) -> None:
        while self._under_way():
            await asyncio.sleep(0.05)
        await asyncio.sleep(_LAST_BYTES_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(_LAST_BYTES_S)
        self.force_exit = True  # whatever is still at it


def run(
    load: Callable[[], DualWhisper],
    *,
    host: str,
    port: int,
    limits: Limits = Limits(),
    settings: Settings = Settings(),
) -> None:
    """Serve until SIGTERM or Ctrl-C the model that `load` gives, with the packs that are there
    whenever it is called.
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
            scheduler.close(drop=True)  # whom it could still answer has gone
