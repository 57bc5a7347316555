"""Clips over cached trunk activations, and the batches that a run is made of.

Everything random is a function of (seed, step, clip).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dualasr.model.secondary import MOST_TOKENS
from dualasr.model.tokenizer import PackTokenizer
from dualasr.training.options import TrainingOptions


@dataclass(frozen=True)
class Clip:
    """A training or dev clip: its entries in the cache (one a variant) and its label; negatives
    have no label.
    """

    id: str
    entries: tuple[Path, ...]
    frames: int
    language: int = 0  # index in the language head: 0 other, 1.. the pack's languages
    text: str = ""
    tokens: tuple[int, ...] = ()
    characters: tuple[int, ...] = ()


@dataclass(frozen=True)
class SkippedClip:
    """A clip that training leaves out, and why."""

    id: str
    reason: str


def check_label(tokenizer: PackTokenizer, text: str, frames: int, frame_s: float) -> str | None:
    """Why a clip of so many encoder frames of `frame_s` seconds cannot be trained on, or None."""
    characters = tokenizer.encode_characters(text)
    if len(tokenizer.encode(text)) > MOST_TOKENS:
        return (
            f"its label has {len(tokenizer.encode(text))} tokens, the decoder holds {MOST_TOKENS}"
        )
    repeats = sum(a == b for a, b in zip(characters, characters[1:], strict=False))
    if len(characters) + repeats > frames:
        return (
            f"its label has {len(characters)} characters, too many for {frames * frame_s:.1f} s of"
            " sound"
        )
    if not characters:
        return "its label is empty"
    return None


def plan_batches(
    lengths: Sequence[int], negatives: Sequence[int], options: TrainingOptions
) -> list[list[tuple]]:
    """Micro-batches of (clip, position) for all steps, a function of the seed: clips of like
    length, random order.

    lengths of the training clips; of the negatives, whose indices follow them. `position` numbers a
    clip's uses, so that its variant and masks are functions of (seed, position). Accumulation
    splits a step's batch, it does not change it.
    """
    size, lengths = options.batch * options.accumulation, np.asarray(lengths)
    order = np.argsort(np.asarray(negatives, dtype=int), kind="stable")
    ranked = np.asarray(negatives, dtype=int)[order]
    count, steps, position, epoch = round(size * options.negatives) if len(ranked) else 0, [], 0, 0
    while len(steps) < options.steps:
        rng = np.random.default_rng([options.seed, epoch])
        chosen = rng.permutation(len(lengths))
        chosen = chosen[
            np.argsort(lengths[chosen] * rng.uniform(0.85, 1.15, len(chosen)), kind="stable")
        ]
        groups = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        for g in rng.permutation(len(groups)):
            group = [int(i) for i in groups[g]]
            near = np.searchsorted(ranked, lengths[group].max()) if count else 0
            low, high = max(0, near - 4 * count), min(len(ranked), max(near, 4 * count))
            group += [len(lengths) + int(order[rng.integers(low, high)]) for _ in range(count)]
            steps.append([(i, position + k) for k, i in enumerate(group)])
            position += len(group)
        epoch += 1
    batches = []
    for step in steps[: options.steps]:
        batches += [step[k :: options.accumulation] for k in range(options.accumulation)]
    return batches


class CachedClips(Dataset):
    """Items (clip, position) -> the clip's activations under the variant and time masks of that
    position; with no position (None) the clip has no label, and no loss.
    """

    def __init__(self, clips: Sequence[Clip], tokenizer: PackTokenizer, options: TrainingOptions):
        self.clips, self.tokenizer, self.options = clips, tokenizer, options

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: tuple[int, int | None]) -> dict:
        clip, rng = self.clips[item[0]], np.random.default_rng([self.options.seed, 7, item[1] or 0])
        values = np.load(clip.entries[rng.integers(len(clip.entries))]).astype(np.float32)
        for _ in range(2):
            size = int(rng.integers(0, int(len(values) * self.options.time_mask) + 1))
            start = int(rng.integers(0, len(values) - size + 1))
            values[start : start + size] = values.mean(0)
        end, other = self.tokenizer.end, self.tokenizer.other
        if clip.language == 0:
            tokens, labels = [end], [other]
        else:
            tag = 1 + clip.language  # ids: 0 end, 1 other, 2.. tags
            tokens, labels = [end, tag, *clip.tokens], [tag, *clip.tokens, end]
        characters = clip.characters
        if item[1] is None:
            labels, characters = [-100] * len(labels), ()
        return {
            "trunk": torch.from_numpy(values),
            "tokens": torch.tensor(tokens),
            "labels": torch.tensor(labels),
            "characters": torch.tensor(characters, dtype=torch.long),
            "seed": int(rng.integers(2**60)),
        }


def collate(items: list[dict]) -> dict[str, torch.Tensor]:
    """Pad a batch; see Secondary.forward for the shapes."""

    def pad(key: str, value: float) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [item[key] for item in items], batch_first=True, padding_value=value
        )

    return {
        "trunk": pad("trunk", 0.0),
        "lengths": torch.tensor([len(item["trunk"]) for item in items]),
        "tokens": pad("tokens", 0),
        "labels": pad("labels", -100),
        "characters": pad("characters", 0),
        "character_lengths": torch.tensor([len(item["characters"]) for item in items]),
        "seeds": torch.tensor([item["seed"] for item in items]),
    }
