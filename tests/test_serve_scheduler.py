"""Many requests for one model: none gets the transcript of another, waits for more than a turn, or
makes the others fail.
"""

import shutil
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import soundfile
from serving import QUICK, gist, held, small_model, until, write_sound
from sounds import encode

from dualasr.errors import AudioError
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.interrupt import uninterrupted
from dualasr.transcription.transcribe import transcribe

pytest.importorskip("fastapi")

from dualasr_serve.request import ModelRequest, request_for
from dualasr_serve.scheduler import (
    READERS,
    Busy,
    Limits,
    Scheduler,
    Stopping,
    TookTooLong,
    TooLong,
    Totals,
)

from dualasr.transcription.request import TranscribeRequest

WAIT = 120


@pytest.fixture(scope="module")
def model(tiny_folder, make_secondary):
    return small_model(tiny_folder, make_secondary)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """By name: short ones, and two that are longer than a window."""
    folder = tmp_path_factory.mktemp("sounds")
    lengths = {"a": 0.7, "b": 1.9, "c": 3.3, "d": 6.1, "long": 21.0, "longer": 40.0}
    return {
        name: write_sound(folder / f"{name}.wav", seconds, seed)
        for seed, (name, seconds) in enumerate(lengths.items())
    }


@pytest.fixture
def start():
    """Start schedulers, which end with the test."""
    started = []

    def start(model, **limits):
        started.append(Scheduler(model, Limits(**limits)))
        return started[-1]

    yield start
    for scheduler in started:
        scheduler.close(drop=True)


@pytest.fixture
def no_turns(monkeypatch):
    """A batch is never made to wait, however long a test holds the model up."""
    monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 1e6)


def test_answers_are_those_of_transcribe_for_sounds_and_wishes_of_every_kind_at_once(
    model, sounds, start
):
    quick = {
        route: ModelRequest(model, TranscribeRequest(route, None, QUICK))
        for route in (None, "primary", "north", "south")
    }
    model_requests = [
        *quick.values(),
        ModelRequest(model, TranscribeRequest(None, "en", QUICK)),
        ModelRequest(model, TranscribeRequest(None, "ga", replace(QUICK, words=True))),
        ModelRequest(model.among(["ky", "en"]), TranscribeRequest(None, None, QUICK)),
    ]
    names = list(sounds)
    requests = [
        (sounds[names[i % len(names)]], model_requests[i % len(model_requests)]) for i in range(11)
    ]
    requests.append(
        (
            sounds["b"],
            request_for(
                model, route="primary", language="en", prompt="Good morning.", temperature=0.8
            ),
        )
    )
    wanted = [
        gist(transcribe(model_request.model, path, **vars(model_request.request)))
        for path, model_request in requests
    ]
    assert len({text for text, *_ in wanted}) > 7, (
        "too many of the sounds sound alike to tell a swapped answer"
    )
    scheduler, slow = start(model, batch=4), held(model)
    first = scheduler.submit(
        sounds["a"], ModelRequest(slow, TranscribeRequest("north", None, QUICK))
    )
    assert slow.reached.wait(WAIT)
    with ThreadPoolExecutor(8) as clients:
        tickets = list(clients.map(lambda pair: scheduler.submit(*pair), requests))
        until = time.monotonic() + WAIT
        while not all(ticket.ready for ticket in tickets) and time.monotonic() < until:
            time.sleep(0.01)  # the first one has the model until all of them wait for it
        slow.free.set()
        assert list(clients.map(lambda ticket: gist(ticket.future.result(WAIT)), tickets)) == wanted
    assert first.future.result(WAIT).text
    windows = 1 + sum(sum(windows.values()) for *_, windows, _ in wanted)
    assert len(scheduler) == 0 and scheduler.totals.windows == windows > scheduler.totals.batches


