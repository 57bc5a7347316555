"""A queue of requests for one model, whose windows are decoded together.

A single thread uses the model. In each round it

1. takes the request that has waited longest,
2. adds windows of other requests with the same model, route, language and options, until the batch
   is full,
3. decodes the batch,
4. puts these requests at the end of the queue, so that a short clip does not wait for a long one.

Between the steps of a batch (`dualasr.model.interrupt`) it

- fails the requests whose time is over, and forgets those that were cancelled. If they hold half
  of the batch, the batch is stopped, and the windows of the others are decoded again;
- lets other requests take a turn, new ones first: the batch waits while one window of each is
  decoded. Then the batch goes on for at least as long as they took.

Other threads read sound ahead, so that an hour of silence, which is read but not decoded, delays no
other request. A request keeps the model that it was admitted with, so packs can be exchanged while
requests are under way.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dualasr.audio.load import Sound, header_duration
from dualasr.audio.windows import Window
from dualasr.errors import AudioError, DualasrError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.transcription.recording import Recording
from dualasr.transcription.transcribe import decode_batch
from dualasr.transcription.transcript import Transcription

from .request import ModelRequest

log = logging.getLogger(__name__)

READERS = 4  # threads that read sound
SLEEP_S = 60.0  # longest sleep in seconds, as a deadline may be infinite
TURN_S = 0.25  # seconds for which a batch runs at least before others take a turn


class Busy(DualasrError):
    """The queue is full, with `waiting` requests."""

    def __init__(self, waiting: int):
        super().__init__(f"{waiting} requests are waiting already; try again in a moment.")


class TooLong(DualasrError):
    """The sound is longer than the limit."""


class TookTooLong(DualasrError):
    """The request was not done within the time limit."""


class Stopping(DualasrError):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("The server is stopping; try again when it is back.")


class _Interrupted(Exception):
    """Half of the windows of a batch are not needed any more."""


@dataclass(frozen=True)
class Limits:
    """Limits of the queue and of a request.

    Attributes:
        queue: Most requests at once, waiting or under way.
        audio_s: Longest sound of a request, in seconds.
        time_s: Longest time from admission to the transcript, in seconds.
        batch: Most windows that are decoded together.

    Raises:
        ValueError: queue or batch is below 1.
    """

    queue: int = 64
    audio_s: float = 3600.0
    time_s: float = 600.0
    batch: int = 8

    def __post_init__(self):
        for name in ("queue", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(eq=False)
class Ticket:
    """A request under way.

    Attributes:
        model_request: Model, route, language and options.
        path: The sound file.
        recording: The sound, and what was decoded of it.
        windows: Iterator that reads the windows of the sound.
        deadline: Time at which the request fails, on the clock of `time.monotonic`.
        progress: Function that is called with the transcript so far whenever it has grown.
        future: The Transcription, or the error.
        ready: Windows that were read and not yet decoded; after the last one None, or the error
            that ended the reading.
        reading: Whether a thread is reading a window.
        decoding: Whether windows of it are being decoded.
    """

    model_request: ModelRequest
    path: Path
    recording: Recording
    windows: Generator[Window, None, None]
    deadline: float
    progress: Callable[[Transcription], None]
    future: Future = field(default_factory=Future)
    ready: deque[Window | Exception | None] = field(default_factory=deque)
    reading: bool = False
    decoding: bool = False

    @property
    def has_window(self) -> bool:
        """Whether its next window can be decoded."""
        return bool(self.ready) and isinstance(self.ready[0], Window) and not self.decoding

    def cancel(self) -> None:
        """Cancel the request, because nobody waits for it any more."""
        self.future.cancel()

    def finish(self, result: Transcription | Exception) -> None:
        """Set the result of the request, unless it was cancelled."""
        try:
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # it was cancelled meanwhile
            pass


@dataclass(frozen=True)
class Totals:
    """The work since the start.

    Attributes:
        windows: Number of decoded windows, and of their gaps and parts (`transcription.gaps`).
        batches: Number of decoded batches.
        audio_s: Seconds of decoded sound.
        routes: Number of windows by route.
    """

    windows: int = 0
    batches: int = 0
    audio_s: float = 0.0
    routes: Counter[str] = field(default_factory=Counter)


class Scheduler:
    """The queue, and the thread that uses the model.

    Set `model` to exchange packs: new requests get it, and requests under way keep the old one.

    Args:
        model: A base with packs.
        limits: Limits of the queue and of a request.
    """

    def __init__(self, model: DualWhisper, limits: Limits = Limits()):
        self.model, self.limits = model, limits
        self.totals = Totals()
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of requests that are waiting or under way."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a new request would be refused."""
        return len(self._waiting) >= self.limits.queue

    def submit(
        self,
        path: Path,
        model_request: ModelRequest,
        progress: Callable[[Transcription], None] = lambda so_far: None,
    ) -> Ticket:
        """Admit a request.

        Args:
            path: The sound file.
            model_request: Model, route, language and options.
            progress: Function that is called in the scheduler's thread with the transcript so
                far, whenever it has grown.

        Returns:
            The ticket of the request.

        Raises:
            Busy: The queue is full.
            Stopping: The scheduler was closed.
        """
        end = self.limits.audio_s + 1.0  # one second over the limit is enough to detect too much
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
                raise Stopping
            if self.full:
                raise Busy(len(self._waiting))
            self._waiting.append(ticket)
            self._read_on(ticket)
            self._changed.notify_all()  # the thread must wake up for its deadline
        return ticket

    def drop(self) -> None:
        """Refuse new requests, and fail the admitted ones with `Stopping`."""
        with self._changed:
            self._closing, admitted = True, list(self._waiting)
            self._changed.notify_all()
        for ticket in admitted:
            ticket.finish(Stopping())

    def close(self, *, drop: bool = False) -> None:
        """Refuse new requests, finish the admitted ones, and end the thread.

        Args:
            drop: Whether to fail the admitted requests instead.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if drop:
            self.drop()
        self._thread.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _read_on(self, ticket: Ticket) -> None:
        """Start to read the next window of a request, if it has too few windows ready.

        A request reads ahead its share of a batch, but at least one window. The lock must be held.
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
            found = error.with_traceback(None)  # the traceback would keep windows in memory
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
            self._settle()
            with self._changed:
                batch = self._take_batch()
                if not (batch or any(map(self._is_over, self._waiting))):
                    if self._closing and not self._waiting:
                        return
                    left = min(
                        (ticket.deadline - time.monotonic() for ticket in self._waiting),
                        default=SLEEP_S,
                    )
                    self._changed.wait(max(0.0, min(left, SLEEP_S)))
            if batch:
                self._decode(batch)

    def _settle(self) -> None:
        """Set the results of the requests that are over, and remove these from the queue."""
        with self._changed:
            over = [ticket for ticket in self._waiting if self._is_over(ticket)]
            if over:
                self._remove(over)
        for ticket in over:
            try:
                ticket.finish(self._outcome(ticket))
            except Exception as error:
                log.exception("making a transcript failed")
                ticket.finish(error.with_traceback(None))
            self._close_sound(ticket)

    def _is_over(self, ticket: Ticket) -> bool:
        """Whether a request is cancelled, late, complete, or failed."""
        if ticket.future.done() or time.monotonic() >= ticket.deadline:
            return True
        return bool(ticket.ready) and (
            (ticket.ready[0] is None and not ticket.decoding)
            or isinstance(ticket.ready[-1], Exception)
        )

    def _outcome(self, ticket: Ticket) -> Transcription | Exception:
        """Return the transcript or the error of a request that is over."""
        last = ticket.ready[-1] if ticket.ready else None
        if isinstance(last, Exception):
            return last
        if ticket.ready and ticket.ready[0] is None and not ticket.decoding:
            return ticket.recording.result()
        allowed = f"{self.limits.time_s:g} s"
        return TookTooLong(
            f"The request was not done within {allowed}; send shorter audio, or try again later."
        )

    def _remove(self, tickets: Sequence[Ticket]) -> None:
        """Remove requests from the queue. The lock must be held.

        This happens before their results are set, because a client may then send the next one.
        """
        self._waiting = deque(ticket for ticket in self._waiting if ticket not in tickets)

    def _close_sound(self, ticket: Ticket) -> None:
        with self._changed:
            if not ticket.reading:  # otherwise the thread that reads closes it
                ticket.windows.close()

    def _take_batch(self, *, one_each: bool = False) -> list[tuple[Ticket, Window]]:
        """Take the windows of the next batch, and put their requests at the end of the queue.

        The requests that can share a batch give one window each, in turns. The lock must be held.

        Args:
            one_each: Whether new requests come first, and each gives one window only.
        """
        ready = [ticket for ticket in self._waiting if ticket.has_window]
        if not ready:
            return []
        if one_each:
            ready.sort(key=lambda ticket: bool(ticket.recording.pieces))
        model_request = ready[0].model_request
        batch: list[tuple[Ticket, Window]] = []
        turns = deque(ticket for ticket in ready if ticket.model_request.same_batch(model_request))
        limit = 1 if model_request.request.options.condition_on_previous_text else self.limits.batch
        while turns and len(batch) < limit:
            ticket = turns.popleft()
            window = ticket.ready.popleft()
            assert isinstance(window, Window), "requests at their end have left the queue"
            batch.append((ticket, window))
            if ticket.has_window and not one_each:
                turns.append(ticket)
        tickets = list(dict.fromkeys(ticket for ticket, _ in batch))
        self._remove(tickets)
        self._waiting.extend(tickets)
        for ticket in tickets:
            ticket.decoding = True
            self._read_on(ticket)
        return batch

    def _decode(self, batch: Sequence[tuple[Ticket, Window]], *, in_turn: bool = False) -> None:
        """Decode windows together, and report progress to their requests.

        An error fails these requests, but must not end the thread.

        Args:
            batch: The windows, from `_take_batch`.
            in_turn: Whether another batch waits meanwhile; nobody else gets a turn then.
        """
        tickets = list(dict.fromkeys(ticket for ticket, _ in batch))
        request = tickets[0].model_request
        try:
            while batch:
                on_step = _Turns(self, batch, may_wait=not in_turn)
                windows = [(ticket.recording, window) for ticket, window in batch]
                pieces = {ticket: len(ticket.recording.pieces) for ticket, _ in batch}
                try:
                    decode_batch(request.model, windows, request.request, on_step)
                    self._count(batch, pieces)
                    break
                except _Interrupted:
                    batch = [pair for pair in batch if _is_needed(*pair)]
        except Exception as error:
            log.exception("decoding a batch of %d windows failed", len(batch))
            self._fail(tickets, error)
        finally:
            with self._changed:
                for ticket in tickets:
                    ticket.decoding = False
        for ticket in tickets:
            try:
                if not ticket.future.done():
                    ticket.progress(ticket.recording.partial())
            except Exception as error:
                log.exception("reporting the progress of a request failed")
                self._fail([ticket], error)

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        """Fail requests with an error."""
        with self._changed:
            self._remove(tickets)
        for ticket in tickets:
            ticket.finish(error.with_traceback(None))
            self._close_sound(ticket)

    def _count(self, batch: Sequence[tuple[Ticket, Window]], pieces: Mapping[Ticket, int]) -> None:
        """Add a batch to the totals.

        Args:
            batch: The windows that were decoded.
            pieces: How many pieces the recording of each request had before.
        """
        before = self.totals
        routes = Counter(
            piece.result.route
            for ticket, count in pieces.items()
            for piece in ticket.recording.pieces[count:]
        )
        seconds = sum(window.end - window.start for _, window in batch)
        self.totals = Totals(
            before.windows + routes.total(),
            before.batches + 1,
            before.audio_s + seconds,
            before.routes + routes,
        )


