"""Voice activity detection: the probabilities of Silero VAD, and the segments of speech they make.

The model is the ONNX file of the package `silero-vad` (the extra `vad`), run by onnxruntime in one
thread. The package itself is not imported, because its import sets torch's number of threads to
one. The model takes 512 samples (32 ms) at a time, together with the 64 before them. Its recurrent
state is passed in and returned.
"""

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualasr.audio.load import SAMPLE_RATE
from dualasr.errors import MissingExtraError

CHUNK = 512  # samples that get one probability
_CONTEXT = 64  # samples before the chunk that the model takes too


@dataclass(frozen=True)
class VadOptions:
    """What counts as speech; names as in Silero VAD and faster-whisper, defaults of faster-whisper.

    Speech starts where the probability reaches `threshold`. It ends where the probability has
    fallen below `neg_threshold` and does not reach `threshold` again during the minimum silence.

    Attributes:
        threshold: Probability at which speech starts.
        neg_threshold: Probability below which silence starts; None is threshold - 0.15, at least
            0.01.
        min_speech_duration_ms: Speech that lasts this many milliseconds or less is dropped.
        max_speech_duration_s: Longest window of speech, in seconds; the window's own length limits
            it, too.
        min_silence_duration_ms: Milliseconds of silence that end speech. It is at least twice
            `speech_pad_ms`, so that paddings never overlap.
        speech_pad_ms: Milliseconds added to speech on both sides.

    Raises:
        ValueError: A value is out of range.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: int = 0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: int = 2000
    speech_pad_ms: int = 400

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, eq=False)
class VadState:
    """State of the model between two chunks.

    Attributes:
        recurrent: Recurrent state, float32, shape (2, 1, 128).
        context: The last samples before the next chunk, float32, shape (64,).
    """

    recurrent: np.ndarray
    context: np.ndarray


class SileroVad:
    """The model Silero VAD, which gives the probability of speech.

    Raises:
        MissingExtraError: silero-vad or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        package = importlib.util.find_spec("silero_vad")  # found, not imported
        if package is None:
            raise MissingExtraError("silero-vad", "vad")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "vad") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        assert package.submodule_search_locations  # it is a package, not a module
        path = Path(package.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, np.int64)

    def start(self) -> VadState:
        """Return the state before the first sample."""
        return VadState(np.zeros((2, 1, 128), np.float32), np.zeros(_CONTEXT, np.float32))

    def speech_probs(self, chunk: np.ndarray, state: VadState) -> tuple[float, VadState]:
        """Return the probability that a chunk is speech, and the state after it.

        Args:
            chunk: float32, shape (n,), 16 kHz, n at most 512; a shorter chunk is padded with
                silence.
            state: The state after the chunk before, or `start()`.
        """
        samples = np.concatenate([state.context, chunk, np.zeros(CHUNK - len(chunk), np.float32)])
        inputs = {"input": samples[None], "state": state.recurrent, "sr": self._rate}
        probability, recurrent = self._session.run(None, inputs)
        return float(probability[0, 0]), VadState(recurrent, samples[-_CONTEXT:])


@dataclass(frozen=True)
class Stretch:
    """A segment of speech, which may still grow, without padding.

    Attributes:
        start: Its first sample.
        end: The sample after its last one, so far.
        quiet: Whether silence has begun at `end`; `end` moves on if speech comes again.
        over: Whether the silence was long enough to end the segment; `end` is final.
    """

    start: int
    end: int
    quiet: bool = False
    over: bool = False

    def is_speech(self, options: VadOptions) -> bool:
        """Whether it is long enough to count; a shorter one may still grow until it is over."""
        return self.end - self.start > options.min_speech_duration_ms * SAMPLE_RATE / 1000


def follow(
    stretch: Stretch | None, probability: float, at: int, options: VadOptions
) -> Stretch | None:
    """Return the segment of speech after one more chunk; None where there is no speech.

    Args:
        stretch: The segment before this chunk, or None.
        probability: Probability of speech in the chunk.
        at: First sample of the chunk.
        options: What counts as speech.
    """
    # Two thresholds (a hysteresis), as in Silero VAD's get_speech_timestamps:
    # 1. outside speech, only `threshold` starts a segment
    # 2. within speech, a probability from `threshold` on extends it and ends any silence
    # 3. a probability between the two thresholds extends it too, unless silence has begun
    # 4. a lower one begins silence, or goes on with it until it is long enough
    if stretch is None or stretch.over:
        return Stretch(at, at + CHUNK) if probability >= options.threshold else None
    if probability >= options.threshold:
        return replace(stretch, end=at + CHUNK, quiet=False)
    lower = options.neg_threshold
    if lower is None:
        lower = max(options.threshold - 0.15, 0.01)
    if probability >= lower:
        return stretch if stretch.quiet else replace(stretch, end=at + CHUNK)
    silence = max(options.min_silence_duration_ms, 2 * options.speech_pad_ms) * SAMPLE_RATE / 1000
    return replace(stretch, quiet=True, over=at - stretch.end >= silence)
