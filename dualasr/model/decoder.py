"""What every decoder of a pack has in common: the interface that the searches call, dropout, and
the tag step.

A decoder has `start(encoded, lengths) -> (memory, state)`, two tuples of tensors whose first axis
is the batch: the memory stays, the state changes; and `step(tokens, memory, state) -> (log_probs,
state)`. Modules hold no hidden state.
"""

from typing import Protocol

import torch

State = tuple[torch.Tensor, ...]


def drop_clipwise(
    values: torch.Tensor, seeds: torch.Tensor | None, share: float, site: int
) -> torch.Tensor:
    """Dropout whose mask of a clip is drawn from the clip's own seed, whatever else is in the
    batch: (batch, ...) -> same.
    """
    if seeds is None or not share:
        return values
    masks = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(2 * seed + site)
        masks.append(torch.rand(values.shape[1:], generator=generator) >= share)
    return values * torch.stack(masks).to(values) / (1 - share)


def spell(logits: torch.Tensor, tag_step: torch.Tensor, is_tag: torch.Tensor) -> torch.Tensor:
    """Log-probabilities over the tags at the tag step, over all else at the others: (...,
    vocabulary), (...) -> same.
    """
    allowed = torch.where(tag_step.unsqueeze(-1), is_tag, ~is_tag)
    return logits.float().masked_fill(~allowed, -1e4).log_softmax(-1)


class StepDecoder(Protocol):
    """What the searches need of a decoder."""

    end: int

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]: ...

    def step(
        self, tokens: torch.Tensor, memory: State, state: State
    ) -> tuple[torch.Tensor, State]: ...