@pytest.mark.parametrize("batch", [1, 2])
def test_a_short_sound_does_not_wait_for_long_ones_that_came_before_it(model, sounds, start, batch):
    slow = held(model)
    scheduler, model_request = (
        start(slow, batch=batch),
        ModelRequest(slow, TranscribeRequest("primary", "en", QUICK)),
    )
    for name in ("longer", "long", "longer", "a"):
        decoded = []  # windows of all when the first one of this sound is decoded
        ticket = scheduler.submit(
            sounds[name],
            model_request,
            lambda so_far, decoded=decoded: decoded.append(scheduler.totals.windows),
        )
        assert slow.reached.wait(WAIT)  # the first one has the model, the others wait for it
    until(lambda: ticket.ready)
    slow.free.set()
    ticket.future.result(WAIT)
    assert decoded[0] <= 3 + 2 * batch, "it had to wait for more than a turn of each"


def test_a_full_queue_refuses_and_has_room_again_once_somebody_has_the_answer(model, sounds, start):
    slow = held(model)
    scheduler, model_request = (
        start(slow, queue=2),
        ModelRequest(slow, TranscribeRequest("north", None, QUICK)),
    )
    first, _ = (scheduler.submit(sounds["a"], model_request) for _ in range(2))
    assert scheduler.full
    with pytest.raises(Busy, match="2 requests are waiting already"):
        scheduler.submit(sounds["b"], model_request)
    slow.free.set()
    first.future.result(WAIT)
    scheduler.submit(sounds["b"], model_request).future.result(WAIT)


def test_whoever_cancels_is_not_decoded_and_makes_room(model, sounds, start):
    slow = held(model)
    scheduler, model_request = (
        start(slow, batch=1),
        ModelRequest(slow, TranscribeRequest("north", None, QUICK)),
    )
    first, other, last = (
        scheduler.submit(sounds[name], model_request) for name in ("a", "longer", "b")
    )
    assert slow.reached.wait(WAIT)
    other.cancel()
    slow.free.set()
    assert first.future.result(WAIT).text and last.future.result(WAIT).text
    assert scheduler.totals.windows == 2 and len(scheduler) == 0 and other.windows.gi_frame is None
    with pytest.raises(CancelledError):
        other.future.result(WAIT)


def test_what_is_not_done_in_time_is_given_up_and_what_comes_after_it_is_served(
    model, sounds, start
):
    slow = held(model)
    scheduler, model_request = (
        start(slow, batch=1, time_s=0.3),
        ModelRequest(slow, TranscribeRequest("north", None, QUICK)),
    )
    tickets = [scheduler.submit(sounds["longer"], model_request) for _ in range(2)]
    assert slow.reached.wait(WAIT)
    time.sleep(max(0.0, tickets[-1].deadline - time.monotonic()))
    slow.free.set()
    for ticket in tickets:
        with pytest.raises(TookTooLong, match="not done within 0.3 s"):
            ticket.future.result(WAIT)
    scheduler.limits = Limits(batch=1)
    assert scheduler.submit(sounds["a"], model_request).future.result(WAIT).text


@dataclass(frozen=True)
class SteppingModel(DualWhisper):
    """A model that takes steps in its encoder until `free` is set; `reached` once it does.

    `batches` are how many windows each call gave it; the first calls may pass.
    """

    free: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)
    passing: int = 0

    def encode_audio(self, clips, on_step=uninterrupted):
        self.batches.append(len(clips))
        if len(self.batches) <= self.passing:
            return super().encode_audio(clips, on_step)
        self.reached.set()
        end = time.monotonic() + WAIT
        while not self.free.wait(0.005):
            on_step()
            assert time.monotonic() < end, "nobody let the model go on"
        return super().encode_audio(clips, on_step)


def stepping(model: DualWhisper, passing: int = 0) -> SteppingModel:
    return SteppingModel(model.backbone, model.packs, model.selector, passing=passing)


NORTH, SOUTH = (TranscribeRequest(route, None, QUICK) for route in ("north", "south"))


def test_a_request_that_is_cancelled_leaves_the_model_while_it_is_decoded(model, sounds, start):
    slow = stepping(model)
    scheduler = start(slow)
    ticket = scheduler.submit(sounds["longer"], ModelRequest(slow, NORTH))
    assert slow.reached.wait(WAIT)
    ticket.cancel()
    until(lambda: len(scheduler) == 0)  # the model was never let go
    after = scheduler.submit(sounds["a"], ModelRequest(model, NORTH))
    assert after.future.result(WAIT).text and scheduler.totals.windows == 1


