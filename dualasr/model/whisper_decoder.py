"""The base's own decoder as a pack's decoder: frozen weights of the base, with the pack's LoRA.

The paper names this in section 5: a new language without a separate decoder. Besides LoRA a pack
has of its own

- an embedding and an output row for each unit of its vocabulary; both start from the mean of the
  base's embeddings of the pieces that spell the unit;
- a copy of the last LayerNorm.

The prompt is Whisper's: start, tag, task, no-timestamps. The order of the output is that of
`las_decoder.py`: first the tag, by a softmax over the pack's tags and `<|other|>` alone, then the
text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from dualasr.model.decoder import State, drop_clipwise, spell
from dualasr.model.whisper import attend, heads

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer


class WhisperDecoder(nn.Module):
    """A Transformer decoder of Whisper's layers, with keys and values that are passed along.

    Args:
        layers: Copies of the base's decoder layers, with LoRA.
        layer_norm: The last LayerNorm.
        positions: (most, width) the base's position embeddings.
        units: (vocabulary, width) first values of the embeddings.
        outputs: (vocabulary, width) first values of the output matrix.
        prompt: (prompt, width) embeddings of what stands between the tag and the text.
        first_text: Id of the first unit that is text (`PackTokenizer.first_text`).
    """

    kind, end, spells = "whisper", 0, True
    dropout = 0.1
    positions: torch.Tensor
    prompt: torch.Tensor
    is_tag: torch.Tensor

    def __init__(
        self,
        layers: nn.ModuleList,
        layer_norm: nn.LayerNorm,
        positions: torch.Tensor,
        units: torch.Tensor,
        outputs: torch.Tensor,
        prompt: torch.Tensor,
        first_text: int,
    ):
        super().__init__()
        self.layers, self.layer_norm, self.first_text = layers, layer_norm, first_text
        self.embedding = nn.Parameter(units.clone())
        self.output = nn.Parameter(outputs.clone())
        is_tag = torch.zeros(len(units), dtype=torch.bool)
        is_tag[1:first_text] = True
        for name, values in (("positions", positions), ("prompt", prompt), ("is_tag", is_tag)):
            self.register_buffer(name, values, persistent=False)

    @property
    def _typed_layers(self) -> list["WhisperDecoderLayer"]:
        return cast("list[WhisperDecoderLayer]", list(self.layers))

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """Return memory and state of (batch, frames, width) encoder output and (batch,) frames.

        The memory is the mask of the frames and each layer's keys and values of the encoder output.
        The state is each layer's keys and values of the tokens so far; here there are none.
        """
        beyond = torch.arange(encoded.shape[1], device=encoded.device) >= lengths.unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=encoded.dtype, device=encoded.device)
        memory = [mask.masked_fill(beyond, -1e4)[:, None, None]]
        state: list[torch.Tensor] = []
        for layer in self._typed_layers:
            attention = layer.encoder_attn
            keys = heads(attention, attention.k_proj(encoded))
            values = heads(attention, attention.v_proj(encoded))
            memory += [keys, values]
            state += [values[:, :, :0], values[:, :, :0]]
        return tuple(memory), tuple(state)

    def _run(self, inputs: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """Run all layers on new tokens.

        (batch, steps, width) embeddings -> the layers' output, of the same shape, and the new
        state.
        """
        before, steps = state[0].shape[2], inputs.shape[1]
        # a token attends to all before it and to itself
        causal = torch.ones(steps, before + steps, dtype=torch.bool, device=inputs.device)
        causal = causal.tril(before)
        hidden, mask = inputs + self.positions[before : before + steps], memory[0]
        after: list[torch.Tensor] = []
        for k, layer in enumerate(self._typed_layers):
            attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
            new_keys = heads(attention, attention.k_proj(normed))
            new_values = heads(attention, attention.v_proj(normed))
            keys = torch.cat([state[2 * k], new_keys], 2)
            values = torch.cat([state[2 * k + 1], new_values], 2)
            after += [keys, values]
            hidden = hidden + attend(attention, normed, keys, values, causal)
            normed = layer.encoder_attn_layer_norm(hidden)
            keys, values = memory[2 * k + 1], memory[2 * k + 2]
            hidden = hidden + attend(layer.encoder_attn, normed, keys, values, mask)
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        return self.layer_norm(hidden), tuple(after)

    def _spell(self, hidden: torch.Tensor, tag_step: torch.Tensor) -> torch.Tensor:
        """(..., width) and (...) bool -> log-probabilities (..., vocabulary)."""
        return spell(F.linear(hidden, self.output), tag_step, self.is_tag)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """Return log-probabilities (batch, vocabulary) after tokens (batch,), and the new state.

        The step of the tag runs the rest of the prompt, too: in every prompt the same tokens follow
        the tag.
        """
        inputs, before = self.embedding[tokens].unsqueeze(1), state[0].shape[2]
        if before == 1:  # these tokens are the tags
            inputs = torch.cat([inputs, self.prompt.expand(len(tokens), -1, -1)], 1)
        hidden, state = self._run(inputs, memory, state)
        tag_step = torch.full(tokens.shape, before == 0, device=tokens.device)
        return self._spell(hidden[:, -1], tag_step), state

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
        inputs, prompt = self.embedding[tokens], len(self.prompt)
        inputs = torch.cat(
            [inputs[:, :2], self.prompt.expand(len(tokens), -1, -1), inputs[:, 2:]], 1
        )
        inputs = drop_clipwise(inputs, seeds, self.dropout, 0)
        hidden, _ = self._run(inputs, *self.start(encoded, lengths))
        # The last token of the prompt predicts the first of the text: leave out those before it.
        hidden = torch.cat([hidden[:, :1], hidden[:, 1 + prompt :]], 1)[:, : tokens.shape[1]]
        tag_step = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        tag_step[:, 0] = True
        return self._spell(drop_clipwise(hidden, seeds, self.dropout, 1), tag_step)


def units_from_base(pieces: Sequence[Sequence[int]], embeddings: torch.Tensor) -> torch.Tensor:
    """Return a row for each unit: the mean of the base's embeddings of its pieces.

    Args:
        pieces: The base's token ids that spell each unit.
        embeddings: (tokens, width) embeddings of the base.

    Returns:
        (units, width) rows.
    """
    return torch.stack([embeddings[list(ids)].mean(0) for ids in pieces])
