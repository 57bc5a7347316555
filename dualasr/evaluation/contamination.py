"""Contamination: test clips that a pack was trained on, or that are similar to its training data
(Zhou et al. 2023, arXiv 2311.01964).

Both sides are fingerprints (data/fingerprints.py). Each search first finds equal values by sorting
and `searchsorted`, and then compares only the candidates:

Sentences (MinHash with banding: Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4)
1. Equal hashes of a sentence's letters are the same sentence.
2. The 128 bytes of a MinHash are cut into 32 bands of 4 bytes. Sentences that agree in a band are
   candidates: of pairs as similar as SIMILAR, all but 1 in 6,000 agree in one.
3. The share of equal bytes estimates their Jaccard similarity.

Recordings (Haitsma and Kalker 2002)
1. Equal hashes of the samples are the same recording.
2. A copy was changed (level, noise, coding, cut), so few of its 32-bit sub-fingerprints are equal.
   But often 24 of their bits are: two clips that share such a part are candidates, shifted so that
   both parts fall together.
3. At this shift the share of equal bits is measured; see MOST_DIFFERENT.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dualasr.data.fingerprints import BITS, FRAMES, SIMILAR, Fingerprints

# Of n sub-fingerprints of unrelated sound, a share of 0.5 +- 0.15 / sqrt(n) of the bits differs
# (measured on Kichwa, Swahili, FLEURS and digits; neighbouring bits and frames depend on each
# other). A match is 8 deviations below 0.5, and at most 0.33 (Haitsma and Kalker take 0.35).
DEVIATION, DEVIATIONS, MOST_DIFFERENT = 0.15, 8.0, 0.33
LEAST_FRAMES = 12  # compared at least: a digit that one speaker says twice alike has fewer
# Overlap as a share of the shorter clip: clips that share only a jingle are no copies.
LEAST_OVERLAP = 0.6
Kind = Literal["same recording", "similar recording", "same sentence", "similar sentence"]
# from the strongest to the weakest
KINDS: tuple[Kind, ...] = (
    "same recording",
    "similar recording",
    "same sentence",
    "similar sentence",
)
# number of ones in each 16-bit number
_ONES = (
    np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    .reshape(-1, 16)
    .sum(1, dtype=np.uint8)
)
_BLOCK = 4096  # sub-fingerprints of test clips that are looked up at once
_POSTINGS = 1000  # places of one key that are looked at: a hum in all clips must not fill memory
_VERIFIED = 1 << 14  # candidates that are compared at once
# for each test clip the index of its match, int, -1 for none, and the similarity: shape (clips,)
_Matches = tuple[np.ndarray, np.ndarray]
# two overlapping parts of a sub-fingerprint, 24 of its 32 bits each
_HALVES = (lambda word: word >> np.uint32(8), lambda word: word & np.uint32(0xFFFFFF))


@dataclass(frozen=True)
class Leak:
    """A test clip whose sentence or recording is in a pack's training data.

    Attributes:
        clip: Index of the test clip.
        pack: Name of the pack.
        kind: What is the same, or similar.
        similarity: 1 for the same; for similar sentences the estimated Jaccard similarity of their
            character 4-grams, for similar recordings the share of equal bits (unrelated ones have
            about 0.5).
        words: Number of words of the test sentence. Short sentences, as a greeting, are often
            shared by chance.
        match: Index of the clip in the pack's fingerprints.
    """

    clip: int
    pack: str
    kind: Kind
    similarity: float
    words: int
    match: int


def audit(test: Fingerprints, trained: Mapping[str, Fingerprints]) -> tuple[Leak, ...]:
    """Find the test clips that are in the training data of packs.

    A clip and a pack have at most two leaks: one of a recording and one of a sentence, each the
    strongest of its kinds.

    Args:
        test: Fingerprints of the test clips.
        trained: By pack, fingerprints of its training data.

    Returns:
        The leaks, sorted by clip, then by pack; recordings before sentences.
    """
    leaks = []
    for pack, data in trained.items():
        for (match, similarity), own, held, kinds in (
            (_recordings(test, data), test.audio, data.audio, KINDS[:2]),
            (_sentences(test, data), test.sentence, data.sentence, KINDS[2:]),
        ):
            for clip in np.flatnonzero(match >= 0).tolist():
                other = int(match[clip])
                leak = Leak(
                    clip=clip,
                    pack=pack,
                    kind=kinds[0] if own[clip] == held[other] else kinds[1],
                    similarity=float(similarity[clip]),
                    words=int(test.words[clip]),
                    match=other,
                )
                leaks.append(leak)
    # a stable sort: packs and kinds keep their order
    return tuple(sorted(leaks, key=lambda leak: leak.clip))


def _same(wanted: np.ndarray, held: np.ndarray) -> _Matches:
    """Return the first place of each hash in `held`, with similarity 1; the hash 0 has none."""
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
    """Replace matches by more similar ones, in place. `clip`, `other`, `value` are candidates."""
    order = np.argsort(value, kind="stable")
    order = order[value[order] > similarity[clip[order]]]
    # of several values written to one place the last stays: the most similar one
    match[clip[order]] = other[order]
    similarity[clip[order]] = value[order]


def _places(keys: np.ndarray, held: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of equal keys: indices into `keys`, and into `held` before it was sorted.

    `held` is sorted, by `order`. Of each key at most _POSTINGS places are returned.
    """
    low = np.searchsorted(held, keys)
    count = np.minimum(np.searchsorted(held, keys, side="right") - low, _POSTINGS)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(keys)), count), order[np.repeat(low, count) + within]