def test_a_request_is_late_while_it_is_decoded(model, sounds, start):
    slow = stepping(model)
    scheduler = start(slow, time_s=0.2)
    ticket = scheduler.submit(sounds["longer"], ModelRequest(slow, NORTH))
    with pytest.raises(TookTooLong):
        ticket.future.result(WAIT)
    until(lambda: len(scheduler) == 0)
    assert scheduler.totals.windows == 0


def test_others_take_turns_while_a_batch_is_decoded(model, sounds, start):
    slow = stepping(model)
    scheduler = start(slow)
    held_up = scheduler.submit(sounds["longer"], ModelRequest(slow, NORTH))
    assert slow.reached.wait(WAIT)
    others = [scheduler.submit(sounds[name], ModelRequest(model, NORTH)) for name in ("a", "long")]
    wanted = [
        gist(transcribe(model, sounds[name], route="north", options=QUICK))
        for name in ("a", "long")
    ]
    assert [gist(ticket.future.result(WAIT)) for ticket in others] == wanted
    assert not held_up.future.done()
    slow.free.set()
    whole = gist(transcribe(model, sounds["longer"], route="north", options=QUICK))
    assert gist(held_up.future.result(WAIT)) == whole


@pytest.mark.parametrize(
    "staying, leaving, batches",
    [("b", "cd", [3, 1]), ("c", "d", [2, 1]), ("cb", "d", [3])],  # half of them stop the batch
)
def test_who_stays_in_a_batch_that_others_leave_is_answered_as_if_alone(
    model, sounds, start, no_turns, staying, leaving, batches
):
    slow, busy = stepping(model), held(model)
    scheduler = start(slow, batch=4)
    first = scheduler.submit(sounds["a"], ModelRequest(busy, NORTH))
    assert busy.reached.wait(WAIT)
    stay, leave = (
        [scheduler.submit(sounds[name], ModelRequest(slow, NORTH)) for name in names]
        for names in (staying, leaving)
    )
    until(lambda: all(ticket.ready for ticket in (*stay, *leave)))  # so that they share a batch
    busy.free.set()
    assert slow.reached.wait(WAIT)
    for ticket in leave:
        ticket.cancel()
    until(lambda: len(scheduler) == len(staying))
    slow.free.set()
    for name, ticket in zip(staying, stay, strict=True):
        wanted = gist(transcribe(model, sounds[name], route="north", options=QUICK))
        assert gist(ticket.future.result(WAIT)) == wanted
    assert slow.batches == batches and first.future.result(WAIT).text


def test_answers_do_not_depend_on_the_turns_of_others(model, sounds, start, monkeypatch):
    monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 0.0)  # a turn at every step
    sampled = request_for(model, route="primary", language="en", temperature=0.8)
    kinds = [
        ModelRequest(model, NORTH),
        sampled,
        ModelRequest(model, TranscribeRequest("south", None, QUICK)),
    ]
    asked = [
        (sounds[name], kinds[i % 3])
        for i, name in enumerate(["longer", "long", "d", "c", "b", "a"])
    ]
    wanted = [gist(transcribe(kind.model, path, **vars(kind.request))) for path, kind in asked]
    scheduler, tickets = start(model, batch=2), []
    for pair in asked:
        tickets.append(scheduler.submit(*pair))
    assert [gist(ticket.future.result(WAIT)) for ticket in tickets] == wanted


def test_in_a_turn_new_requests_come_first_and_each_gives_one_window(
    model, sounds, start, monkeypatch
):
    monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 0.0)
    slow, order, new = stepping(model), [], []
    scheduler = start(slow, batch=1)
    scheduler.submit(sounds["longer"], ModelRequest(slow, NORTH))
    assert slow.reached.wait(WAIT)

    def on_old(so_far):
        order.append("old")
        if not new:  # it comes when the old one has had one window, and is behind it in the queue
            new.append(
                scheduler.submit(
                    sounds["a"], ModelRequest(model, NORTH), lambda so_far: order.append("new")
                )
            )
            until(lambda: new[0].ready)

    old = scheduler.submit(sounds["long"], ModelRequest(model, NORTH), on_old)
    assert old.future.result(WAIT).text and new[0].future.result(WAIT).text
    windows = len(old.recording.pieces)
    assert order == ["old", "new", *["old"] * (windows - 1)] and windows > 1


