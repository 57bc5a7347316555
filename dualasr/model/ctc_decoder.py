"""A pack without a decoder: the tag from the mean of the encoder output, the text from CTC."""

import torch
from torch import nn

from dualasr.model.decoder import State, drop_clipwise, spell


class TagDecoder(nn.Module):
    """A decoder whose only step is the first one, which predicts the language tag.

    Args:
        first_text: Size of the vocabulary: end and tags (`PackTokenizer.first_text`).
        width: Features of a frame.
    """

    kind, end, spells = "ctc", 0, False
    dropout = 0.2
    is_tag: torch.Tensor

    def __init__(self, first_text: int, width: int):
        super().__init__()
        self.output = nn.Linear(width, first_text)
        is_tag = torch.ones(first_text, dtype=torch.bool)
        is_tag[self.end] = False
        self.register_buffer("is_tag", is_tag, persistent=False)

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """Return memory and state of (batch, frames, width) encoder output and (batch,) frames.

        The memory is empty; the state is the mean over each clip's frames.
        """
        inside = torch.arange(encoded.shape[1], device=encoded.device) < lengths.unsqueeze(1)
        return (), ((encoded * inside.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1),)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """Return log-probabilities (batch, first_text) of the tag, and the same state."""
        tag_step = torch.ones_like(tokens, dtype=torch.bool)
        return spell(self.output(state[0]), tag_step, self.is_tag), state

    def forward(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        seeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the tag step's log-probabilities (batch, 1, first_text).

        Args:
            encoded: (batch, frames, width) encoder output.
            lengths: (batch,) frames of each clip.
            tokens: (batch, steps) tokens, of which only the number of rows matters.
            seeds: (batch,) seeds of the dropout; None for none.
        """
        memory, (pooled,) = self.start(encoded, lengths)
        pooled = drop_clipwise(pooled, seeds, self.dropout, 0)
        log_probs, _ = self.step(tokens[:, 0], memory, (pooled,))
        return log_probs.unsqueeze(1)
