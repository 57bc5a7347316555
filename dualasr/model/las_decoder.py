"""Listen, Attend and Spell: the paper's secondary decoder (section 2.2).

The architecture is that of Chan et al. 2016 (arXiv 1508.01211), with one LSTM layer. A step:

1. The LSTM reads the last token and the last context.
2. Its output is the query of an additive attention (Bahdanau et al. 2015) with several heads over
   the secondary encoder's output; the result is the new context.
3. LSTM output and context together predict the next token.

As in Chan et al., the attention works on fewer and wider frames than the encoder's: `stride`
neighbours are joined to one (there a pyramid joins eight). The order of the output is Whisper's:
first the language tag, then the text. The tag step is a softmax over the pack's tags and
`<|other|>` alone.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from dualasr.model.decoder import State, drop_clipwise, spell


@dataclass(frozen=True)
class LASOptions:
    """The shape of a LAS decoder.

    Attributes:
        units: Width of the LSTM. 0 means min(512, 2 x encoder width): the paper's 512 for large-v2.
        heads: Number of attention heads.
        stride: Number of encoder frames that are joined to one.
        dropout: Share of activations that are dropped in training.
    """

    units: int = 0
    heads: int = 2
    stride: int = 4
    dropout: float = 0.2


class LASDecoder(nn.Module):
    """An LSTM decoder with additive attention.

    Args:
        vocabulary: Number of units (`PackTokenizer.size`).
        first_text: Id of the first unit that is text (`PackTokenizer.first_text`).
        width: Features of an encoder frame.
        options: Its shape.
    """

    kind, end, spells = "las", 0, True
    is_tag: torch.Tensor

    def __init__(
        self, vocabulary: int, first_text: int, width: int, options: LASOptions = LASOptions()
    ):
        super().__init__()
        units = options.units or min(512, 2 * width)
        self.options, self.first_text = replace(options, units=units), first_text
        self.embedding = nn.Embedding(vocabulary, units)
        # the LSTM's weights, for the token, and for context and state
        self.token_gates = nn.Linear(units, 4 * units)
        self.state_gates = nn.Linear(width + units, 4 * units, bias=False)
        self.query = nn.Linear(units, width, bias=False)
        self.key = nn.Linear(options.stride * width, width)
        self.energy = nn.Parameter(torch.randn(options.heads, width // options.heads) / width**0.5)
        self.value = nn.Linear(options.stride * width, width)
        self.mix = nn.Linear(units + width, units)
        self.output = nn.Linear(units, vocabulary)
        is_tag = torch.zeros(vocabulary, dtype=torch.bool)
        is_tag[1:first_text] = True
        self.register_buffer("is_tag", is_tag, persistent=False)

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """Return memory and state of (batch, frames, width) encoder output and (batch,) frames.

        The memory is keys, values and the mask of the joined frames; the state is LSTM output,
        LSTM cell, context, and whether the next step is the tag step.
        """
        batch, frames, width = encoded.shape
        stride, device = self.options.stride, encoded.device
        inside = torch.arange(frames, device=device) < lengths.unsqueeze(1)
        padded = F.pad(encoded * inside.unsqueeze(-1), (0, 0, 0, -frames % stride))
        wide = padded.view(batch, -1, stride * width)
        beyond = torch.arange(wide.shape[1], device=device) * stride >= lengths.unsqueeze(1)
        memory = (self.key(wide), self.value(wide), beyond)
        cell = encoded.new_zeros(batch, self.query.in_features)
        context = encoded.new_zeros(batch, width)
        first = torch.ones(batch, dtype=torch.bool, device=device)
        return memory, (cell, cell, context, first)

    def _attend(
        self, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, beyond: torch.Tensor
    ) -> torch.Tensor:
        """Additive attention of (batch, units) over (batch, frames, width) -> (batch, width)."""
        batch, frames, width = keys.shape
        heads = self.energy.shape[0]
        mixed = torch.tanh(keys + self.query(hidden).unsqueeze(1))
        # (batch, frames, heads): a head's energy comes from its own share of the features
        energy = F.linear(mixed, torch.block_diag(*self.energy))
        energy = energy.masked_fill(beyond.unsqueeze(-1), -1e4)
        weights = energy.softmax(1).transpose(1, 2).unsqueeze(2)  # (batch, heads, 1, frames)
        by_head = values.view(batch, frames, heads, -1).transpose(1, 2)
        return (weights @ by_head).reshape(batch, width)

    def _advance(
        self, token_gates: torch.Tensor, memory: State, state: State
    ) -> tuple[torch.Tensor, State]:
        """Run one LSTM step; token_gates (batch, 4 x units) are the token's part of the gates."""
        hidden, cell, context, first = state
        gates = token_gates + self.state_gates(torch.cat([context, hidden], -1))
        enter, forget, candidate, leave = gates.chunk(4, -1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        context = self._attend(hidden, *memory)
        return torch.cat([hidden, context], -1), (hidden, cell, context, torch.zeros_like(first))

    def _spell(
        self, features: torch.Tensor, tag_step: torch.Tensor, seeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(..., units + width) and (...) bool -> log-probabilities (..., vocabulary)."""
        mixed = drop_clipwise(torch.tanh(self.mix(features)), seeds, self.options.dropout, 1)
        return spell(self.output(mixed), tag_step, self.is_tag)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """Return log-probabilities (batch, vocabulary) after tokens (batch,), and the new state."""
        features, after = self._advance(self.token_gates(self.embedding(tokens)), memory, state)
        return self._spell(features, state[-1]), after

    def forward(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        seeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the log-probabilities (batch, steps, vocabulary) of known texts (teacher forcing).

        Args:
            encoded: (batch, frames, width) encoder output.
            lengths: (batch,) frames of each clip.
            tokens: (batch, steps) tokens, from start on.
            seeds: (batch,) seeds of the dropout; None for none.
        """
        memory, state = self.start(encoded, lengths)
        gates = self.token_gates(
            drop_clipwise(self.embedding(tokens), seeds, self.options.dropout, 0)
        )
        features = []
        for column in gates.unbind(1):
            step, state = self._advance(column, memory, state)
            features.append(step)
        tag_step = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        tag_step[:, 0] = True
        return self._spell(torch.stack(features, 1), tag_step, seeds)