def test_what_was_decoded_of_a_batch_that_is_stopped_is_not_decoded_again(
    model, sounds, start, no_turns
):
    slow, busy = stepping(model, passing=1), held(model)
    options = replace(QUICK, decode=replace(QUICK.decode, prompt="Good morning."))
    request = TranscribeRequest("primary", "en", options)
    scheduler = start(slow, batch=8)
    scheduler.submit(sounds["a"], ModelRequest(busy, request))
    assert busy.reached.wait(WAIT)
    with scheduler._changed:  # none reads on before both are there to share the batch
        stays, leaves = (
            scheduler.submit(sounds[name], ModelRequest(slow, request))
            for name in ("long", "longer")
        )
    until(lambda: len(stays.ready) == len(leaves.ready) == 2)
    busy.free.set()
    assert slow.reached.wait(WAIT)  # with the second windows, as only the first have the prompt
    leaves.cancel()
    until(lambda: len(scheduler) == 1)
    slow.free.set()
    wanted = gist(transcribe(model, sounds["long"], **vars(request)))
    assert gist(stays.future.result(WAIT)) == wanted and slow.batches[:3] == [2, 2, 1]


@pytest.mark.parametrize("turns", [0, 1])
def test_a_batch_runs_for_a_while_before_others_take_a_turn(
    model, sounds, start, monkeypatch, turns
):
    def long_turns(so_far):
        monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 1e6)

    slow = stepping(model)
    scheduler = start(slow)
    monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 0.0 if turns else 1e6)
    held_up = scheduler.submit(sounds["a"], ModelRequest(slow, NORTH))
    assert slow.reached.wait(WAIT)
    for _ in range(turns):
        one = scheduler.submit(sounds["a"], ModelRequest(model, NORTH), long_turns)
        assert one.future.result(WAIT).text
    after = scheduler.submit(sounds["b"], ModelRequest(model, NORTH))
    until(lambda: after.ready)
    time.sleep(0.1)  # some steps
    assert not after.recording.pieces
    slow.free.set()
    assert held_up.future.result(WAIT).text and after.future.result(WAIT).text


def test_nobody_takes_a_turn_from_a_turn(model, sounds, start, monkeypatch):
    monkeypatch.setattr("dualasr_serve.scheduler.TURN_S", 0.0)
    slow, other = stepping(model), stepping(model)
    scheduler = start(slow)
    tickets = []
    for through, request in ((slow, NORTH), (other, SOUTH)):
        tickets.append(scheduler.submit(sounds["a"], ModelRequest(through, request)))
        assert through.reached.wait(WAIT)
    tickets.append(scheduler.submit(sounds["b"], ModelRequest(model, NORTH)))
    until(lambda: tickets[-1].ready)
    time.sleep(0.1)  # some steps
    assert not tickets[-1].recording.pieces
    other.free.set()
    assert tickets[-1].future.result(WAIT).text and not tickets[0].future.done()
    slow.free.set()
    assert tickets[0].future.result(WAIT).text and tickets[1].future.result(WAIT).text


@pytest.mark.parametrize("batch, ahead", [(1, 1), (3, 1), (4, 2)])
def test_of_two_requests_each_reads_half_a_batch_ahead(
    model, sounds, start, no_turns, batch, ahead
):
    busy, counting = held(model), stepping(model)
    counting.free.set()
    scheduler = start(model, batch=batch)
    scheduler.submit(sounds["a"], ModelRequest(busy, NORTH))
    assert busy.reached.wait(WAIT)
    ticket = scheduler.submit(sounds["longer"], ModelRequest(counting, NORTH))

    def at_rest() -> bool:
        with scheduler._changed:
            return not ticket.reading

    until(at_rest)
    assert len(ticket.ready) == ahead
    busy.free.set()
    assert counting.reached.wait(WAIT) and counting.batches[0] == ahead


