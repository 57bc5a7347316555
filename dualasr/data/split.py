"""Split a corpus into train, dev and test that share no sentence: `dualasr corpus split`.

Clips that share a sentence form a group. With `by_speaker`, so do clips that share a speaker. Whole
groups are assigned to splits, in an order drawn with a seed.
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
    """How to split a corpus.

    Attributes:
        dev: Share of the clips for dev, in 0..1.
        test: Share of the clips for test, in 0..1; train has the rest.
        by_speaker: Whether a speaker may be in one split only.
        seed: Seed of the order of the groups.
    """

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
    """Write out/manifest.jsonl, which assigns all clips of a corpus to new splits.

    Args:
        path: A corpus in any layout of `load_corpus`; its own splits are ignored.
        out: Folder of the manifest.
        options: Shares and seed.
        default_language: Language of rows that name none.
        columns: Names of a table's columns.
        tier: The only tier of annotations to read.

    Returns:
        Number of clips in "train", "dev" and "test", and of rows "skipped".

    Raises:
        RunError: The manifest exists already, or cannot be written.
        CorpusError: As `load_corpus` and `deal` raise it.
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
    """Return the split of each utterance, in their order.

    1. Put the groups of clips in random order.
    2. For dev and then for test, go through the groups that are left, and take each one that still
       fits into the share (a greedy solution of the knapsack problem).
    3. If none fits, take the smallest.
    4. The rest is train.

    Args:
        utterances: The clips.
        options: Shares and seed.

    Raises:
        CorpusError: The shares leave nothing for train, or a group is too large to be assigned.
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
        left, chosen = round(share * len(utterances)), []
        for group in order:
            if len(group) <= left:
                chosen.append(group)
                left -= len(group)
        if share and not chosen and order:
            chosen = [min(order, key=len)]
        used = {group[0] for group in chosen}
        order = [group for group in order if group[0] not in used]
        for i in (i for group in chosen for i in group):
            splits[i] = name
    if 2 * splits.count("train") < (1 - sum(shares.values())) * len(utterances) or any(
        share and name not in splits for name, share in shares.items()
    ):
        what = "a sentence or a speaker" if options.by_speaker else "a sentence"
        raise CorpusError(
            f"{len(max(groups, key=len))} of {len(utterances)} clips hang together, clip to clip by"
            f" {what}, and there are {len(groups)} such groups: too few for these shares. "
            + ("Split without --by-speaker." if options.by_speaker else "Ask for smaller shares.")
        )
    return splits


def _groups(utterances: Sequence[Utterance], by_speaker: bool) -> list[list[int]]:
    """Group the utterances that share a sentence or, by speaker, a known speaker.

    The groups are connected components, as indices of utterances, in the order of their first.
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
