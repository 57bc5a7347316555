"""Find test clips that a pack was trained on, or nearly, by its fingerprints (Zhou et al. 2023,
arXiv 2311.01964).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dualasr.data.fingerprints import BITS, FRAMES, SIMILAR, Fingerprints

# Of n words of unrelated sound, 0.5 +- 0.15 / sqrt(n) of the bits differ (Kichwa, Swahili, FLEURS,
# digits: neighbouring bits and frames depend on each other). A match is 8 deviations below, or 0.33
# (Haitsma and Kalker take 0.35).
DEVIATION, DEVIATIONS, MOST_DIFFERENT = 0.15, 8.0, 0.33
LEAST_FRAMES = 12  # a digit that one speaker says twice alike is shorter
# of the shorter clip: music that ends one clip and begins another makes them no copies
LEAST_OVERLAP = 0.6
Kind = Literal["same recording", "similar recording", "same sentence", "similar sentence"]
# the strongest first
KINDS: tuple[Kind, ...] = (
    "same recording",
    "similar recording",
    "same sentence",
    "similar sentence",
)
_ONES = (
    np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    .reshape(-1, 16)
    .sum(1, dtype=np.uint8)
)
_BLOCK = 4096  # words of test clips looked up at once
# places of one key that are looked at, so that a hum in every clip does not fill the memory
_POSTINGS = 1000
_VERIFIED = 1 << 14  # candidates compared at once
# for each test clip the index of its match, -1 for none, and the similarity
_Matches = tuple[np.ndarray, np.ndarray]
_HALVES = (lambda word: word >> np.uint32(8), lambda word: word & np.uint32(0xFFFFFF))


@dataclass(frozen=True)
class Leak:
    """A test clip that is in a pack's training data, as a sentence or as a recording.

    `clip` and `match` are indices into the test's and the pack's fingerprints. `similarity` is 1
    for the same; else the estimated Jaccard similarity of the sentences' 4-grams, or the share of
    equal bits of the recordings (unrelated: 0.5). `words` is the length of the test sentence, for a
    greeting of two words is shared without anybody's copying it.
    """

    clip: int
    pack: str
    kind: Kind
    similarity: float
    words: int
    match: int


def audit(test: Fingerprints, trained: Mapping[str, Fingerprints]) -> tuple[Leak, ...]:
    """The test clips that leaked into the training data of packs, by clip, then by pack, then the
    strongest first.

    A clip and a pack have at most two leaks, the strongest of the recording's kinds and of the
    sentence's: another reader of the same sentence is one, another cut of the same recording with
    another text is the other.
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
                leaks.append(
                    Leak(clip, pack, kind, float(similarity[clip]), int(test.words[clip]), other)
                )
    # stable: packs and kinds stay in their order
    return tuple(sorted(leaks, key=lambda leak: leak.clip))


def _same(wanted: np.ndarray, held: np.ndarray) -> _Matches:
    """Where each hash stands first in `held`; 0 stands nowhere."""
    order = np.argsort(held, kind="stable")
    place = np.searchsorted(held, wanted, sorter=order)
    found = (np.append(held[order], np.uint64(0))[place] == wanted) & (wanted != 0)
    return np.where(found, np.append(order, -1)[place], -1), found.astype(np.float64)


def _keep_best(
    match: np.ndarray,
    similarity: np.ndarray,
    clip: np.ndarray,
    other: np.ndarray,
    value: np.ndarray,
) -> None:
    """Write each clip's most similar match over a less similar one."""
    order = np.argsort(value, kind="stable")
    order = order[value[order] > similarity[clip[order]]]
    match[clip[order]] = other[order]  # of several writes to one place the last stays
    similarity[clip[order]] = value[order]


def _places(keys: np.ndarray, held: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (index of a key, index into the unsorted held) of equal keys; `held` is sorted by
    `order`.
    """
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
    # those that agree in one of 32 bands of 4 bytes: of pairs as similar as SIMILAR, all but 1 in
    # 6,000
    pairs = []
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
        mine, theirs = (
            block[np.concatenate([i for i, _ in found])],
            np.concatenate([j for _, j in found]),
        )
        code = (
            (own_clip[mine] * len(pack) + clip[theirs]) * 2 * FRAMES
            + frame[theirs]
            - own_frame[mine]
            + FRAMES
        )
        pairs, offset = np.divmod(np.unique(code), 2 * FRAMES)
        i, j = np.divmod(pairs, max(len(pack), 1))
        for part in _slices(len(i)):
            equal = _equal_bits(test, pack, i[part], j[part], offset[part] - FRAMES)
            close = equal > 0
            _keep_best(match, similarity, i[part][close], j[part][close], equal[close])
    return match, similarity


def _positions(data: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """The clip of each sub-fingerprint, and its frame in the clip."""
    clip = np.repeat(np.arange(len(data)), data.frames)
    return clip, np.arange(len(clip)) - _starts(data)[clip]


def _starts(data: Fingerprints) -> np.ndarray:
    frames = data.frames.astype(np.int64)
    return np.cumsum(frames) - frames


def _equal_bits(
    test: Fingerprints, pack: Fingerprints, i: np.ndarray, j: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Share of equal bits of the clips i and j, whose frame t + offset sounds with t; 0 where that
    is no match.
    """
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
