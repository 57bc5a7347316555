"""The base's own decoder as a pack's: its weights shared and frozen, LoRA of the pack's on them
(paper, section 5: doing without a separate decoder).

What is the pack's own beside LoRA: embeddings and output matrix of its vocabulary, each unit
started from the mean of the base's embeddings of its pieces, and a copy of the last LayerNorm. The
prompt is Whisper's: start, tag, task and no-timestamps; output mirrors it as las.py's does, and the
tag step is a softmax over the pack's tags and `<|other|>` alone.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dualasr.model.decoder import State, drop_clipwise, spell


class WhisperDecoder(nn.Module):
    """`layers` are adapted copies of the base's decoder layers, `positions` (most, width) its
    position embeddings.

    `units` (vocabulary, width) start the embeddings, `outputs` the output matrix, `prompt` (prompt,
    width) are the embeddings of what stands between the tag and the text.
    """

    kind, end, spells = "whisper", 0, True
    dropout = 0.1

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

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> tuple[State, State]:
        """encoded (batch, frames, width), lengths (batch,) -> memory, state: keys and values of
        each layer.
        """
        beyond = torch.arange(encoded.shape[1], device=encoded.device) >= lengths.unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=encoded.dtype, device=encoded.device).masked_fill(
            beyond, -1e4
        )
        memory, state = [mask[:, None, None]], []
        for layer in self.layers:
            attention = layer.encoder_attn
            memory += [
                _heads(attention, attention.k_proj(encoded)),
                _heads(attention, attention.v_proj(encoded)),
            ]
            state += [memory[-1][:, :, :0], memory[-1][:, :, :0]]
        return tuple(memory), tuple(state)

    def _run(self, inputs: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """(batch, steps, width) after what `state` holds -> the layers' output, same shape, and the
        state after them.
        """
        before, steps = state[0].shape[2], inputs.shape[1]
        hidden, mask, after = inputs + self.positions[before : before + steps], memory[0], []
        for k, layer in enumerate(self.layers):
            attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
            keys, values = (
                torch.cat([old, _heads(attention, project(normed))], 2)
                for old, project in zip(
                    state[2 * k : 2 * k + 2], (attention.k_proj, attention.v_proj), strict=True
                )
            )
            after += [keys, values]
            later = torch.ones(steps, before + steps, dtype=torch.bool, device=hidden.device).tril(
                before
            )
            hidden = hidden + _attend(attention, normed, keys, values, later)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + _attend(
                layer.encoder_attn, normed, memory[2 * k + 1], memory[2 * k + 2], mask
            )
            hidden = hidden + layer.fc2(
                layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            )
        return self.layer_norm(hidden), tuple(after)

    def _spell(self, hidden: torch.Tensor, tag_step: torch.Tensor) -> torch.Tensor:
        return spell(F.linear(hidden, self.output), tag_step, self.is_tag)

    def step(self, tokens: torch.Tensor, memory: State, state: State) -> tuple[torch.Tensor, State]:
        """tokens (batch,), memory, state -> log-probabilities (batch, vocabulary), state."""
        inputs, before = self.embedding[tokens].unsqueeze(1), state[0].shape[2]
        if before == 1:  # the tag: what follows it in every prompt comes with it
            inputs = torch.cat([inputs, self.prompt.expand(len(tokens), -1, -1)], 1)
        hidden, state = self._run(inputs, memory, state)
        return (
            self._spell(hidden[:, -1], torch.full(tokens.shape, before == 0, device=tokens.device)),
            state,
        )

    def forward(
        self,
        encoded: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        seeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Teacher forcing: tokens (batch, steps) from start -> log-probabilities (batch, steps,
        vocabulary).

        With `seeds` (batch,) there is dropout, without there is none.
        """
        inputs, prompt = self.embedding[tokens], len(self.prompt)
        inputs = torch.cat(
            [inputs[:, :2], self.prompt.expand(len(tokens), -1, -1), inputs[:, 2:]], 1
        )
        hidden, _ = self._run(
            drop_clipwise(inputs, seeds, self.dropout, 0), *self.start(encoded, lengths)
        )
        hidden = torch.cat([hidden[:, :1], hidden[:, 1 + prompt :]], 1)[:, : tokens.shape[1]]
        tag_step = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        tag_step[:, 0] = True
        return self._spell(drop_clipwise(hidden, seeds, self.dropout, 1), tag_step)


def _heads(attention: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """(batch, steps, width) -> (batch, heads, steps, width of a head)."""
    return values.view(*values.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _attend(attention: nn.Module, normed, keys, values, mask) -> torch.Tensor:
    """Whisper's attention with keys and values computed before."""
    query = _heads(attention, attention.q_proj(normed) * attention.scaling)
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    return attention.out_proj(found.transpose(1, 2).flatten(2))


def units_from_base(pieces: Sequence[Sequence[int]], embeddings: torch.Tensor) -> torch.Tensor:
    """A row for each unit, the mean of the base's rows of its pieces: (units, width)."""
    return torch.stack([embeddings[list(ids)].mean(0) for ids in pieces])
