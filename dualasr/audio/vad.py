"""Where somebody speaks: Silero VAD's probabilities, and the stretches of speech they make.

The model is the ONNX file of the package `silero-vad` (the extra `vad`), run by onnxruntime in one
thread. The package itself is not imported: that would set torch's number of threads to one. The
model hears 512 samples (32 ms) at a time with the 64 before them, and remembers through a state
that is passed in and comes out.
"""

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import MissingExtraError

CHUNK = 512  # samples that get one probability
_CONTEXT = 64  # samples before them that the model hears too


@dataclass(frozen=True)
class VadOptions:
    """What counts as speech. The names are those of Silero VAD and faster-whisper, the defaults
    faster-whisper's.

    Speech starts where the probability reaches threshold, and ends where it has fallen below
    neg_threshold (None: threshold - 0.15, at least 0.01) and has not reached threshold again for
    min_silence_duration_ms, or for twice speech_pad_ms if that is longer, so that paddings never
    overlap. Speech of min_speech_duration_ms or less is none; other speech is padded by
    speech_pad_ms on both sides. max_speech_duration_s limits windows as their own length does.
    Raises ValueError for a value out of range.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: int = 0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: int = 2000
    speech_pad_ms: int = 400

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; it must be a probability above 0")
        if self.neg_threshold is not None and not 0 < self.neg_threshold <= self.threshold:
            raise ValueError(
                f"neg_threshold is {self.neg_threshold}; it must be above 0, at most threshold"
            )
        for name in ("min_speech_duration_ms", "min_silence_duration_ms", "speech_pad_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 ms")
        if not self.max_speech_duration_s >= CHUNK / SAMPLE_RATE:
            raise ValueError(
                f"max_speech_duration_s is {self.max_speech_duration_s}; it must be at least "
                f"{CHUNK / SAMPLE_RATE} s"
            )


@dataclass(frozen=True)
class VadState:
    """What the model remembers: its recurrent state, shape (2, 1, 128), and the last samples, shape
    (64,).
    """

    recurrent: np.ndarray
    context: np.ndarray


class SileroVad:
    """The model. Raises MissingExtraError where silero-vad or onnxruntime is not installed."""

    def __init__(self):
        package = importlib.util.find_spec("silero_vad")  # found, not imported
        if package is None:
            raise MissingExtraError("silero-vad", "vad")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "vad") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(package.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, np.int64)

    def start(self) -> VadState:
        """The state before the first sample."""
        return VadState(np.zeros((2, 1, 128), np.float32), np.zeros(_CONTEXT, np.float32))

    def hear(self, chunk: np.ndarray, state: VadState) -> tuple[float, VadState]:
        """The probability that `chunk` is speech, and the state after it.

        The chunk is float32 of shape (n,), 16 kHz, with at most 512 samples; silence is put after a
        shorter one.
        """
        heard = np.concatenate([state.context, chunk, np.zeros(CHUNK - len(chunk), np.float32)])
        inputs = {"input": heard[None], "state": state.recurrent, "sr": self._rate}
        probability, recurrent = self._session.run(None, inputs)
        return float(probability[0, 0]), VadState(recurrent, heard[-_CONTEXT:])


@dataclass(frozen=True)
class Stretch:
    """Speech from sample `start` to before sample `end`, without padding.

    quiet: nobody has spoken since `end`, which moves on if somebody does. over: the silence was
        long enough, `end` stays.
    """

    start: int
    end: int
    quiet: bool = False
    over: bool = False

    def is_speech(self, options: VadOptions) -> bool:
        """Whether it is long enough; what is not may become so until it is over."""
        return self.end - self.start > options.min_speech_duration_ms * SAMPLE_RATE / 1000


def follow(
    stretch: Stretch | None, probability: float, at: int, options: VadOptions
) -> Stretch | None:
    """The stretch after the chunk that starts at sample `at`: begun, gone on, quiet, over, or None
    where nobody speaks.
    """
    if stretch is None or stretch.over:
        return Stretch(at, at + CHUNK) if probability >= options.threshold else None
    if probability >= options.threshold:
        return replace(stretch, end=at + CHUNK, quiet=False)
    leave = (
        max(options.threshold - 0.15, 0.01)
        if options.neg_threshold is None
        else options.neg_threshold
    )
    if probability >= leave:
        return stretch if stretch.quiet else replace(stretch, end=at + CHUNK)
    silence = max(options.min_silence_duration_ms, 2 * options.speech_pad_ms) * SAMPLE_RATE / 1000
    return replace(stretch, quiet=True, over=at - stretch.end >= silence)