def test_a_window_that_needs_the_text_before_it_is_decoded_after_it(model, sounds, start):
    options = replace(QUICK, condition_on_previous_text=True)
    scheduler = start(model, batch=4)
    ticket = scheduler.submit(
        sounds["long"], ModelRequest(model, TranscribeRequest("primary", "en", options))
    )
    wanted = transcribe(model, sounds["long"], route="primary", language="en", options=options)
    assert gist(ticket.future.result(WAIT)) == gist(wanted)
    assert scheduler.totals.batches == scheduler.totals.windows > 1


def test_two_sounds_of_one_length_get_their_own_answers(model, tmp_path, start, no_turns):
    paths = [write_sound(tmp_path / f"{seed}.wav", 4.0, seed) for seed in range(20, 24)]
    wanted = [gist(transcribe(model, path, route="north", options=QUICK)) for path in paths]
    assert len({text for text, *_ in wanted}) == 4
    busy = held(model)
    scheduler = start(model, batch=3)
    first = scheduler.submit(paths[0], ModelRequest(busy, NORTH))
    assert busy.reached.wait(WAIT)
    tickets = [scheduler.submit(path, ModelRequest(model, NORTH)) for path in paths]
    until(lambda: all(ticket.ready for ticket in tickets))
    busy.free.set()
    assert [gist(ticket.future.result(WAIT)) for ticket in tickets] == wanted
    assert first.future.result(WAIT).text
    assert scheduler.totals.batches == 3, "three were not decoded together"
    assert scheduler.totals == Totals(5, 3, 20.0, Counter(north=5))


