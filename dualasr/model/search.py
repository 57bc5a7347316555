"""Greedy and beam search over "one step" of any autoregressive decoder, batched; CTC search over
characters.

A decoder gives `start(encoded, lengths) -> (memory, state)`, two tuples of tensors whose first axis
is the batch: memory stays, state changes; and `step(tokens, memory, state) -> (log_probs, state)`.
Nothing is hidden on modules.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dualasr.model.decoder import StepDecoder

Scored = tuple[tuple[int, ...], float, bool]  # tokens, log-probability, finished


@dataclass(frozen=True)
class Hypothesis:
    """A transcript and the decoder's own opinion of it."""

    tokens: tuple[int, ...]  # text units, without tag and end
    text: str
    logprob: float  # sum over the tokens and the end
    finished: bool = True  # False where the length limit cut it
    temperature: float = 0.0  # that it was drawn at; 0: the most likely one was searched for

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end included."""
        return self.logprob / (len(self.tokens) + 1)


@torch.no_grad()
def beam_search(
    decoder: StepDecoder,
    encoded: torch.Tensor,
    lengths: torch.Tensor,
    prefix: torch.Tensor,
    *,
    beam: int = 1,
    limits: torch.Tensor,
) -> list[list[Scored]]:
    """Beam search; beam 1 is greedy. A finished hypothesis competes by its log-probability per
    token, the end included.

    encoded (batch, frames, width), lengths (batch,), prefix (batch, given) tokens already known,
    limits (batch,) most tokens a clip may take. Returns for each clip up to `beam` (tokens,
    logprob, finished), best first.
    """
    memory, state = decoder.start(encoded, lengths)
    for column in range(prefix.shape[1]):
        log_probs, state = decoder.step(prefix[:, column], memory, state)
    memory, state = (
        tuple(part.repeat_interleave(beam, 0) for part in parts) for parts in (memory, state)
    )
    log_probs, size = log_probs.repeat_interleave(beam, 0), log_probs.shape[-1]
    scores = torch.full((len(encoded), beam), -torch.inf, device=encoded.device)
    scores[:, 0] = 0.0
    # of the clips still open
    texts: list[list[tuple[int, ...]]] = [[()] * beam for _ in range(len(encoded))]
    clips, limits = list(range(len(encoded))), limits.tolist()
    done: list[list[Scored]] = [[] for _ in clips]
    for length in range(max(limits) + 1):
        total = (scores.unsqueeze(-1) + log_probs.view(len(clips), beam, size)).flatten(1)
        best, flat = (rows.tolist() for rows in total.topk(2 * beam if beam > 1 else 1))
        before = scores.tolist()
        open_rows, next_texts, next_scores, sources, tokens = [], [], [], [], []
        for row, clip in enumerate(clips):
            if limits[clip] <= length:  # close what is open
                done[clip] += [
                    (texts[row][k], s, False) for k, s in enumerate(before[row]) if s > -np.inf
                ]
                continue
            kept: list[tuple[tuple[int, ...], float, int, int]] = []
            for rank, (score, index) in enumerate(zip(best[row], flat[row], strict=True)):
                origin, token = divmod(index, size)
                if score == -np.inf or len(kept) == beam:
                    break
                if token != decoder.end:
                    kept.append((texts[row][origin] + (token,), score, row * beam + origin, token))
                elif rank < beam:
                    done[clip].append((texts[row][origin], score, True))
            if not kept or len(done[clip]) >= beam:
                continue
            kept += [((), -np.inf, row * beam, decoder.end)] * (beam - len(kept))
            open_rows.append(clip)
            for column, values in zip(
                (next_texts, next_scores, sources, tokens), zip(*kept, strict=True), strict=True
            ):
                column.append(values)
        if not open_rows:
            break
        clips, texts = open_rows, [list(row) for row in next_texts]
        scores = torch.tensor(next_scores, device=encoded.device)
        index = torch.tensor(sources, device=encoded.device).flatten()
        state = tuple(part[index] for part in state)
        if len(open_rows) * beam < len(memory[0]):
            memory = tuple(part[index] for part in memory)
        log_probs, state = decoder.step(
            torch.tensor(tokens, device=encoded.device).flatten(), memory, state
        )
    return [
        sorted(rows, key=lambda found: found[1] / (len(found[0]) + 1), reverse=True)[:beam]
        for rows in done
    ]


def ctc_greedy(log_probs: np.ndarray) -> list[int]:
    """Best path of CTC: (frames, units) with blank 0 -> units, repeats and blanks removed."""
    best = log_probs.argmax(-1)
    return [
        int(unit) for i, unit in enumerate(best) if unit != 0 and (i == 0 or unit != best[i - 1])
    ]


def ctc_prefix_beam(
    log_probs: np.ndarray, *, beam: int = 8, units: int = 8
) -> list[tuple[tuple[int, ...], float]]:
    """Prefix beam search of CTC (Graves 2012, section 7.5.3): (frames, units) with blank 0 ->
    (prefix, logprob), best first.

    At each frame only the `units` best units and the last unit of a prefix are tried.
    """
    never = -np.inf
    # log-prob ending in blank, in a unit
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}
    for frame in log_probs:
        candidates = [
            int(u) for u in np.argpartition(-frame, min(units, len(frame) - 1))[:units] if u != 0
        ]
        if frame[0] > -1e-3:  # a sure blank: nothing grows
            candidates = []
        grown: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], blank: float, unit: float, grown=grown) -> None:
            slot = grown.setdefault(prefix, [never, never])
            slot[0], slot[1] = np.logaddexp(slot[0], blank), np.logaddexp(slot[1], unit)

        for prefix, (blank, unit) in beams.items():
            total = np.logaddexp(blank, unit)
            add(prefix, total + frame[0], unit + frame[prefix[-1]] if prefix else never)
            for u in candidates:
                add(
                    prefix + (u,),
                    never,
                    frame[u] + (blank if prefix and prefix[-1] == u else total),
                )
        ranked = sorted(grown.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam]
        beams = {prefix: (blank, unit) for prefix, (blank, unit) in ranked}
    return [(prefix, float(np.logaddexp(*both))) for prefix, both in beams.items()]
