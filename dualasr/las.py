"""Listen, Attend and Spell: the paper's secondary decoder (section 2.2; Chan et al. 2016, arXiv 1508.01211).

A one-layer LSTM reads the last token and the last context; its state asks an n-head additive attention (Bahdanau et al.
2015) over the secondary encoder's output for the next context; both spell the next token. Output mirrors Whisper's:
the language tag first, then the text. The tag step is a softmax over the pack's tags and `<|other|>` alone.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F

from dualasr.search import State


@dataclass(frozen=True)
class LASOptions:
    """`units` 0 means min(512, 2 x encoder width), the paper's 512 at large-v2's width."""

    units: int = 0
    heads: int = 2
    dropout: float = 0.2


class LASDecoder(nn.Module):
    """vocabulary and first_text as in PackTokenizer; encoder output of `width` features a frame."""

    kind = "las"
    end = 0

    def __init__(self, vocabulary: int, first_text: int, width: int, options: LASOptions = LASOptions()):
        super().__init__()
        units = options.units or min(512, 2 * width)
        self.options, self.first_text = LASOptions(units, options.heads, options.dropout), first_text
        self.embedding = nn.Embedding(vocabulary, units)
        self.cell = nn.LSTMCell(units + width, units)
        self.query = nn.Linear(units, width, bias=False)
        self.key = nn.Linear(width, width)
        self.energy = nn.Parameter(torch.randn(options.heads, width // options.heads) / width**0.5)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(units + width, units)
        self.output = nn.Linear(units, vocabulary)
        is_tag = torch.zeros(vocabulary, dtype=torch.bool)
        is_tag[1:first_text] = True
        self.register_buffer("is_tag", is_tag, persistent=False)

    def settings(self) -> dict:
        return asdict(self.options)

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """encoded (batch, frames, width), lengths (batch,) -> memory, state; the first step that follows is the tag step."""
        batch, frames, width = encoded.shape
        cell = encoded.new_zeros(batch, self.cell.hidden_size)
        beyond = torch.arange(frames, device=encoded.device) >= lengths.unsqueeze(1)
        first = torch.ones(batch, dtype=torch.bool, device=encoded.device)
        return (self.key(encoded), self.value(encoded), beyond), (cell, cell, encoded.new_zeros(batch, width), first)

    def _attend(self, hidden, keys, values, beyond) -> torch.Tensor:
        batch, frames, width = keys.shape
        heads = self.energy.shape[0]
        mixed = torch.tanh(keys + self.query(hidden).unsqueeze(1)).view(batch, frames, heads, -1)
        energy = (mixed * self.energy).sum(-1).masked_fill(beyond.unsqueeze(-1), -1e4)
        weights = energy.softmax(1)
        return torch.einsum("bth,bthd->bhd", weights, values.view(batch, frames, heads, -1)).reshape(batch, width)

    def _advance(self, embedded, memory: State, state: State) -> tuple[torch.Tensor, State]:
        hidden, cell, context, first = state
        hidden, cell = self.cell(torch.cat([embedded, context], -1), (hidden, cell))
        context = self._attend(hidden, *memory)
        return torch.cat([hidden, context], -1), (hidden, cell, context, torch.zeros_like(first))

    def _spell(self, features: torch.Tensor, tag_step: torch.Tensor) -> torch.Tensor:
        """(..., units + width) and (...) bool -> log-probabilities (..., vocabulary)."""
        features = F.dropout(torch.tanh(self.mix(features)), self.options.dropout, self.training)
        logits = self.output(features).float()
        allowed = torch.where(tag_step.unsqueeze(-1), self.is_tag, ~self.is_tag)
        return logits.masked_fill(~allowed, -1e4).log_softmax(-1)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """tokens (batch,), memory, state -> log-probabilities (batch, vocabulary), state."""
        features, after = self._advance(self.embedding(tokens), memory, state)
        return self._spell(features, state[-1]), after

    def forward(self, encoded: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Teacher forcing: tokens (batch, steps) from start -> log-probabilities (batch, steps, vocabulary)."""
        memory, state = self.start(encoded, lengths)
        embedded = F.dropout(self.embedding(tokens), self.options.dropout, self.training)
        features = []
        for column in range(tokens.shape[1]):
            step, state = self._advance(embedded[:, column], memory, state)
            features.append(step)
        tag_step = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        tag_step[:, 0] = True
        return self._spell(torch.stack(features, 1), tag_step)


DECODERS = {LASDecoder.kind: LASDecoder}
