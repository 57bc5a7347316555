"""What a pack was trained on, as fingerprints, and which test clips are among it (Zhou et al. 2023, arXiv 2311.01964).

A sentence is a hash of its letters and a MinHash of its character 4-grams (Broder 1997), 128 values cut to a byte each (Li
and Koenig 2010). A recording is a hash of its samples and, for every 64 ms of its first 8.2 s, a 32-bit sub-fingerprint:
the signs of energy differences between neighbouring bands and frames (Haitsma and Kalker 2002). About half a kilobyte a
clip, from which neither text nor sound can be made again; that a sentence one already knows is in it can be found out.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from dualasr.audio import SAMPLE_RATE, Sound, load_audio
from dualasr.cores import core_pool
from dualasr.errors import AudioError, PackError
from dualasr.text import normalise, scoring_unit
from dualasr.whole_file import whole_file

FORMAT = "dualasr fingerprints 1"  # a change to any number below makes older files incomparable: count it up
HASHES = 128  # the standard deviation of an estimated Jaccard similarity of 0.7 is 0.04
GRAM = 4
FRAME, HOP, FRAMES = 8192, 1024, 128  # samples, samples, sub-fingerprints a clip at most
BITS = 32

# One word replaced in a sentence of 11 or more leaves 97 % of them at 0.7 or more, but only 53 % at 0.8; between 2,000 and
# 2,000 other sentences of English, 1 pair is above, of Kyrgyz 9, all of them the same sentence edited.
SIMILAR = 0.7
# Of n words of unrelated sound, 0.5 +- 0.15 / sqrt(n) of the bits differ (Kichwa, Swahili, FLEURS, digits: neighbouring
# bits and frames depend on each other). A match is 8 deviations below, or 0.33 (Haitsma and Kalker take 0.35).
DEVIATION, DEVIATIONS, MOST_DIFFERENT = 0.15, 8.0, 0.33
LEAST_FRAMES = 12  # a digit that one speaker says twice alike is shorter
LEAST_OVERLAP = 0.6  # of the shorter clip: music that ends one clip and begins another makes them no copies

Kind = Literal["same recording", "similar recording", "same sentence", "similar sentence"]
KINDS: tuple[Kind, ...] = ("same recording", "similar recording", "same sentence", "similar sentence")  # the strongest first

_ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1, dtype=np.uint8)
_EDGES = np.searchsorted(np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE), np.geomspace(300, 2000, BITS + 2))  # 33 bands
_BLOCK = 4096  # words of test clips looked up at once
_POSTINGS = 1000  # places of one key that are looked at, so that a hum in every clip does not fill the memory
_VERIFIED = 1 << 14  # candidates compared at once


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Fingerprints of n clips, in the order of the corpus. A hash of 0 says that there is no text, or no readable sound."""

    sentence: np.ndarray  # (n,) uint64, hash of the letters: no case, punctuation or spaces
    words: np.ndarray  # (n,) uint16, words of the sentence; characters in a language written without spaces
    minhash: np.ndarray  # (n, 128) uint8
    audio: np.ndarray  # (n,) uint64, hash of the samples, at 16 kHz and 16 bit
    frames: np.ndarray  # (n,) uint8, how many of `acoustic` are the clip's
    acoustic: np.ndarray  # (frames.sum(),) uint32, sub-fingerprints; 0 in digital silence

    def __len__(self) -> int:
        return len(self.sentence)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all. Raises OSError where the disk is full or unwritable."""
        with whole_file(path) as part:
            part.write_bytes(save(vars(self), metadata={"format": FORMAT}))

    @classmethod
    def load(cls, path: str | Path) -> "Fingerprints":
        """Read a file of `save`. Raises PackError for a file that is missing, damaged or of another format."""
        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("format")
                arrays = {name: file.get_tensor(name) for name in file.keys()} if found == FORMAT else {}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise PackError(f"{path} cannot be read as fingerprints ({error}); fetch the pack again.") from error
        if found != FORMAT:
            raise PackError(f"{path} holds {found!r}, not {FORMAT!r}; fingerprint the corpus with this dualasr.")
        n, total = len(np.atleast_1d(arrays.get("sentence", 0))), int(np.sum(arrays.get("frames", 0), dtype=np.int64))
        wanted = {"sentence": ("uint64", (n,)), "words": ("uint16", (n,)), "minhash": ("uint8", (n, HASHES)),
                  "audio": ("uint64", (n,)), "frames": ("uint8", (n,)), "acoustic": ("uint32", (total,))}  # fmt: skip
        shapes = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
        if shapes != wanted or (arrays["frames"] > FRAMES).any():
            raise PackError(f"{path} holds {shapes}, wanted {wanted}; it is damaged, fetch the pack again.")
        return cls(**arrays)


def join(parts: Sequence[Fingerprints]) -> Fingerprints:
    """The clips of several, one after the other."""
    return Fingerprints(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Fingerprints)))


@dataclass(frozen=True)
class Leak:
    """A test clip that is in a pack's training data, as a sentence or as a recording.

    `clip` and `match` are indices into the test's and the pack's fingerprints. `similarity` is 1 for the same; else the
    estimated Jaccard similarity of the sentences' 4-grams, or the share of equal bits of the recordings (unrelated: 0.5).
    `words` is the length of the test sentence, for a greeting of two words is shared without anybody's copying it.
    """

    clip: int
    pack: str
    kind: Kind
    similarity: float
    words: int
    match: int


@dataclass(frozen=True)
class Inflation:
    """Error rates over all clips, over those that did not leak and over those that did; None where nothing is left."""

    all: float | None
    clean: float | None
    leaked: float | None


def fingerprint(clips: Iterable[tuple[Sound, str, str]], *, progress: bool | None = None) -> Fingerprints:
    """Fingerprints of clips, each a sound, what is said in it and the language's code, in their order.

    A sound that cannot be read keeps its sentence alone, a clip without text its sound. `progress` None shows a bar on a
    terminal.
    """
    clips = list(clips)
    hidden = None if progress is None else not progress
    with core_pool() as (pool, _):
        sounds = pool.map(_sound, [sound for sound, _, _ in clips])
        sounds = list(tqdm(sounds, total=len(clips), desc="fingerprints", unit="clip", disable=hidden))
    sentences = [_sentence(text, language) for _, text, language in clips]
    return Fingerprints(
        np.array([hash for hash, _, _ in sentences], np.uint64),
        np.array([words for _, words, _ in sentences], np.uint16),
        np.array([minhash for _, _, minhash in sentences], np.uint8).reshape(-1, HASHES),
        np.array([hash for hash, _ in sounds], np.uint64),
        np.array([len(acoustic) for _, acoustic in sounds], np.uint8),
        np.concatenate([np.zeros(0, np.uint32), *(acoustic for _, acoustic in sounds)]),
    )


def audit(test: Fingerprints, trained: Mapping[str, Fingerprints]) -> tuple[Leak, ...]:
    """The test clips that leaked into the training data of packs, by clip, then by pack, then the strongest first.

    A clip and a pack have at most two leaks, the strongest of the recording's kinds and of the sentence's: another reader
    of the same sentence is one, another cut of the same recording with another text is the other.
    """
    leaks = []
    for pack, data in trained.items():
        for (match, similarity), own, held, kinds in (
            (_recordings(test, data), test.audio, data.audio, KINDS[:2]),
            (_sentences(test, data), test.sentence, data.sentence, KINDS[2:]),
        ):
            for clip in np.flatnonzero(match >= 0).tolist():
                other = int(match[clip])
                kind = kinds[0] if own[clip] == held[other] else kinds[1]
                leaks.append(Leak(clip, pack, kind, float(similarity[clip]), int(test.words[clip]), other))
    return tuple(sorted(leaks, key=lambda leak: leak.clip))  # stable: packs and kinds stay in their order


def inflation(errors: Sequence[float], lengths: Sequence[float], leaked: Collection[int]) -> Inflation:
    """What leaked clips do to an error rate: errors and reference lengths of each clip, indices of those that leaked."""
    errors, lengths = np.asarray(errors), np.asarray(lengths)
    out = np.isin(np.arange(len(errors)), list(leaked))

    def rate(of: np.ndarray) -> float | None:
        return float(errors[of].sum() / lengths[of].sum()) if lengths[of].sum() else None

    return Inflation(rate(out | True), rate(~out), rate(out))


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
    return _hash(letters.encode()), min(words, 0xFFFF), _mix(grams[:, None] ^ _SEEDS).min(axis=0).astype(np.uint8)


def _sound(sound: Sound) -> tuple[int, np.ndarray]:
    """Hash, sub-fingerprints (frames,) uint32."""
    try:
        samples = load_audio(sound)
    except AudioError:
        return 0, np.zeros(0, np.uint32)
    exact = np.rint(np.clip(samples * 32768, -32768, 32767)).astype("<i2")
    return _hash(exact.tobytes()), _sub_fingerprints(samples)


def _sub_fingerprints(samples: np.ndarray) -> np.ndarray:
    """(samples,) at 16 kHz -> (frames,) uint32; frame t is centred on sample (t + 1) * HOP, and half silence at the start."""
    padded = np.pad(samples[: FRAME // 2 + FRAMES * HOP].astype(np.float64), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP][: FRAMES + 1]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2
    energy = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    slope = energy[:, :-1] - energy[:, 1:]
    return np.packbits(slope[1:] > slope[:-1], axis=1).view(">u4")[:, 0].astype(np.uint32)


_Matches = tuple[np.ndarray, np.ndarray]  # for each test clip the index of its match, -1 for none, and the similarity


def _same(wanted: np.ndarray, held: np.ndarray) -> _Matches:
    """Where each hash stands first in `held`; 0 stands nowhere."""
    order = np.argsort(held, kind="stable")
    place = np.searchsorted(held, wanted, sorter=order)
    found = (np.append(held[order], np.uint64(0))[place] == wanted) & (wanted != 0)
    return np.where(found, np.append(order, -1)[place], -1), found.astype(np.float64)


def _keep_best(match: np.ndarray, similarity: np.ndarray, clip: np.ndarray, other: np.ndarray, value: np.ndarray) -> None:
    """Write each clip's most similar match over a less similar one."""
    order = np.argsort(value, kind="stable")
    order = order[value[order] > similarity[clip[order]]]
    match[clip[order]] = other[order]  # of several writes to one place the last stays
    similarity[clip[order]] = value[order]


