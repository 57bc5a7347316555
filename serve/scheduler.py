"""One model, many requests: a bounded queue whose windows are decoded together.

A single thread owns the model. Each round it takes the request that has waited longest, adds
windows of the other requests that ask for the same (model, route, language, options), and decodes
them as one batch; who had a window goes to the end of the queue, so that a short clip does not wait
for a long one to end. Sound is read ahead by threads of its own, so that an hour of silence, of
which there is nothing to decode, keeps nobody waiting. A request keeps the model it was admitted
with: packs can be exchanged while others are under way.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dualasr.audio.load import Sound, header_duration
from dualasr.audio.windows import Window
from dualasr.errors import AudioError, DualasrError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.recording import Recording
from dualasr.transcription.transcribe import answer
from dualasr.transcription.transcript import Transcription

from .request import ModelRequest

log = logging.getLogger(__name__)

READERS = 4  # threads
LOOK_S = 60.0  # the longest sleep; a deadline may be infinitely far


class Busy(DualasrError):
    """The queue is full: so many requests wait."""

    def __init__(self, waiting: int):
        super().__init__(f"{waiting} requests are waiting already; ask again in a moment.")


class TooLong(DualasrError):
    """Audio beyond the limit."""


class TookTooLong(DualasrError):
    """A request that was not done within its time."""


class Stopping(DualasrError):
    """A request that came while the server stops."""


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many there may be.

    queue: requests admitted at once, waiting or under way. audio_s: seconds of sound a request.
    time_s: seconds from admission to the answer. batch: windows decoded together.
    """

    queue: int = 64
    audio_s: float = 3600.0
    time_s: float = 600.0
    batch: int = 8

    def __post_init__(self):
        for name in ("queue", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 at least")


@dataclass(eq=False)
class Ticket:
    """A request under way. `future` gives its Transcription or raises; `cancel` it when nobody
    waits any more.

    ready: windows that were read and not decoded; after the last one None, or why the sound ends
        before its end.
    """

    model_request: ModelRequest
    path: Path
    recording: Recording
    windows: Iterator[Window]
    deadline: float
    progress: Callable[[Transcription], None]
    future: Future = field(default_factory=Future)
    ready: deque[Window | Exception | None] = field(default_factory=deque)
    reading: bool = False

    def cancel(self) -> None:
        self.future.cancel()

    def finish(self, result: Transcription | Exception) -> None:
        try:
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # cancelled meanwhile
            pass


@dataclass(frozen=True)
class Tally:
    """What was done since the start: windows and batches decoded, seconds of sound, and windows by
    route.
    """

    windows: int = 0
    batches: int = 0
    audio_s: float = 0.0
    routes: Counter = field(default_factory=Counter)


class Scheduler:
    """The thread that owns the model. `model` is what requests are admitted with from now on;
    setting it exchanges packs.
    """

    def __init__(self, model: DualWhisper, limits: Limits = Limits()):
        self.model, self.limits = model, limits
        self.tally = Tally()
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests admitted and not answered."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.limits.queue

    def submit(
        self,
        path: Path,
        model_request: ModelRequest,
        progress: Callable[[Transcription], None] = lambda so_far: None,
    ) -> Ticket:
        """Admit a request for a sound file. `progress` is told, in the scheduler's thread, the
        transcript so far as it grows.

        Raises Busy where the queue is full, and Stopping after `close`.
        """
        end = self.limits.audio_s + 1.0  # a little more than is allowed tells that it is too long
        sound = Sound(path, end=end if math.isfinite(end) else None)
        recording = Recording(
            sound, model_request.request.options, model_request.model.backbone.spans
        )
        windows = recording.windows(model_request.model.backbone.window_s)
        ticket = Ticket(
            model_request, path, recording, windows, time.monotonic() + self.limits.time_s, progress
        )
        ticket.future.add_done_callback(lambda future: self._wake())
        with self._changed:
            if self._closing:
                raise Stopping("The server is stopping; ask again when it is back.")
            if self.full:
                raise Busy(len(self._waiting))
            self._waiting.append(ticket)
            self._read_on(ticket)
        return ticket

    def close(self, *, drop: bool = False) -> None:
        """Admit no more, answer what is admitted, or `drop` it, and end the thread."""
        with self._changed:
            self._closing, admitted = True, list(self._waiting)
            self._changed.notify_all()
        for ticket in admitted if drop else ():
            ticket.cancel()
        self._thread.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read_on(self, ticket: Ticket) -> None:
        """Have a request read ahead: what a batch can take of it, or a window where many wait. With
        the lock held.
        """
        ahead = max(1, self.limits.batch // len(self._waiting)) if self._waiting else 1
        at_end = bool(ticket.ready) and not isinstance(ticket.ready[-1], Window)
        if not (ticket.reading or at_end or ticket.future.done()) and len(ticket.ready) < ahead:
            ticket.reading = True
            self._readers.submit(self._read, ticket)

    def _read(self, ticket: Ticket) -> None:
        """Read a request's next window, in a reader's thread."""
        found: Window | Exception | None = None
        try:
            if not ticket.recording.samples and header_duration(ticket.path) > self.limits.audio_s:
                found = self._too_long()
            elif not ticket.future.done():
                found = next(ticket.windows, None)
                if ticket.recording.seconds > self.limits.audio_s:
                    found = self._too_long()
        except Exception as error:
            if not isinstance(error, AudioError):
                log.exception("reading a sound failed")
            found = error.with_traceback(None)  # which would hold the windows
        with self._changed:
            ticket.reading = False
            ticket.ready.append(found)
            if isinstance(found, Window) and not ticket.future.done():
                self._read_on(ticket)
            else:
                ticket.windows.close()
            self._changed.notify_all()

    def _too_long(self) -> TooLong:
        return TooLong(
            f"The audio is longer than {self.limits.audio_s:g} s, the limit here; send it in parts."
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                over = [ticket for ticket in self._waiting if self._is_over(ticket)]
                self._leave(over)
                batch = self._take_batch()
                if not (over or batch):
                    if self._closing and not self._waiting:
                        return
                    left = min(
                        (ticket.deadline - time.monotonic() for ticket in self._waiting),
                        default=LOOK_S,
                    )
                    self._changed.wait(max(0.0, min(left, LOOK_S)))
            self._finish(over)
            if batch:
                self._decode(batch)

    def _finish(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            try:
                ticket.finish(self._outcome(ticket))
            except Exception as error:
                log.exception("a transcript could not be put together")
                ticket.finish(error.with_traceback(None))
            self._close_sound(ticket)

    def _is_over(self, ticket: Ticket) -> bool:
        if ticket.future.done() or time.monotonic() >= ticket.deadline:
            return True
        return bool(ticket.ready) and (
            ticket.ready[0] is None or isinstance(ticket.ready[-1], Exception)
        )

    def _outcome(self, ticket: Ticket) -> Transcription | Exception:
        """What came of a request that is over."""
        if ticket.ready and isinstance(ticket.ready[-1], Exception):
            return ticket.ready[-1]
        if ticket.ready and ticket.ready[0] is None:
            return ticket.recording.result()
        allowed = f"{self.limits.time_s:g} s"
        return TookTooLong(
            f"The request was not done within {allowed}; send shorter audio, or ask again later."
        )

    def _leave(self, tickets: Sequence[Ticket]) -> None:
        """Out of the queue. With the lock held, and before they are answered: who hears of it may
        ask again at once.
        """
        self._waiting = deque(ticket for ticket in self._waiting if ticket not in tickets)

    def _close_sound(self, ticket: Ticket) -> None:
        with self._changed:
            if not ticket.reading:  # else its reader does
                ticket.windows.close()

    def _take_batch(self) -> list[tuple[Ticket, Window]]:
        """Windows that are decoded next, of requests that go together, which line up again. With
        the lock held.
        """
        ready = [ticket for ticket in self._waiting if ticket.ready]
        if not ready:
            return []
        model_request, batch = ready[0].model_request, []
        turn = deque(ticket for ticket in ready if ticket.model_request.same_batch(model_request))
        limit = 1 if model_request.request.options.condition_on_previous_text else self.limits.batch
        while turn and len(batch) < limit:
            ticket = turn.popleft()
            batch.append((ticket, ticket.ready.popleft()))
            if ticket.ready and isinstance(ticket.ready[0], Window):
                turn.append(ticket)
        served = list(dict.fromkeys(ticket for ticket, _ in batch))
        self._leave(served)
        self._waiting.extend(served)
        for ticket in served:
            self._read_on(ticket)
        return batch

    def _decode(self, batch: Sequence[tuple[Ticket, Window]]) -> None:
        """Decode windows together and tell their requests; trouble is theirs, and must not end the
        thread that serves all.
        """
        served = list(dict.fromkeys(ticket for ticket, _ in batch))
        model_request = served[0].model_request
        try:
            answer(
                model_request.model,
                [(t.recording, window) for t, window in batch],
                model_request.request,
            )
            self._count(batch)
        except Exception as error:
            log.exception("a batch of %d windows failed", len(batch))
            self._fail(served, error)
            return
        for ticket in served:
            try:
                if not ticket.future.done():
                    ticket.progress(ticket.recording.partial())
            except Exception as error:
                log.exception("nobody could be told how far a request is")
                self._fail([ticket], error)

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        with self._changed:
            self._leave(tickets)
        for ticket in tickets:
            ticket.finish(error.with_traceback(None))
            self._close_sound(ticket)

    def _count(self, batch: Sequence[tuple[Ticket, Window]]) -> None:
        before, routes = self.tally, Counter()
        for ticket, count in Counter(ticket for ticket, _ in batch).items():
            routes.update(piece.result.route for piece in ticket.recording.pieces[-count:])
        seconds = sum(window.end - window.start for _, window in batch)
        self.tally = Tally(
            before.windows + len(batch),
            before.batches + 1,
            before.audio_s + seconds,
            before.routes + routes,
        )
