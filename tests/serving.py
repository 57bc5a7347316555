"""What the tests of the server share: sounds, a small model that can be held up, and order."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import SAMPLE_RATE
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.fallback import Fallback
from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.language_id import EncodedAudio
from dualasr.model.pack import Pack, PackInfo
from dualasr.model.whisper import Backbone
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcript import Transcription

uvicorn = pytest.importorskip("uvicorn")

QUICK = TranscribeOptions(
    decode=DecodeOptions(beam=1, fallback=Fallback((0.0,), no_speech_threshold=None)),
    sentences=True,
)


def write_sound(path: Path, seconds: float, seed: int = 0) -> Path:
    """Tones and noise that no two seeds share, with a pause every few seconds."""
    rng, at = np.random.default_rng(seed), np.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE
    tones = sum(
        np.sin(2 * np.pi * rng.uniform(100, 3000) * at + rng.uniform(0, 6)) for _ in range(3)
    )
    loud = np.sin(2 * np.pi * rng.uniform(0.2, 3) * at) ** 2
    soundfile.write(
        path,
        (0.1 * tones * loud + 0.02 * rng.standard_normal(len(at)) * loud).astype(np.float32),
        SAMPLE_RATE,
    )
    return path


@dataclass(frozen=True)
class HeldModel(DualWhisper):
    """A model that does not encode until `free` is set; `reached` is set when it is called."""

    free: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def encode_audio(
        self, clips: Sequence[np.ndarray], on_step: OnStep = uninterrupted
    ) -> EncodedAudio:
        self.reached.set()
        assert self.free.wait(60), "nobody let the model go on"
        return super().encode_audio(clips, on_step)


def small_model(
    folder: Path, make_secondary, packs=(("north", "ky"), ("south", "ga")), kind=DualWhisper
) -> DualWhisper:
    """Packs of random weights, (name, language) each, on the Whisper in a folder."""
    backbone = Backbone.load(folder)
    model = kind(backbone)
    for seed, (name, language) in enumerate(packs):
        secondary = make_secondary(backbone, (language,), seed=seed).requires_grad_(False)
        model = model.with_pack(Pack(PackInfo(name, {language: language}), secondary))
    return model


def held(model: DualWhisper) -> HeldModel:
    return HeldModel(model.backbone, model.packs, model.selector)


def gist(transcript: Transcription) -> tuple:
    """What must be the same however a sound was decoded: all but the last digits of scores."""
    lines = [
        (s.start, s.end, s.text, s.language, s.route, [(w.start, w.end, w.word) for w in s.words])
        for s in transcript.segments
    ]
    return (
        transcript.text,
        transcript.language,
        transcript.route,
        transcript.duration,
        transcript.scores["windows"],
        lines,
    )


def until(what: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is true; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextmanager
def serving(app) -> Iterator[str]:
    """The URL of an application that is served meanwhile, by a thread."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
