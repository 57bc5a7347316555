"""What all decoders of packs have in common: their interface, dropout and the tag step."""

from typing import Protocol

import torch

State = tuple[torch.Tensor, ...]


def drop_clipwise(
    values: torch.Tensor, seeds: torch.Tensor | None, share: float, site: int
) -> torch.Tensor:
    """Apply dropout with a mask that depends on the clip's seed alone.

    A clip then has the same mask in every batch, on every device and after a resume.

    Args:
        values: (batch, ...) activations.
        seeds: (batch,) a seed for each clip; None for no dropout.
        share: Share of the activations that become 0; the others grow by 1 / (1 - share).
        site: 0 or 1: the place in the decoder, so that two places have different masks.

    Returns:
        Activations of the same shape.
    """
    if seeds is None or not share:
        return values
    masks = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(2 * seed + site)
        masks.append(torch.rand(values.shape[1:], generator=generator) >= share)
    return values * torch.stack(masks).to(values) / (1 - share)


def spell(logits: torch.Tensor, tag_step: torch.Tensor, is_tag: torch.Tensor) -> torch.Tensor:
    """Normalise logits over the tags at the tag step, and over all other units at other steps.

    Args:
        logits: (..., vocabulary) logits.
        tag_step: (...) bool, whether a step predicts the tag.
        is_tag: (vocabulary,) bool, whether a unit is a tag.

    Returns:
        (..., vocabulary) log-probabilities, about -1e4 for what is not allowed.
    """
    allowed = torch.where(tag_step.unsqueeze(-1), is_tag, ~is_tag)
    return logits.float().masked_fill(~allowed, -1e4).log_softmax(-1)


class StepDecoder(Protocol):
    """A decoder that predicts one token a step.

    Memory and state are tuples of tensors whose first axis is the batch. The memory stays the same
    over all steps, the state changes. The module itself keeps nothing between steps.
    """

    end: int

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """Return memory and state of (batch, frames, width) encoder output and (batch,) frames."""
        ...

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """Return log-probabilities (batch, vocabulary) after tokens (batch,), and the new state."""
        ...
