"""Clips over cached trunk activations, and the plan of a run's batches.

Everything random is a function of the seed and of a clip's position in the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dualasr.model.secondary import MOST_TOKENS, Secondary
from dualasr.model.tokenizer import PackTokenizer
from dualasr.training.options import TrainingOptions

Item = tuple[int, int | None]  # a clip's index, and the position of this use of it
MOST_BYTES = 200_000_000  # that a share of a batch keeps for the backward pass
NEGATIVE_FRAMES = 200  # of a negative are used at a time, 4 s: they teach the tag alone
FRAME_STEP, TOKEN_STEP = 16, 4  # lengths in a share are multiples of these


@dataclass(frozen=True)
class Clip:
    """A training or dev clip: its entries in the trunk cache, and its label. Negatives have none.

    Attributes:
        id: Name of the clip.
        entries: Files of the trunk cache, one a variant.
        frames: Encoder frames of the shortest variant.
        language: Class in the language head: 0 for other languages, 1 and up for the pack's.
        text: The label.
        tokens: The label as text units.
        characters: The label as units of the CTC head.
    """

    id: str
    entries: tuple[Path, ...]
    frames: int
    language: int = 0
    text: str = ""
    tokens: tuple[int, ...] = ()
    characters: tuple[int, ...] = ()


@dataclass(frozen=True)
class SkippedClip:
    """A clip that training leaves out, and why."""

    id: str
    reason: str


def check_label(tokenizer: PackTokenizer, text: str, frames: int, frame_s: float) -> str | None:
    """Check that a clip can be trained on.

    CTC needs a frame for each character, and a blank between two equal ones.

    Args:
        tokenizer: The pack's vocabulary.
        text: The clip's label.
        frames: Its encoder frames.
        frame_s: Seconds of a frame.

    Returns:
        Why it cannot be trained on, or None.
    """
    tokens, characters = tokenizer.encode(text), tokenizer.encode_characters(text)
    if len(tokens) > MOST_TOKENS:
        return f"its label has {len(tokens)} tokens, the decoder holds {MOST_TOKENS}"
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
) -> list[list[Item]]:
    """Plan the micro-batches of all steps: clips of like length together, in random order.

    The plan is a function of the seed alone, so that a resumed run goes on with the same batches.
    In every epoch:

    1. The clips are sorted by length, each length multiplied by a random factor from 0.85 to 1.15.
       So a batch needs little padding, and its clips differ from epoch to epoch.
    2. The sorted clips are cut into groups, one a step, and the groups are shuffled.
    3. A group gets its negatives: random ones among those about as long as its longest clip.
    4. The clips get positions, which count all uses of clips. A clip's variant and masks are drawn
       from (seed, position).

    At the end each step is dealt out to its micro-batches. So accumulation divides a step's clips,
    and does not change them.

    Args:
        lengths: Encoder frames of each training clip.
        negatives: Encoder frames of each negative; their indices follow those of the training
            clips.
        options: Steps, batch, accumulation, share of negatives and seed.

    Returns:
        steps x accumulation micro-batches of (clip's index, position).
    """
    frames, foreign = np.asarray(lengths), np.asarray(negatives, dtype=int)
    by_length = np.argsort(foreign, kind="stable")
    sorted_frames = foreign[by_length]
    size = options.batch * options.accumulation
    count = round(size * options.negatives) if len(foreign) else 0
    steps: list[list[Item]] = []
    position, epoch = 0, 0
    while len(steps) < options.steps:
        rng = np.random.default_rng([options.seed, epoch])
        # 1
        order = rng.permutation(len(frames))
        jittered = frames[order] * rng.uniform(0.85, 1.15, len(order))
        order = order[np.argsort(jittered, kind="stable")]
        # 2
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        for g in rng.permutation(len(groups)):
            group = [int(i) for i in groups[g]]
            # 3
            near = int(np.searchsorted(sorted_frames, frames[group].max())) if count else 0
            low, high = max(0, near - 4 * count), min(len(foreign), max(near, 4 * count))
            group += [len(frames) + int(by_length[rng.integers(low, high)]) for _ in range(count)]
            # 4
            steps.append([(i, position + k) for k, i in enumerate(group)])
            position += len(group)
        epoch += 1
    batches = []
    for step in steps[: options.steps]:
        batches += [step[k :: options.accumulation] for k in range(options.accumulation)]
    return batches


class CachedClips(Dataset):
    """Clips as training examples: item (clip's index, position) gives the clip's activations.

    Variant, time masks and the stretch of a long negative are drawn from (seed, position). At
    position None the clip has no labels, so that it adds nothing to the loss.
    """

    def __init__(self, clips: Sequence[Clip], tokenizer: PackTokenizer, options: TrainingOptions):
        self.clips, self.tokenizer, self.options = clips, tokenizer, options

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, item: Item) -> dict:
        index, position = item
        clip, rng = self.clips[index], np.random.default_rng([self.options.seed, 7, position or 0])
        values = np.load(clip.entries[rng.integers(len(clip.entries))]).astype(np.float32)
        if clip.language == 0 and len(values) > NEGATIVE_FRAMES:
            start = int(rng.integers(0, len(values) - NEGATIVE_FRAMES + 1))
            values = values[start : start + NEGATIVE_FRAMES]
        # SpecAugment's time masks (Park et al. 2019), on activations: the mean in place of frames
        for _ in range(2):
            size = int(rng.integers(0, int(len(values) * self.options.time_mask) + 1))
            start = int(rng.integers(0, len(values) - size + 1))
            values[start : start + size] = values.mean(0)
        end, other = self.tokenizer.end, self.tokenizer.other
        if clip.language == 0:
            tokens, labels = [end], [other]
        else:
            tag = 1 + clip.language  # ids: 0 end, 1 other, 2 and up the tags
            tokens, labels = [end, tag, *clip.tokens], [tag, *clip.tokens, end]
        characters = clip.characters
        if position is None:
            labels, characters = [-100] * len(labels), ()
        return {
            "trunk": torch.from_numpy(values),
            "tokens": torch.tensor(tokens),
            "labels": torch.tensor(labels),
            "characters": torch.tensor(characters, dtype=torch.long),
            "seed": int(rng.integers(2**60)),
        }


def collate(items: list[dict]) -> dict[str, torch.Tensor]:
    """Pad clips to a batch, in the shapes of `Secondary.forward`."""

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


def share_frames(secondary: Secondary) -> int:
    """Return how many frames a share of a batch may hold, so that it keeps MOST_BYTES at most.

    What a frame keeps for the backward pass was counted on a genuine whisper-base: 36 activations
    of the model's width in an adapted layer of the encoder, and 12 in one of the decoder.
    """
    decoder = len(getattr(secondary.decoder, "layers", ()))
    kept = max(1, 36 * len(secondary.layers) + 12 * decoder)
    return MOST_BYTES // (2 * kept * secondary.ctc_head.in_features)


def shares_of(
    batch: dict[str, torch.Tensor], cores: int, most_frames: int
) -> list[dict[str, torch.Tensor]]:
    """Divide a batch into shares of clips of like length, each with little padding.

    The longest come first, and negatives are apart, since they have no text. A small batch has a
    share for each core. Lengths are rounded up, so that
    shapes recur: torch keeps compiled code for each shape that it has met.

    Args:
        batch: What `collate` returns.
        cores: Number of shares that are computed at a time.
        most_frames: Most frames of a share, with its padding; a share has one clip at least. So the
            memory of a step is bounded.
    """
    lengths = batch["lengths"].tolist()
    spoken = (batch["character_lengths"] > 0).tolist()
    order = sorted(range(len(lengths)), key=lambda i: (spoken[i], lengths[i]), reverse=True)
    most = min(most_frames, sum(lengths) / cores)
    groups: list[list[int]] = []
    for i in order:
        first = groups[-1][0] if groups else i
        fits = groups and (len(groups[-1]) + 1) * lengths[first] <= most
        if fits and spoken[first] == spoken[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [_trimmed({key: value[group] for key, value in batch.items()}) for group in groups]


def _trimmed(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut off what is padding in every clip of a batch, but for the rounding."""

    def fitted(key: str, size: int, step: int, value: float = 0.0) -> torch.Tensor:
        width = -(-size // step) * step
        values = batch[key][:, :width]
        more = values.new_full((len(values), width - values.shape[1], *values.shape[2:]), value)
        return torch.cat([values, more], 1)

    labels = max(1, int((batch["labels"] != -100).sum(1).max()))
    return batch | {
        "trunk": fitted("trunk", int(batch["lengths"].max()), FRAME_STEP),
        "tokens": fitted("tokens", labels, TOKEN_STEP),
        "labels": fitted("labels", labels, TOKEN_STEP, -100),
        "characters": fitted("characters", int(batch["character_lengths"].max()), 1),
    }
