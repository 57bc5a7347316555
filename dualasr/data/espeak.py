"""Generated speech: espeak-ng in process, through the wheel `espeakng-loader` (the extra `synth`).

espeak-ng is a formant synthesiser that reads about a hundred languages at nearly a thousand times
real time. Voices are split once and for all: the variants, pitches and rates of `role="test"` never
sound in `role="train"`.

The library keeps state between texts and crashes on a rare one (some voices, about one text in ten
thousand), so it runs in a process of its own behind `Speaker`, which goes on after a crash.
"""

import ctypes
import functools
import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import DualasrError, MissingExtraError

TEST_VARIANTS = (
    "Andrea",
    "Mario",
    "belinda",
    "david",
    "f2",
    "iven2",
    "klatt3",
    "linda",
    "m4",
    "max",
    "paul",
    "steph2",
)
TRAIN_VARIANTS = (
    "Alex Alicia Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Michael Mike"
    " Nguyen Reed Storm adam anika announcer antonio aunty benjamin boris caleb ed edward edward2"
    " f1 f3 f4 f5 grandma grandpa gustave ian iven iven3 iven4 john kaukovalta klatt klatt2 klatt4"
    " klatt5 klatt6 m1 m2 m3 m5 m6 m7 m8 marcelo michel miguel mike2 norbert pablo pedro quincy rob"
    " robert sandro shelby steph steph3 travis victor whisper zac"
).split()
ACCENTS = {"en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland"), "es": ("es", "es-419")}

# events of phones, in IPA
_SYNCHRONOUS, _PHONE_EVENTS, _CHARS_UTF8, _POS_CHARACTER = 2, 1 | 2, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_EVENT_WORD, _EVENT_PHONE = 1, 7


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `phone` is its union read as a string."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in ("type", "identifier", "position", "length", "milliseconds", "sample")
    ]
    _fields_ += [("user", ctypes.c_void_p), ("phone", ctypes.c_char * 8)]


@dataclass(frozen=True)
class Voice:
    """How a text is read: variant of espeak-ng's voice, rate in words a minute, pitch and pitch
    range in 0..99.
    """

    variant: str
    rate: int
    pitch: int
    pitch_range: int
    accent: int = 0


@dataclass(frozen=True)
class Utterance:
    """A text that was read: samples of shape (n,) at 16 kHz, and the phones and words with the
    second each starts at.

    A phone is IPA without stress marks; the empty one is a pause. A word is the place of its first
    character in the text.
    """

    samples: np.ndarray
    phones: tuple[tuple[str, float], ...]
    words: tuple[tuple[int, float], ...] = ()


def draw_voice(rng: np.random.Generator, role: Literal["train", "test"]) -> Voice:
    """Draw a voice; test voices differ from every training voice in variant, and in rate and pitch
    range too.
    """
    if role == "test":
        variant, rate, pitch = (
            rng.choice(TEST_VARIANTS),
            rng.integers(152, 164),
            rng.integers(44, 56),
        )
    else:
        variant = rng.choice(TRAIN_VARIANTS)
        rate = rng.integers(115, 150) if rng.random() < 0.5 else rng.integers(166, 210)
        pitch = rng.integers(15, 42) if rng.random() < 0.5 else rng.integers(58, 85)
    return Voice(
        str(variant), int(rate), int(pitch), int(rng.integers(30, 80)), int(rng.integers(0, 12))
    )


@functools.cache
def _library():
    """espeak-ng holds its state in the process: loaded once, at the first word spoken. Returns
    (library, rate in Hz).
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    data = os.path.dirname(espeakng_loader.get_data_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONE_EVENTS)
    if rate <= 0:
        raise DualasrError(
            f"espeak-ng did not start with the data in {data}; reinstall espeakng-loader."
        )
    return library, rate


def _utter(text: str, language: str, voice: Voice) -> Utterance:
    """Read `text` aloud in this process: samples in float32, peak about 0.5."""
    library, rate = _library()
    accents = ACCENTS.get(language, (language,))
    name = f"{accents[voice.accent % len(accents)]}+{voice.variant}"
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise DualasrError(
            f"espeak-ng has no voice {name!r}; `espeak-ng --voices` lists the languages it reads."
        )
    for parameter, value in (
        (_RATE, voice.rate),
        (_PITCH, voice.pitch),
        (_RANGE, voice.pitch_range),
    ):
        library.espeak_SetParameter(parameter, value, 0)
    pieces: list[np.ndarray] = []
    phones: list[tuple[str, float]] = []
    words: list[tuple[int, float]] = []

    @ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
    )
    def receive(wave, count, events):
        if count > 0:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        for event in itertools.takewhile(
            lambda e: e.type != 0, (events[i] for i in itertools.count())
        ):
            if event.type == _EVENT_PHONE:
                phones.append(
                    (event.phone.decode("utf-8", "ignore").strip("ˈˌ"), event.milliseconds / 1000)
                )
            elif event.type == _EVENT_WORD:
                words.append((event.position - 1, event.milliseconds / 1000))
        return 0

    library.espeak_SetSynthCallback(receive)
    library.espeak_ng_SetRandSeed(1)  # breath is noise, seeded with the time otherwise
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
    if not pieces:
        return Utterance(np.zeros(0, np.float32), ())
    samples = np.concatenate(pieces).astype(np.float32) / 32768.0
    samples = soxr.resample(samples, rate, SAMPLE_RATE).astype(np.float32)
    return Utterance(
        samples * np.float32(0.5 / max(1e-3, float(np.abs(samples).max()))),
        tuple(phones),
        tuple(words),
    )


def _serve() -> None:
    """The child's loop: pickled (text, language, voice) in, an utterance or an error out, by stdin
    and stdout.
    """
    pickle.dump(_library()[1], sys.stdout.buffer)  # the greeting
    sys.stdout.flush()
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = _utter(*request)
        except DualasrError as error:
            answer = error
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.flush()


class Speaker:
    """espeak-ng in a child process: `with Speaker() as speaker: speaker.speak(text, "ky", voice)`.

    Raises MissingExtraError without espeakng-loader, DualasrError where the child cannot start.
    """

    def __enter__(self) -> "Speaker":
        if importlib.util.find_spec("espeakng_loader") is None:
            raise MissingExtraError("espeakng-loader", "synth")
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _start(self) -> None:
        command = [sys.executable, "-c", "from dualasr.data.espeak import _serve; _serve()"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        try:
            pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise DualasrError(
                f"espeak-ng's process ended at its start, exit code {self._process.wait()}."
            ) from error

    def speak(self, text: str, language: str, voice: Voice) -> np.ndarray:
        """The samples of `utter`: float32, shape (samples,), 16 kHz, peak about 0.5."""
        return self.utter(text, language, voice).samples

    def utter(self, text: str, language: str, voice: Voice) -> Utterance:
        """Read `text` aloud; nothing is heard, no sample and no phone, where espeak-ng crashed on
        it.

        Raises DualasrError for a language or variant that espeak-ng does not have.
        """
        try:
            pickle.dump((text, language, voice), self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self._process.wait()
            self._start()
            return Utterance(np.zeros(0, np.float32), ())
        if isinstance(answer, DualasrError):
            raise answer
        return answer
