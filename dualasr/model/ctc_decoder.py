"""No decoder at all: the tag from the mean of the encoder's output, the text from the CTC head
alone.
"""

import torch
from torch import nn

from dualasr.model.decoder import State, drop_clipwise, spell


class TagDecoder(nn.Module):
    """Has the first step of a decoder, which names the language, and no other; its vocabulary ends
    with the tags.
    """

    kind, end, spells = "ctc", 0, False
    dropout = 0.2

    def __init__(self, first_text: int, width: int):
        super().__init__()
        self.output = nn.Linear(width, first_text)
        is_tag = torch.ones(first_text, dtype=torch.bool)
        is_tag[self.end] = False
        self.register_buffer("is_tag", is_tag, persistent=False)

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """encoded (batch, frames, width), lengths (batch,) -> memory, state."""
        inside = torch.arange(encoded.shape[1], device=encoded.device) < lengths.unsqueeze(1)
        return (), ((encoded * inside.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1),)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """tokens (batch,), memory, state -> log-probabilities (batch, first_text), state."""
        return (
            spell(self.output(state[0]), torch.ones_like(tokens, dtype=torch.bool), self.is_tag),
            state,
        )

    def forward(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        seeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The tag step alone: (batch, 1, first_text) log-probabilities. With `seeds` (batch,) there
        is dropout.
        """
        memory, (pooled,) = self.start(encoded, lengths)
        return self.step(tokens[:, 0], memory, (drop_clipwise(pooled, seeds, self.dropout, 0),))[
            0
        ].unsqueeze(1)