def silence(path, seconds: int, **kind):
    rate = kind.pop("rate", 16_000)
    with soundfile.SoundFile(path, "w", rate, 1, **kind) as file:
        for _ in range(seconds // 10):
            file.write(np.zeros(10 * rate, np.float32))
    return path


@pytest.mark.parametrize(
    "name, kind",
    [
        ("speech.wav", None),
        ("silence.flac", {}),
        ("silence.opus", {"format": "OGG", "subtype": "OPUS", "rate": 8_000}),
        ("silence.mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ],
)
def test_sound_beyond_the_limit_is_refused_and_read_no_further(model, tmp_path, start, name, kind):
    path = tmp_path / name
    write_sound(path, 120) if kind is None else silence(path, 300, **kind)
    scheduler = start(model, audio_s=40)
    ticket = scheduler.submit(path, ModelRequest(model, TranscribeRequest("north", None, QUICK)))
    with pytest.raises(TooLong, match="longer than 40 s"):
        ticket.future.result(WAIT)
    assert ticket.recording.samples == 0 and scheduler.totals.windows == 0  # its header says it


def test_sound_that_does_not_say_its_length_is_read_until_it_is_too_long(model, tmp_path, start):
    pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path / "silence.mkv"
    encode(path, "pcm_s16le", [(0.0, np.zeros(60 * 16_000, np.float32))], rate=16_000)
    ticket = start(model, audio_s=40).submit(path, ModelRequest(model, NORTH))
    with pytest.raises(TooLong, match="longer than 40 s"):
        ticket.future.result(WAIT)
    assert 40 < ticket.recording.seconds < 42


def test_long_silence_keeps_nobody_waiting_and_has_no_text(model, sounds, tmp_path, start):
    scheduler, model_request, ended = (
        start(model),
        ModelRequest(model, TranscribeRequest("north", None, QUICK)),
        [],
    )
    tickets = {"silence": scheduler.submit(silence(tmp_path / "hour.flac", 3600), model_request)}
    tickets["a"] = scheduler.submit(sounds["a"], model_request)
    for name, ticket in tickets.items():
        ticket.future.add_done_callback(lambda future, name=name: ended.append(name))
    whole = tickets["silence"].future.result(WAIT)
    assert ended == ["a", "silence"] and (whole.text, whole.duration) == ("", 3600.0)


def test_requests_keep_their_model_while_packs_are_exchanged(model, sounds, start):
    slow = held(model)
    scheduler, paths = start(slow, batch=2), [sounds[name] for name in ("long", "a")]
    old = [
        scheduler.submit(path, ModelRequest(slow, TranscribeRequest("north", None, QUICK)))
        for path in paths
    ]
    assert slow.reached.wait(WAIT)
    south = model.packs["south"]
    other = replace(model, packs={"north": replace(south, info=replace(south.info, name="north"))})
    scheduler.model = other
    new = [
        scheduler.submit(
            path, ModelRequest(scheduler.model, TranscribeRequest("north", None, QUICK))
        )
        for path in paths
    ]
    slow.free.set()
    for tickets, through in ((old, model), (new, other)):
        wanted = [gist(transcribe(through, path, route="north", options=QUICK)) for path in paths]
        assert [gist(ticket.future.result(WAIT)) for ticket in tickets] == wanted
    assert gist(old[0].future.result()) != gist(new[0].future.result())


def test_what_breaks_in_decoding_fails_its_requests_alone(model, sounds, start):
    north = model.packs["north"]
    broken = model.with_pack(
        replace(north, info=replace(north.info, name="bad", languages={"x": "x"}), secondary=None)
    )
    whole = ModelRequest(model, TranscribeRequest("north", None, QUICK))
    scheduler = start(model)
    tickets = [
        scheduler.submit(sounds["a"], model_request)
        for model_request in (
            whole,
            ModelRequest(broken, TranscribeRequest("bad", None, QUICK)),
            whole,
        )
    ]
    with pytest.raises(AttributeError):
        tickets[1].future.result(WAIT)
    assert tickets[0].future.result(WAIT) == tickets[2].future.result(WAIT)
    assert scheduler.submit(sounds["b"], whole).future.result(WAIT).text and len(scheduler) == 0


def test_a_listener_that_breaks_fails_its_request_alone(model, sounds, start):
    def broken(so_far):
        raise RuntimeError("the one who listened has gone")

    scheduler, model_request = (
        start(model),
        ModelRequest(model, TranscribeRequest("north", None, QUICK)),
    )
    tickets = [
        scheduler.submit(sounds["long"], model_request, broken),
        scheduler.submit(sounds["long"], model_request),
    ]
    with pytest.raises(RuntimeError, match="has gone"):
        tickets[0].future.result(WAIT)
    assert tickets[1].future.result(WAIT).text and len(scheduler) == 0


def test_a_transcript_that_cannot_be_made_fails_its_request_alone(model, sounds, start):
    def broken():
        raise RuntimeError("no transcript")

    slow = held(model)
    scheduler = start(slow)
    bad, good = (scheduler.submit(sounds[name], ModelRequest(slow, NORTH)) for name in "ab")
    bad.recording.result = broken
    slow.free.set()
    with pytest.raises(RuntimeError, match="no transcript"):
        bad.future.result(WAIT)
    assert good.future.result(WAIT).text
    until(lambda: bad.windows.gi_frame is None)


def test_broken_sound_is_an_error_of_its_own(model, sounds, tmp_path, start):
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, soundfile.read(sounds["longer"])[0], 16_000)
    cut, noise = tmp_path / "cut.flac", tmp_path / "noise.mp3"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    noise.write_bytes(b"no sound at all" * 100)
    scheduler, model_request = (
        start(model),
        ModelRequest(model, TranscribeRequest("north", None, QUICK)),
    )
    tickets = {
        path: scheduler.submit(path, model_request)
        for path in (cut, sounds["long"], noise, tmp_path / "none.wav")
    }
    assert gist(tickets.pop(sounds["long"]).future.result(WAIT)) == gist(
        transcribe(model, sounds["long"], route="north", options=QUICK)
    )
    for path, ticket in tickets.items():
        with pytest.raises(AudioError, match=path.name):
            ticket.future.result(WAIT)


def test_progress_only_grows_up_to_the_transcript(model, sounds, start):
    scheduler, reports = start(model, batch=1), []
    whole = scheduler.submit(
        sounds["longer"],
        ModelRequest(model, TranscribeRequest("north", None, QUICK)),
        reports.append,
    ).future.result(WAIT)
    texts = [*(so_far.text for so_far in reports), whole.text]
    assert len(set(texts)) > 3 and all(
        after.startswith(before) for before, after in zip(texts, texts[1:], strict=False)
    )
    segments = [so_far.segments for so_far in reports]
    assert all(whole.segments[: len(some)] == some for some in segments)


def test_close_answers_what_is_admitted_and_then_refuses(model, sounds, start):
    slow = held(model)
    scheduler, model_request = (
        start(slow, batch=2),
        ModelRequest(slow, TranscribeRequest("north", None, QUICK)),
    )
    tickets = [scheduler.submit(sounds[name], model_request) for name in ("long", "a", "b")]
    with ThreadPoolExecutor(1) as closer:
        closing = closer.submit(scheduler.close)
        while not scheduler._closing:
            time.sleep(0.01)
        with pytest.raises(Stopping):
            scheduler.submit(sounds["c"], model_request)
        slow.free.set()
        closing.result(WAIT)
    assert all(ticket.future.done() and ticket.future.result().text for ticket in tickets)


def test_close_can_drop_what_is_admitted(model, sounds, start):
    slow = held(model)
    scheduler, model_request = (
        start(slow, batch=1),
        ModelRequest(slow, TranscribeRequest("north", None, QUICK)),
    )
    tickets = [scheduler.submit(sounds["longer"], model_request) for _ in range(3)]
    assert slow.reached.wait(WAIT)
    slow.free.set()
    scheduler.close(drop=True)
    assert (
        len(scheduler) == 0
        and scheduler.totals.windows <= 2
        and all(isinstance(ticket.future.exception(), Stopping) for ticket in tickets)
    )


def test_who_waits_for_a_reader_can_leave_and_be_late(model, sounds, start):
    scheduler, leave = start(model, time_s=0.3), threading.Event()
    for _ in range(READERS):
        scheduler._readers.submit(leave.wait, WAIT)
    late = scheduler.submit(sounds["a"], ModelRequest(model, NORTH))
    with pytest.raises(TookTooLong):
        late.future.result(30)  # before the scheduler wakes up by itself
    scheduler.limits = Limits()
    gone = scheduler.submit(sounds["a"], ModelRequest(model, NORTH))
    time.sleep(0.1)  # it sleeps again
    gone.cancel()
    until(lambda: len(scheduler) == 0, 30)
    scheduler.close()  # which waits for no reader
    assert not leave.is_set()
    leave.set()


def test_who_leaves_while_a_window_is_read_has_its_sound_closed(model, sounds, start):
    scheduler = start(model)
    with scheduler._changed:  # the reader waits, once it has read
        ticket = scheduler.submit(sounds["longer"], ModelRequest(model, NORTH))
        until(lambda: ticket.recording.samples)
        ticket.cancel()
    until(lambda: ticket.windows.gi_frame is None)
    assert scheduler.totals.windows == 0


def test_a_queue_or_batch_of_none_is_refused():
    for name in ("queue", "batch"):
        assert getattr(Limits(**{name: 1}), name) == 1
        with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
            Limits(**{name: 0})


def test_a_sound_may_last_just_as_long_as_the_limit(model, tmp_path, start):
    path = write_sound(tmp_path / "two.wav", 2.0)
    ticket = start(model, audio_s=2.0).submit(path, ModelRequest(model, NORTH))
    assert ticket.future.result(WAIT).duration == 2.0


def test_limits_may_be_infinite(model, sounds, start):
    scheduler = start(model, audio_s=float("inf"), time_s=float("inf"))
    assert (
        scheduler.submit(sounds["a"], ModelRequest(model, TranscribeRequest("north", None, QUICK)))
        .future.result(WAIT)
        .text
    )


def test_the_sound_may_go_once_the_answer_is_there(model, sounds, tmp_path, start):
    path = tmp_path / "copy.wav"
    shutil.copy(sounds["long"], path)
    scheduler = start(model)
    ticket = scheduler.submit(path, ModelRequest(model, TranscribeRequest("north", None, QUICK)))
    ticket.future.result(WAIT)
    scheduler.close()
    assert ticket.windows.gi_frame is None and not ticket.reading