def _is_needed(ticket: Ticket, window: Window) -> bool:
    """Return whether a window of a batch that was interrupted must be decoded again."""
    pieces = ticket.recording.pieces
    return not ticket.future.done() and not (pieces and pieces[-1].start >= window.start)


class _Turns:
    """What the scheduler's thread does between the steps of a batch.

    Args:
        scheduler: The scheduler.
        batch: The windows that are being decoded, with their requests.
        may_wait: Whether the batch waits while others take a turn.
    """

    def __init__(
        self, scheduler: Scheduler, batch: Sequence[tuple[Ticket, Window]], *, may_wait: bool
    ):
        self.scheduler, self.batch, self.may_wait = scheduler, batch, may_wait
        self.next_turn = time.monotonic() + TURN_S

    def __call__(self) -> None:
        """Settle what is over, stop the batch if it is not needed, and give turns to others.

        Raises:
            _Interrupted: Half of the windows are not needed any more.
        """
        self.scheduler._settle()
        if self.may_wait and time.monotonic() >= self.next_turn:
            self._give_turn()
        gone = sum(ticket.future.done() for ticket, _ in self.batch)
        if 2 * gone >= len(self.batch):
            raise _Interrupted

    def _give_turn(self) -> None:
        with self.scheduler._changed:
            others = self.scheduler._take_batch(one_each=True)
        began = time.monotonic()
        if others:
            self.scheduler._decode(others, in_turn=True)
            self.scheduler._settle()
        now = time.monotonic()
        self.next_turn = now + max(TURN_S, now - began)