def _places(keys: np.ndarray, held: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (index of a key, index into the unsorted held) of equal keys; `held` is sorted by `order`."""
    low = np.searchsorted(held, keys)
    count = np.minimum(np.searchsorted(held, keys, side="right") - low, _POSTINGS)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(keys)), count), order[np.repeat(low, count) + within]


def _sentences(test: Fingerprints, pack: Fingerprints) -> _Matches:
    # Distinct sentences only: a corpus of spoken commands has a few, thousands of times each.
    hashes, first, clip_sentence = np.unique(test.sentence, return_index=True, return_inverse=True)
    held, rows = np.unique(pack.sentence, return_index=True)
    match, similarity = _same(hashes, pack.sentence)
    left, rows = np.flatnonzero((match < 0) & (hashes != 0)), rows[held != 0]
    own, other = test.minhash[first[left]], pack.minhash[rows]
    pairs = []  # those that agree in one of 32 bands of 4 bytes: of pairs as similar as SIMILAR, all but 1 in 6,000
    for mine, theirs in zip(own.view(np.uint32).T, other.view(np.uint32).T, strict=True):
        order = np.argsort(theirs)
        i, j = _places(mine, theirs[order], order)
        pairs.append(i * len(rows) + j)
    i, j = np.divmod(np.unique(np.concatenate(pairs)), max(len(rows), 1))
    for part in _slices(len(i)):
        agree = (own[i[part]] == other[j[part]]).mean(axis=1)
        jaccard = (256 * agree - 1) / 255  # a byte agrees by chance once in 256
        close = jaccard >= SIMILAR
        _keep_best(match, similarity, left[i[part][close]], rows[j[part][close]], jaccard[close])
    return match[clip_sentence], similarity[clip_sentence]


def _recordings(test: Fingerprints, pack: Fingerprints) -> _Matches:
    match, similarity = _same(test.audio, pack.audio)
    own_clip, own_frame = _positions(test)
    clip, frame = _positions(pack)
    sounding = np.flatnonzero(pack.acoustic)
    index = []  # exact halves of a word, 24 of its 32 bits each: every copy measured shares several
    for half in _HALVES:
        keys = half(pack.acoustic[sounding])
        order = np.argsort(keys)
        index.append((half, keys[order], sounding[order]))
    left = np.flatnonzero((match[own_clip] < 0) & (test.acoustic != 0))
    for block in np.array_split(left, len(left) // _BLOCK + 1):
        found = [_places(half(test.acoustic[block]), keys, order) for half, keys, order in index]
        mine, theirs = block[np.concatenate([i for i, _ in found])], np.concatenate([j for _, j in found])
        code = (own_clip[mine] * len(pack) + clip[theirs]) * 2 * FRAMES + frame[theirs] - own_frame[mine] + FRAMES
        pairs, offset = np.divmod(np.unique(code), 2 * FRAMES)
        i, j = np.divmod(pairs, max(len(pack), 1))
        for part in _slices(len(i)):
            equal = _equal_bits(test, pack, i[part], j[part], offset[part] - FRAMES)
            close = equal > 0
            _keep_best(match, similarity, i[part][close], j[part][close], equal[close])
    return match, similarity


_HALVES = (lambda word: word >> np.uint32(8), lambda word: word & np.uint32(0xFFFFFF))


def _positions(data: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """The clip of each sub-fingerprint, and its frame in the clip."""
    clip = np.repeat(np.arange(len(data)), data.frames)
    return clip, np.arange(len(clip)) - _starts(data)[clip]


def _starts(data: Fingerprints) -> np.ndarray:
    frames = data.frames.astype(np.int64)
    return np.cumsum(frames) - frames


def _equal_bits(test: Fingerprints, pack: Fingerprints, i: np.ndarray, j: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Share of equal bits of the clips i and j, whose frame t + offset sounds with t; 0 where that is no match."""
    own, other = test.frames[i].astype(np.int64), pack.frames[j].astype(np.int64)
    low, high = np.maximum(0, -offset), np.minimum(own, other - offset)
    frame = np.arange(FRAMES)
    inside = (frame >= low[:, None]) & (frame < high[:, None])
    mine = test.acoustic[np.where(inside, _starts(test)[i][:, None] + frame, 0)]
    theirs = pack.acoustic[np.where(inside, (_starts(pack)[j] + offset)[:, None] + frame, 0)]
    inside &= (mine != 0) & (theirs != 0)
    differ = np.where(inside, mine ^ theirs, np.uint32(0)).view(np.uint16)
    heard = inside.sum(axis=1)
    share = _ONES[differ].sum(axis=1) / np.maximum(BITS * heard, 1)
    most = np.minimum(MOST_DIFFERENT, 0.5 - DEVIATIONS * DEVIATION / np.sqrt(np.maximum(heard, 1)))
    enough = (heard >= LEAST_FRAMES) & (high - low >= LEAST_OVERLAP * np.minimum(own, other))
    return np.where(enough & (share <= most), 1 - share, 0)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + _VERIFIED) for start in range(0, count, _VERIFIED))
