"""What a pack was trained on, as fingerprints, and which test clips are among it (Zhou et al. 2023,
arXiv 2311.01964).

A sentence is a hash of its letters and a MinHash of its character 4-grams (Broder 1997), 128 values
cut to a byte each (Li and Koenig 2010). A recording is a hash of its samples and, for every 64 ms
of its first 8.2 s, a 32-bit sub-fingerprint: the signs of energy differences between neighbouring
bands and frames (Haitsma and Kalker 2002). About half a kilobyte a clip, from which neither text
nor sound can be made again; that a sentence one already knows is in it can be found out.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, Sound, load_audio
from dualasr.errors import AudioError, PackError
from dualasr.parallel import worker_pool
from dualasr.text import normalise, scoring_unit

# a change to any number below makes older files incomparable: count it up
FORMAT = "dualasr fingerprints 1"
HASHES = 128  # the standard deviation of an estimated Jaccard similarity of 0.7 is 0.04
GRAM = 4
FRAME, HOP, FRAMES = 8192, 1024, 128  # samples, samples, sub-fingerprints a clip at most
BITS = 32

# One word replaced in a sentence of 11 or more leaves 97 % of them at 0.7 or more, but only 53 % at
# 0.8; between 2,000 and 2,000 other sentences of English, 1 pair is above, of Kyrgyz 9, all of them
# the same sentence edited.
SIMILAR = 0.7


# 33 bands
_EDGES = np.searchsorted(np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE), np.geomspace(300, 2000, BITS + 2))


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of n clips, in the order of the corpus. A hash of 0 says that there is no text,
    or no readable sound.
    """

    sentence: np.ndarray  # (n,) uint64, hash of the letters: no case, punctuation or spaces
    # (n,) uint16, words of the sentence; characters in a language written without spaces
    words: np.ndarray
    minhash: np.ndarray  # (n, 128) uint8
    audio: np.ndarray  # (n,) uint64, hash of the samples, at 16 kHz and 16 bit
    frames: np.ndarray  # (n,) uint8, how many of `acoustic` are the clip's
    acoustic: np.ndarray  # (frames.sum(),) uint32, sub-fingerprints; 0 in digital silence

    def __len__(self) -> int:
        return len(self.sentence)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises RunError where the disk is full
        or unwritable.
        """
        with atomic_file(path) as part:
            part.write_bytes(save(vars(self), metadata={"format": FORMAT}))

    @classmethod
    def load(cls, path: str | Path) -> "Fingerprints":
        """Read a file of `save`. Raises PackError for a file that is missing, damaged or of another
        format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("format")
                arrays = (
                    {name: file.get_tensor(name) for name in file.keys()} if found == FORMAT else {}
                )  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise PackError(
                f"{path} cannot be read as fingerprints ({error}); fetch the pack again."
            ) from error
        if found != FORMAT:
            raise PackError(
                f"{path} holds {found!r}, not {FORMAT!r}; fingerprint the corpus with this dualasr."
            )
        n, total = (
            len(np.atleast_1d(arrays.get("sentence", 0))),
            int(np.sum(arrays.get("frames", 0), dtype=np.int64)),
        )
        wanted = {
            "sentence": ("uint64", (n,)),
            "words": ("uint16", (n,)),
            "minhash": ("uint8", (n, HASHES)),
            "audio": ("uint64", (n,)),
            "frames": ("uint8", (n,)),
            "acoustic": ("uint32", (total,)),
        }
        shapes = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
        if shapes != wanted or (arrays["frames"] > FRAMES).any():
            raise PackError(
                f"{path} holds {shapes}, wanted {wanted}; it is damaged, fetch the pack again."
            )
        return cls(**arrays)


def join(parts: Sequence[Fingerprints]) -> Fingerprints:
    """The clips of several, one after the other."""
    return Fingerprints(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Fingerprints)
        )
    )


def fingerprint(
    clips: Iterable[tuple[Sound, str, str]], *, progress: bool | None = None
) -> Fingerprints:
    """Fingerprints of clips, each a sound, what is said in it and the language's code, in their
    order.

    A sound that cannot be read keeps its sentence alone, a clip without text its sound. `progress`
    None shows a bar on a terminal.
    """
    clips = list(clips)
    hidden = None if progress is None else not progress
    with worker_pool() as (pool, _):
        sounds = pool.map(_sound, [sound for sound, _, _ in clips])
        sounds = list(
            tqdm(sounds, total=len(clips), desc="fingerprints", unit="clip", disable=hidden)
        )
    sentences = [_sentence(text, language) for _, text, language in clips]
    return Fingerprints(
        np.array([hash for hash, _, _ in sentences], np.uint64),
        np.array([words for _, words, _ in sentences], np.uint16),
        np.array([minhash for _, _, minhash in sentences], np.uint8).reshape(-1, HASHES),
        np.array([hash for hash, _ in sounds], np.uint64),
        np.array([len(acoustic) for _, acoustic in sounds], np.uint8),
        np.concatenate([np.zeros(0, np.uint32), *(acoustic for _, acoustic in sounds)]),
    )


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") or 1


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014), a permutation of the 64-bit numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_SEEDS = _mix(np.arange(1, HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _sentence(text: str, language: str) -> tuple[int, int, np.ndarray]:
    """Hash, words, MinHash (128,) uint8."""
    text = normalise(text, "marks")
    letters = text.replace(" ", "")  # "ice-cream" is "icecream", and Chinese with spaces is Chinese
    if not letters:
        return 0, 0, np.zeros(HASHES, np.uint8)
    codes = np.frombuffer(f" {text} ".ljust(GRAM).encode("utf-32-le"), "<u4").astype(np.uint64)
    grams = np.zeros(len(codes) - GRAM + 1, np.uint64)
    for place in range(GRAM):
        grams = _mix((grams ^ codes[place : place + len(grams)]) + np.uint64(0x9E3779B97F4A7C15))
    words = len(text.split()) if scoring_unit(language) == "word" else len(letters)
    return (
        _hash(letters.encode()),
        min(words, 0xFFFF),
        _mix(grams[:, None] ^ _SEEDS).min(axis=0).astype(np.uint8),
    )


def _sound(sound: Sound) -> tuple[int, np.ndarray]:
    """Hash, sub-fingerprints (frames,) uint32."""
    try:
        samples = load_audio(sound)
    except AudioError:
        return 0, np.zeros(0, np.uint32)
    exact = np.rint(np.clip(samples * 32768, -32768, 32767)).astype("<i2")
    return _hash(exact.tobytes()), _sub_fingerprints(samples)


def _sub_fingerprints(samples: np.ndarray) -> np.ndarray:
    """(samples,) at 16 kHz -> (frames,) uint32; frame t is centred on sample (t + 1) * HOP, and
    half silence at the start.
    """
    padded = np.pad(samples[: FRAME // 2 + FRAMES * HOP].astype(np.float64), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: FRAMES + 1]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2
    energy = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    slope = energy[:, :-1] - energy[:, 1:]
    return np.packbits(slope[1:] > slope[:-1], axis=1).view(">u4")[:, 0].astype(np.uint32)
