"""Train, dev and test without a sentence in two of them, or a speaker: `dualasr corpus split`.

Clips that share a sentence (and, by speaker, clips that share a speaker) form a group; groups are
dealt in seeded order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dualasr.data.check import sentence_of
from dualasr.data.corpus import Columns, Utterance, load_corpus, write_manifest
from dualasr.errors import CorpusError, RunError


@dataclass(frozen=True)
class SplitOptions:
    """Shares of the clips for dev and test; train has the rest."""

    dev: float = 0.1
    test: float = 0.1
    by_speaker: bool = False
    seed: int = 1


def split_corpus(
    path: str | Path,
    out: Path,
    options: SplitOptions = SplitOptions(),
    *,
    default_language: str | None = None,
    columns: Columns = Columns(),
    tier: str | None = None,
) -> dict[str, int]:
    """Write out/manifest.jsonl with the clips of all splits of a corpus dealt anew; the clips of
    each split, and those skipped. Raises RunError if the manifest exists, CorpusError like
    `load_corpus` and `deal`.
    """
    manifest = out / "manifest.jsonl"
    if manifest.exists():
        raise RunError(
            f"{manifest} exists; choose another --out or remove it. Nothing was overwritten."
        )
    corpus = load_corpus(path, None, default_language=default_language, columns=columns, tier=tier)
    splits = deal(corpus.utterances, options)
    try:
        write_manifest(
            manifest,
            [replace(u, split=split) for u, split in zip(corpus.utterances, splits, strict=True)],
        )
    except OSError as error:
        raise RunError(f"Cannot write {manifest}: {error.strerror or error}.") from error
    return {name: splits.count(name) for name in ("train", "dev", "test")} | {
        "skipped": len(corpus.skipped)
    }


def deal(utterances: Sequence[Utterance], options: SplitOptions) -> list[str]:
    """The split of each utterance, in order. A split that no group fits gets the smallest group
    left.

    Raises CorpusError for shares that leave nothing for train, and where a group is too large to be
    dealt.
    """
    shares = {"dev": options.dev, "test": options.test}
    if not all(0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise CorpusError(
            f"dev {options.dev:g} and test {options.test:g} leave nothing for train or are no"
            " shares of 1."
        )
    groups = _groups(utterances, options.by_speaker)
    order = [groups[i] for i in np.random.default_rng(options.seed).permutation(len(groups))]
    splits = ["train"] * len(utterances)
    for name, share in shares.items():
        room, chosen = round(share * len(utterances)), []
        for group in order:
            if len(group) <= room:
                chosen.append(group)
                room -= len(group)
        if share and not chosen and order:
            chosen = [min(order, key=len)]
        taken = {group[0] for group in chosen}
        order = [group for group in order if group[0] not in taken]
        for i in (i for group in chosen for i in group):
            splits[i] = name
    if 2 * splits.count("train") < (1 - sum(shares.values())) * len(utterances) or any(
        share and name not in splits for name, share in shares.items()
    ):
        what = "a sentence or a speaker" if options.by_speaker else "a sentence"
        raise CorpusError(
            f"{len(max(groups, key=len))} of {len(utterances)} clips hang together, clip to clip by"
            f" {what}, and there are {len(groups)} such groups: too few to divide them as asked. "
            + ("Split without --by-speaker." if options.by_speaker else "Ask for smaller shares.")
        )
    return splits


def _groups(utterances: Sequence[Utterance], by_speaker: bool) -> list[list[int]]:
    """Connected components: utterances that share a sentence or, if asked, a known speaker; in
    order of their first.
    """
    from scipy.cluster.hierarchy import DisjointSet

    linked = DisjointSet(range(len(utterances)))
    first: dict[tuple[str, str], int] = {}
    for i, u in enumerate(utterances):
        keys = [("sentence", sentence_of(u))] + (
            [("speaker", u.speaker)] if by_speaker and u.speaker else []
        )
        for key in keys:
            linked.merge(first.setdefault(key, i), i)
    return [sorted(group) for group in linked.subsets()]