def _sentences(test: Fingerprints, pack: Fingerprints) -> _Matches:
    """Return the most similar sentence of a pack for every test clip."""
    # Distinct sentences only: a corpus of spoken commands has few sentences with thousands of clips
    hashes, first, clip_sentence = np.unique(test.sentence, return_index=True, return_inverse=True)
    held, rows = np.unique(pack.sentence, return_index=True)
    # 1. the same sentence
    match, similarity = _same(hashes, pack.sentence)
    left, rows = np.flatnonzero((match < 0) & (hashes != 0)), rows[held != 0]
    own, other = test.minhash[first[left]], pack.minhash[rows]
    # 2. candidates: sentences that agree in one of 32 bands of 4 bytes
    pairs = []
    for mine, theirs in zip(own.view(np.uint32).T, other.view(np.uint32).T, strict=True):
        order = np.argsort(theirs)
        i, j = _places(mine, theirs[order], order)
        pairs.append(i * len(rows) + j)
    i, j = np.divmod(np.unique(np.concatenate(pairs)), max(len(rows), 1))
    # 3. the estimated similarity of each pair
    for part in _slices(len(i)):
        agree = (own[i[part]] == other[j[part]]).mean(axis=1)
        jaccard = (256 * agree - 1) / 255  # one byte in 256 agrees by chance
        close = jaccard >= SIMILAR
        _keep_best(match, similarity, left[i[part][close]], rows[j[part][close]], jaccard[close])
    return match[clip_sentence], similarity[clip_sentence]


def _recordings(test: Fingerprints, pack: Fingerprints) -> _Matches:
    """Return the most similar recording of a pack for every test clip."""
    # 1. the same recording
    match, similarity = _same(test.audio, pack.audio)
    # 2. an index of the pack's sub-fingerprints by 24 of their bits; silence (0) has none
    own_clip, own_frame = _positions(test)
    clip, frame = _positions(pack)
    sounding = np.flatnonzero(pack.acoustic)
    index = []
    for half in _HALVES:
        keys = half(pack.acoustic[sounding])
        order = np.argsort(keys)
        index.append((half, keys[order], sounding[order]))
    left = np.flatnonzero((match[own_clip] < 0) & (test.acoustic != 0))
    for block in np.array_split(left, len(left) // _BLOCK + 1):
        # 3. candidates: pairs of clips and the shift between them, each once
        found = [_places(half(test.acoustic[block]), keys, order) for half, keys, order in index]
        mine = block[np.concatenate([i for i, _ in found])]
        theirs = np.concatenate([j for _, j in found])
        shift = frame[theirs] - own_frame[mine]
        code = (own_clip[mine] * len(pack) + clip[theirs]) * 2 * FRAMES + shift + FRAMES
        pairs, code = np.divmod(np.unique(code), 2 * FRAMES)
        i, j = np.divmod(pairs, max(len(pack), 1))
        # 4. the share of equal bits at this shift
        for part in _slices(len(i)):
            equal = _equal_bits(test, pack, i[part], j[part], code[part] - FRAMES)
            close = equal > 0
            _keep_best(match, similarity, i[part][close], j[part][close], equal[close])
    return match, similarity


def _positions(data: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """Return the clip of each sub-fingerprint, and its frame in the clip."""
    clip = np.repeat(np.arange(len(data)), data.frames)
    return clip, np.arange(len(clip)) - _starts(data)[clip]


def _starts(data: Fingerprints) -> np.ndarray:
    """Return the index of each clip's first sub-fingerprint."""
    frames = data.frames.astype(np.int64)
    return np.cumsum(frames) - frames


def _equal_bits(
    test: Fingerprints, pack: Fingerprints, i: np.ndarray, j: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return the share of equal bits of test clips i and pack clips j; 0 where that is no match.

    Frame t of a test clip is compared with frame t + shift of the pack's clip. Frames of silence
    are left out.
    """
    own, other = test.frames[i].astype(np.int64), pack.frames[j].astype(np.int64)
    low, high = np.maximum(0, -shift), np.minimum(own, other - shift)
    frame = np.arange(FRAMES)
    inside = (frame >= low[:, None]) & (frame < high[:, None])
    mine = test.acoustic[np.where(inside, _starts(test)[i][:, None] + frame, 0)]
    theirs = pack.acoustic[np.where(inside, (_starts(pack)[j] + shift)[:, None] + frame, 0)]
    inside &= (mine != 0) & (theirs != 0)
    differ = np.where(inside, mine ^ theirs, np.uint32(0)).view(np.uint16)
    compared = inside.sum(axis=1)
    share = _ONES[differ].sum(axis=1) / np.maximum(BITS * compared, 1)
    most = np.minimum(
        MOST_DIFFERENT, 0.5 - DEVIATIONS * DEVIATION / np.sqrt(np.maximum(compared, 1))
    )
    enough = (compared >= LEAST_FRAMES) & (high - low >= LEAST_OVERLAP * np.minimum(own, other))
    return np.where(enough & (share <= most), 1 - share, 0)


def _slices(count: int) -> Iterator[slice]:
    """Cut the indices below `count` into slices of at most _VERIFIED."""
    return (slice(start, start + _VERIFIED) for start in range(0, count, _VERIFIED))
