"""Fingerprints of the clips that a pack was trained on.

With them, test clips that a pack was trained on are found (test-set contamination; Zhou et al.
2023, arXiv 2311.01964).

- A sentence has a hash of its letters, and a MinHash of its character 4-grams (Broder 1997): 128
  values, of each the lowest byte (b-bit MinHash; Li and Koenig 2010).
- A recording has a hash of its samples and, for every 64 ms of its first 8.2 s, a 32-bit
  sub-fingerprint: the signs of energy differences between neighbouring bands and frames (Haitsma
  and Kalker 2002).

A clip takes about half a kilobyte. Neither text nor sound can be recovered from it, but who knows a
sentence can find out whether it is there.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dualasr.atomic import atomic_file
from dualasr.audio.load import SAMPLE_RATE, Sound, load_audio
from dualasr.errors import AudioError, PackError
from dualasr.parallel import worker_pool
from dualasr.progress import progress_bar
from dualasr.text import normalise, scoring_unit

# Version of the format. A change to any number below makes older files incomparable, and needs a
# new version.
FORMAT = "dualasr fingerprints 1"
HASHES = 128  # the standard deviation of an estimated Jaccard similarity of 0.7 is 0.04
GRAM = 4  # characters
FRAME, HOP = 8192, 1024  # samples at 16 kHz: 512 ms and 64 ms
FRAMES = 128  # the most sub-fingerprints of a clip
BITS = 32  # of a sub-fingerprint

# Jaccard similarity of character 4-grams from which two sentences count as nearly the same.
# If one word is replaced in a sentence of 11 or more words, 97 % of the sentences stay at 0.7 or
# above, but only 53 % at 0.8. Between 2,000 sentences and 2,000 others, 1 pair of English is above
# 0.7, and 9 pairs of Kyrgyz, each of them one sentence that was edited.
SIMILAR = 0.7


# Edges of 33 bands from 300 to 2000 Hz, as rows of the spectrum. The bands have one ratio.
_EDGES = np.searchsorted(np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE), np.geomspace(300, 2000, BITS + 2))


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of n clips, in the order of the corpus.

    Attributes:
        sentence: uint64, shape (n,): hash of the letters, without case, punctuation and spaces; 0
            for a clip without text.
        words: uint16, shape (n,): number of words; of characters in a language written without
            spaces.
        minhash: uint8, shape (n, 128): MinHash of the character 4-grams.
        audio: uint64, shape (n,): hash of the samples at 16 kHz and 16 bit; 0 for a sound that
            cannot be read.
        frames: uint8, shape (n,): number of sub-fingerprints of each clip.
        acoustic: uint32, shape (frames.sum(),): sub-fingerprints of all clips, one clip after the
            other; 0 in digital silence.
    """

    sentence: np.ndarray
    words: np.ndarray
    minhash: np.ndarray
    audio: np.ndarray
    frames: np.ndarray
    acoustic: np.ndarray

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.sentence)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            RunError: The disk is full or unwritable.
        """
        with atomic_file(path) as part:
            part.write_bytes(save(vars(self), metadata={"format": FORMAT}))

    @classmethod
    def load(cls, path: str | Path) -> "Fingerprints":
        """Read a file that `save` wrote.

        Raises:
            PackError: The file is missing, damaged or of another format.
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
        n = len(np.atleast_1d(arrays.get("sentence", 0)))
        total = int(np.sum(arrays.get("frames", 0), dtype=np.int64))
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
    """Return the fingerprints of several corpora as one, one corpus after the other."""
    return Fingerprints(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Fingerprints)
        )
    )


def fingerprint(
    clips: Iterable[tuple[Sound, str, str]], *, progress: bool | None = None
) -> Fingerprints:
    """Compute the fingerprints of clips.

    Args:
        clips: Sound, text and language code of each clip.
        progress: Whether to show a progress bar; None shows it on a terminal.

    Returns:
        Fingerprints in the order of the clips. A sound that cannot be read has only those of its
        text, and a clip without text only those of its sound.
    """
    clips = list(clips)
    with worker_pool() as (pool, _):
        results = pool.map(_sound, [sound for sound, _, _ in clips])
        sounds = list(
            progress_bar(
                results, desc="fingerprints", total=len(clips), unit="clip", shown=progress
            )
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
    """Apply the finaliser of splitmix64 (Steele et al. 2014), a permutation of 64-bit numbers."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_SEEDS = _mix(np.arange(1, HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _sentence(text: str, language: str) -> tuple[int, int, np.ndarray]:
    """Return the hash of a sentence, its number of words, and its MinHash, shape (128,) uint8.

    1. Hash each character 4-gram of the normalised text, a space at both ends, to 64 bits.
    2. Make 128 hash functions from that one: mix its value with 128 different seeds.
    3. Of each function keep the smallest value over all 4-grams. The share of equal values of two
       sentences estimates the Jaccard similarity of their sets of 4-grams.
    """
    text = normalise(text, "marks")
    # without spaces "ice-cream" equals "icecream", and Chinese with spaces Chinese without them
    letters = text.replace(" ", "")
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
    """Return the hash of a sound and its sub-fingerprints, shape (frames,) uint32."""
    try:
        samples = load_audio(sound)
    except AudioError:
        return 0, np.zeros(0, np.uint32)
    exact = np.rint(np.clip(samples * 32768, -32768, 32767)).astype("<i2")
    return _hash(exact.tobytes()), _sub_fingerprints(samples)


def _sub_fingerprints(samples: np.ndarray) -> np.ndarray:
    """Compute sub-fingerprints (Haitsma and Kalker 2002), (samples,) -> (frames,) uint32.

    1. Take the energy in 33 bands of frames of 512 ms, 64 ms apart. Half a frame of silence is put
       before the sound, so that sub-fingerprint t is centred on sample (t + 1) * HOP.
    2. Take the difference of each band from the next one: 32 values.
    3. A bit is 1 where a difference is larger than in the frame before.
    """
    padded = np.pad(samples[: FRAME // 2 + FRAMES * HOP].astype(np.float64), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: FRAMES + 1]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2
    energy = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    slope = energy[:, :-1] - energy[:, 1:]
    return np.packbits(slope[1:] > slope[:-1], axis=1).view(">u4")[:, 0].astype(np.uint32)
