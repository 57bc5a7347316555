"""One model, many requests: a bounded queue whose windows are decoded together.

A single thread owns the model. Each round it takes the request that has waited longest, adds windows of the other requests
that ask for the same (model, route, language, options), and decodes them as one batch; requests take turns window by window,
so that a short clip does not wait for a long one to end. A request keeps the model it was admitted with: packs can be
exchanged while others are under way.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path

from dualasr.audio import Sound
from dualasr.errors import AudioError, DualasrError
from dualasr.model import DualWhisper
from dualasr.recording import Recording
from dualasr.transcript import Transcription
from dualasr.transcription import answer
from dualasr.windows import Window

from .orders import Order

log = logging.getLogger(__name__)


class Busy(DualasrError):
    """The queue is full."""


class TooLong(DualasrError):
    """Audio beyond the limit."""


class TookTooLong(DualasrError):
    """A request that was not done within its time."""


class Stopping(DualasrError):
    """A request that came while the server stops."""


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many there may be.

    queue: requests admitted at once, waiting or under way. audio_s: seconds of sound a request. time_s: seconds from
    admission to the answer. batch: windows decoded together.
    """

    queue: int = 64
    audio_s: float = 3600.0
    time_s: float = 600.0
    batch: int = 8


@dataclass
class Ticket:
    """A request under way. `future` gives its Transcription or raises; `cancel` it when nobody waits any more."""

    order: Order
    recording: Recording
    windows: Iterator[Window]
    deadline: float
    progress: Callable[[Transcription], None]
    future: Future = field(default_factory=Future)

    def cancel(self) -> None:
        self.future.cancel()

    def finish(self, result: Transcription | BaseException) -> None:
        try:
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # cancelled meanwhile
            pass


@dataclass(frozen=True)
class Tally:
    """What was done since the start: windows and batches decoded, seconds of sound, and windows by route."""

    windows: int = 0
    batches: int = 0
    audio_s: float = 0.0
    routes: Counter = field(default_factory=Counter)


class Scheduler:
    """The thread that owns the model. `model` is what requests are admitted with from now on; setting it exchanges packs."""

    def __init__(self, model: DualWhisper, limits: Limits = Limits()):
        self.model, self.limits = model, limits
        self.tally = Tally()
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests admitted and not answered."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.limits.queue

    def submit(self, path: Path, order: Order, progress: Callable[[Transcription], None] = lambda so_far: None) -> Ticket:
        """Admit a request for a sound file. `progress` is told, in the scheduler's thread, the transcript so far as it grows.

        Raises Busy where the queue is full, and Stopping after `close`.
        """
        sound = Sound(path, end=self.limits.audio_s + 1.0)  # a little more than is allowed tells that it is too long
        recording = Recording(sound, order.options, order.model.backbone.spans)
        ticket = Ticket(order, recording, recording.windows(order.model.backbone.window_s),
                        time.monotonic() + self.limits.time_s, progress)  # fmt: skip
        with self._changed:
            if self._closing:
                raise Stopping("The server is stopping; ask again when it is back.")
            if self.full:
                raise Busy(f"{len(self._waiting)} requests are waiting already; ask again in a moment.")
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def close(self) -> None:
        """Admit no more, answer what is admitted, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                tickets = list(self._waiting)
            head = tickets[0]
            served = [ticket for ticket in tickets if ticket.order.together(head.order)]
            done = self._round(served)
            with self._changed:
                ended = {id(ticket) for ticket in done}
                turn = {id(ticket) for ticket in served}
                others = [t for t in self._waiting if id(t) not in turn]
                again = [t for t in self._waiting if id(t) in turn and id(t) not in ended]
                self._waiting = deque((*others, *again))
                self._changed.notify_all()

    def _round(self, tickets: list[Ticket]) -> list[Ticket]:
        """Decode one batch of windows of requests that go together; those that ended, answered."""
        order = tickets[0].order
        batch: list[tuple[Ticket, Window]] = []
        ended: dict[int, tuple[Ticket, Transcription | BaseException]] = {}
        open_, limit = deque(tickets), 1 if order.options.condition_on_previous_text else self.limits.batch
        while open_ and len(batch) < limit:
            ticket = open_.popleft()
            window = self._next(ticket)
            if isinstance(window, Window):
                batch.append((ticket, window))
                open_.append(ticket)
            else:
                ended[id(ticket)] = ticket, window
        if batch:
            try:
                answer(order.model, [(t.recording, window) for t, window in batch], order.route, order.language, order.options)
            except Exception as error:  # one request's trouble must not end the thread that serves all
                log.exception("a batch of %d windows failed", len(batch))
                ended |= {id(t): (t, error) for t, _ in batch}
            else:
                self._count(batch)
                for ticket in {id(t): t for t, _ in batch if id(t) not in ended}.values():
                    if not ticket.future.cancelled():
                        ticket.progress(ticket.recording.settled())
        for ticket, end in ended.values():
            ticket.windows.close()
            ticket.finish(ticket.recording.result() if end is None else end)
        return [ticket for ticket, _ in ended.values()]

    def _next(self, ticket: Ticket) -> Window | BaseException | None:
        """A request's next window; None where there is no more, or why it ends here."""
        if ticket.future.cancelled():
            return TookTooLong("Nobody waits for it.")
        if time.monotonic() > ticket.deadline:
            allowed = f"{self.limits.time_s:g} s"
            return TookTooLong(f"The request was not done within {allowed}; send shorter audio, or ask again later.")
        try:
            window = next(ticket.windows, None)
        except AudioError as error:
            return error
        except Exception as error:
            log.exception("reading a sound failed")
            return error
        if ticket.recording.seconds > self.limits.audio_s:
            return TooLong(f"The audio is longer than {self.limits.audio_s:g} s, the limit here; send it in parts.")
        return window

    def _count(self, batch: list[tuple[Ticket, Window]]) -> None:
        before, routes = self.tally, Counter()
        for ticket, count in Counter(id(ticket) for ticket, _ in batch).items():
            recording = next(t.recording for t, _ in batch if id(t) == ticket)
            routes.update(piece.result.route for piece in recording.pieces[-count:])
        seconds = sum(window.end - window.start for _, window in batch)
        self.tally = Tally(before.windows + len(batch), before.batches + 1, before.audio_s + seconds, before.routes + routes)
