"""Greedy and beam search over "one step" of any autoregressive decoder, batched; CTC search over characters.

A decoder gives `start(encoded, lengths)`, a tuple of tensors whose first axis is the batch, and
`step(tokens, state) -> (log_probs, state)`. State goes in and comes out; nothing is hidden on modules.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

State = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Hypothesis:
    """A transcript and the decoder's own opinion of it."""

    tokens: tuple[int, ...]  # text units, without tag and end
    text: str
    logprob: float  # sum over the tokens and the end
    finished: bool = True  # False where the length limit cut it

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end included."""
        return self.logprob / (len(self.tokens) + 1)


class StepDecoder(Protocol):
    """What the searches need of a decoder."""

    end: int

    def start(self, encoded: torch.Tensor, lengths: torch.Tensor) -> State: ...

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]: ...


@torch.no_grad()
def beam_search(
    decoder: StepDecoder, encoded: torch.Tensor, lengths: torch.Tensor, prefix: torch.Tensor, *,
    beam: int = 1, limits: torch.Tensor,
) -> list[list[tuple[tuple[int, ...], float, bool]]]:  # fmt: skip
    """Beam search; beam 1 is greedy. A finished hypothesis competes by its plain sum of log-probabilities per token.

    encoded (batch, frames, width), lengths (batch,), prefix (batch, given) tokens already known, limits (batch,) most
    tokens a clip may take. Returns for each clip up to `beam` (tokens, logprob, finished), best first.
    """
    batch, device = len(encoded), encoded.device
    state = decoder.start(encoded, lengths)
    log_probs = None
    for column in range(prefix.shape[1]):
        log_probs, state = decoder.step(prefix[:, column], state)
    size = log_probs.shape[-1]
    state = tuple(part.repeat_interleave(beam, 0) for part in state)
    log_probs = log_probs.repeat_interleave(beam, 0)
    scores = torch.full((batch, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    tokens = torch.zeros((batch, beam, 0), dtype=torch.long, device=device)
    done: list[list[tuple[tuple[int, ...], float, bool]]] = [[] for _ in range(batch)]
    active = torch.ones(batch, dtype=torch.bool, device=device)
    for length in range(int(limits.max()) + 1):
        total = scores.unsqueeze(-1) + log_probs.view(batch, beam, size)
        forced = limits <= length  # the limit is reached: close what is open
        best, flat = total.flatten(1).topk(2 * beam if beam > 1 else 1)
        origin, token = flat // size, flat % size
        next_scores = torch.full_like(scores, -torch.inf)
        next_origin = torch.zeros((batch, beam), dtype=torch.long, device=device)
        next_token = torch.full((batch, beam), decoder.end, device=device)
        for i in range(batch):
            if not active[i]:
                continue
            if forced[i]:
                kept = [(tuple(tokens[i, k].tolist()), float(scores[i, k]), False) for k in range(beam)]
                done[i] += [row for row in kept if row[1] > -np.inf]
                active[i] = False
                continue
            slot = 0
            for rank in range(flat.shape[1]):
                if best[i, rank] == -torch.inf or slot == beam:
                    break
                if token[i, rank] == decoder.end:
                    if rank < beam:
                        done[i].append((tuple(tokens[i, origin[i, rank]].tolist()), float(best[i, rank]), True))
                    continue
                next_scores[i, slot], next_origin[i, slot] = best[i, rank], origin[i, rank]
                next_token[i, slot] = token[i, rank]
                slot += 1
            active[i] = len(done[i]) < beam and slot > 0
        if not active.any():
            break
        row = (torch.arange(batch, device=device).unsqueeze(1) * beam + next_origin).flatten()
        tokens = torch.cat([tokens.flatten(0, 1)[row].view(batch, beam, -1), next_token.unsqueeze(-1)], -1)
        scores = next_scores
        log_probs, state = decoder.step(next_token.flatten(), tuple(part[row] for part in state))
    return [sorted(rows, key=lambda row: row[1] / (len(row[0]) + 1), reverse=True)[:beam] for rows in done]


def ctc_greedy(log_probs: np.ndarray) -> list[int]:
    """Best path of CTC: (frames, units) with blank 0 -> units, repeats and blanks removed."""
    best = log_probs.argmax(-1)
    return [int(unit) for i, unit in enumerate(best) if unit != 0 and (i == 0 or unit != best[i - 1])]


def ctc_prefix_beam(log_probs: np.ndarray, *, beam: int = 8, units: int = 8) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search of CTC (Graves 2012, section 7.5.3): (frames, units) with blank 0 -> (prefix, logprob), best first.

    At each frame only the `units` best units and the last unit of a prefix are tried.
    """
    never = -np.inf
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}  # log-prob ending in blank, in a unit
    for frame in log_probs:
        candidates = [int(u) for u in np.argpartition(-frame, min(units, len(frame) - 1))[:units] if u != 0]
        grown: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], blank: float, unit: float, grown=grown) -> None:
            slot = grown.setdefault(prefix, [never, never])
            slot[0], slot[1] = np.logaddexp(slot[0], blank), np.logaddexp(slot[1], unit)

        for prefix, (blank, unit) in beams.items():
            total = np.logaddexp(blank, unit)
            add(prefix, total + frame[0], unit + frame[prefix[-1]] if prefix else never)
            for u in candidates:
                add(prefix + (u,), never, frame[u] + (blank if prefix and prefix[-1] == u else total))
        ranked = sorted(grown.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam]
        beams = {prefix: (blank, unit) for prefix, (blank, unit) in ranked}
    return [(prefix, float(np.logaddexp(*both))) for prefix, both in beams.items()]
