"""Generate speech with espeak-ng, from the wheel `espeakng-loader` (the extra `synth`).

espeak-ng is a formant synthesiser that reads about a hundred languages, almost a thousand times
faster than real time. The voices are split: `role="train"` never has a variant, pitch or rate of
`role="test"`.

The library keeps state between texts, and some voices crash on about one text in ten thousand. So
it runs in a child process behind `Speaker`, which starts it again after a crash.
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
from pathlib import Path
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

# numbers of speak_lib.h; the phone events are wanted in IPA
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
    """How a text is read.

    Attributes:
        variant: Variant of espeak-ng's voice.
        rate: Speed in words a minute.
        pitch: Pitch in 0..99.
        pitch_range: Range of the pitch in 0..99; 0 is monotone.
        accent: Number of the accent, for languages that have several (modulo their number).
    """

    variant: str
    rate: int
    pitch: int
    pitch_range: int
    accent: int = 0


@dataclass(frozen=True, eq=False)
class Utterance:
    """A text that was read aloud.

    Attributes:
        samples: float32, shape (n,), 16 kHz.
        phones: Each phone, in IPA without stress marks, and its start in seconds; "" is a pause.
        words: Index of each word's first character in the text, and its start in seconds.
    """

    samples: np.ndarray
    phones: tuple[tuple[str, float], ...]
    words: tuple[tuple[int, float], ...] = ()


def draw_voice(rng: np.random.Generator, role: Literal["train", "test"]) -> Voice:
    """Draw a voice at random.

    The variants, the rates and the pitches of the two roles do not overlap.

    Args:
        rng: Source of the random choice.
        role: Whether the voice is for training or for testing.

    Returns:
        The voice.
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
    """Load espeak-ng, once in a process, and return the library and its sample rate in Hz."""
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


def _check_installed() -> None:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise MissingExtraError("espeakng-loader", "synth")


def spoken_languages() -> list[str]:
    """Return the codes of the languages that espeak-ng reads; dialects have no dictionary.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
    """
    _check_installed()
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    codes = {path.name for path in (data / "lang").rglob("*") if path.is_file()}
    # Norwegian has the dictionary of its macrolanguage; some languages have a voice alone
    return sorted(c for c in codes if (data / f"{'no' if c == 'nb' else c}_dict").exists())


def _utter(text: str, language: str, voice: Voice) -> Utterance:
    """Read a text aloud in this process: float32 samples with a peak of about 0.5."""
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
        """Collect the samples and the events that the library hands over; 0 means "go on"."""
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
    library.espeak_ng_SetRandSeed(1)  # breath is noise, otherwise seeded with the time
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
    """Run the child: read pickled (text, language, voice) from stdin until it ends.

    For each, an `Utterance` or an error is pickled to stdout.
    """
    pickle.dump(_library()[1], sys.stdout.buffer)  # says that espeak-ng started
    sys.stdout.flush()
    reply: Utterance | DualasrError
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = _utter(*request)
        except DualasrError as error:
            reply = error
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.flush()


class Speaker:
    """espeak-ng in a child process: `with Speaker() as speaker: speaker.speak(text, "ky", voice)`.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
        DualasrError: The child process cannot start.
    """

    def __enter__(self) -> "Speaker":
        _check_installed()
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._requests.close()
        self._process.wait()
        self._replies.close()

    def _start(self) -> None:
        command = [sys.executable, "-c", "from dualasr.data.espeak import _serve; _serve()"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both pipes
        self._requests, self._replies = self._process.stdin, self._process.stdout
        try:
            pickle.load(self._replies)
        except (EOFError, pickle.UnpicklingError) as error:
            raise DualasrError(
                f"espeak-ng's process ended at its start, exit code {self._process.wait()}."
            ) from error

    def speak(self, text: str, language: str, voice: Voice) -> np.ndarray:
        """Read a text aloud, and return its samples alone.

        Args:
            text: What to read.
            language: Code of the language, as espeak-ng calls it.
            voice: How to read it.

        Returns:
            float32, shape (samples,), 16 kHz, peak about 0.5; empty where espeak-ng crashed.
        """
        return self.utter(text, language, voice).samples

    def utter(self, text: str, language: str, voice: Voice) -> Utterance:
        """Read a text aloud, with the times of its phones and words.

        Args:
            text: What to read.
            language: Code of the language, as espeak-ng calls it.
            voice: How to read it.

        Returns:
            The samples, phones and words; none of them where espeak-ng crashed on the text.

        Raises:
            DualasrError: espeak-ng does not have the language or the variant.
        """
        try:
            pickle.dump((text, language, voice), self._requests)
            self._requests.flush()
            reply = pickle.load(self._replies)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self._process.wait()
            self._start()
            return Utterance(np.zeros(0, np.float32), ())
        if isinstance(reply, DualasrError):
            raise reply
        return reply
