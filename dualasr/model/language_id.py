"""What is heard of windows, and what every pack bids for them.

The trunk of a window is computed once; a pack's upper layers only where its language head makes it a candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dualasr.model.language_statistics import Discriminant
from dualasr.model.pack import Pack
from dualasr.model.secondary import slice_trunk
from dualasr.model.selector import Bid, SelectorOptions

Output = tuple[list[int], torch.Tensor, torch.Tensor]  # rows of a batch, a pack's encoder output of these, its lengths

LEAST_DOUBT = -10.0  # a primary surer of its language than this (log of 1 - p) is no surer


@dataclass(frozen=True)
class Heard:
    """Encoder-side evidence of a batch of windows. `trunks` maps a fork to (batch, positions, width)."""

    seconds: tuple[float, ...]
    frames: tuple[int, ...]
    trunks: dict[int, torch.Tensor]
    encoded: torch.Tensor  # the primary's encoder output, (batch, positions, width)
    language_log_probs: torch.Tensor  # (batch, languages)
    no_speech_prob: tuple[float, ...]
    impression: torch.Tensor  # (batch, 3 x width): the encoder output's mean and deviation, the first step's state

    def of(self, rows: Sequence[int]) -> "Heard":
        """The same evidence of some of the windows; all of them is no copy."""
        if list(rows) == list(range(len(self.seconds))):
            return self
        index = torch.tensor(list(rows), device=self.encoded.device)
        return Heard(
            tuple(self.seconds[i] for i in rows), tuple(self.frames[i] for i in rows),
            {fork: trunk[index] for fork, trunk in self.trunks.items()}, self.encoded[index],
            self.language_log_probs[index], tuple(self.no_speech_prob[i] for i in rows), self.impression[index],
        )  # fmt: skip


def encode(pack: Pack, heard: Heard) -> tuple[torch.Tensor, torch.Tensor]:
    """A pack's encoder output, (batch, frames, width), and its lengths (batch,)."""
    trunk, lengths = slice_trunk(heard.trunks[pack.secondary.options.fork], list(heard.frames))
    return pack.secondary.encode(trunk, lengths), lengths


def allowed(codes: Sequence[str], languages: frozenset[str] | None) -> list[int]:
    """Which of a decoder's languages may be heard; `languages` None allows all."""
    return [i for i, code in enumerate(codes) if languages is None or code in languages]


@torch.no_grad()
def bids_of(packs: Sequence[Pack], heard: Heard, options: SelectorOptions, between: Discriminant | None,
            languages: frozenset[str] | None, *, ask: bool = True) -> tuple[list[list[Bid]], dict[str, Output]]:  # fmt: skip
    """What every pack says of every window; the tag step is run where the selector's options ask for it (never: `ask`).

    `between` tells apart the packs that have statistics. Second, by pack, the windows whose upper layers were run for it:
    their rows, encoder output and lengths.
    """
    rows: list[list[Bid]] = [[] for _ in heard.seconds]
    outputs: dict[str, Output] = {}
    may = [allowed(list(pack.info.languages), languages) for pack in packs]
    best = heard.language_log_probs.max(-1).values
    doubts = (-best.expm1()).log().clamp_min(LEAST_DOUBT).tolist()
    gives_way = _give_way(packs, heard, options, between)
    for k, pack in enumerate(packs):
        trunk, lengths = slice_trunk(heard.trunks[pack.secondary.options.fork], list(heard.frames))
        logits = pack.secondary.language_logits(trunk, lengths)[:, [0, *(1 + i for i in may[k])]]
        heads = (logits[:, 1:].logsumexp(-1) - logits[:, 0]).tolist()
        shares = logits[:, 1:].softmax(-1).tolist()
        codes = tuple(list(pack.info.languages)[i] for i in may[k])
        for i, (row, head, share, doubt) in enumerate(zip(rows, heads, shares, doubts, strict=True)):
            row.append(Bid(pack.name, codes, head, pack.info.calibration, tuple(share), doubt, gives_way=gives_way[i][k]))
    for k, pack in enumerate(packs):
        asked = [i for i, row in enumerate(rows) if ask and _asks(row, k, options)]
        if asked:
            outputs[pack.name] = (asked, *encode(pack, heard.of(asked)))
            log_probs = pack.secondary.tag_step(*outputs[pack.name][1:])[:, [0, *(1 + i for i in may[k])]]
            for i, tags in zip(asked, log_probs, strict=True):
                mine = tags[1:].logsumexp(-1)
                rows[i][k] = replace(
                    rows[i][k], tag=float(mine - tags[0].clamp_min(-50)), shares=tuple((tags[1:] - mine).exp().tolist()),
                    best_tag=float((tags[1:] - mine).max()),
                )  # fmt: skip
    return rows, outputs


def _give_way(packs: Sequence[Pack], heard: Heard, options: SelectorOptions, between: Discriminant | None) -> list[list[float]]:
    """Log-odds that every pack cedes to the one that fits a window best, by window: 0 for a pack without statistics."""
    behind = np.zeros((len(heard.seconds), len(packs)))
    if between is not None:
        told = [k for k, pack in enumerate(packs) if pack.statistics is not None]
        behind[:, told] = between.behind(heard.impression.cpu().numpy())
    return (options.between * behind).tolist()


def _asks(row: list[Bid], k: int, options: SelectorOptions) -> bool:
    """Whether pack k runs its upper layers for a window."""
    if options.rule == "paper" or options.asked is None:
        return True
    heads = [bid.before_asking for bid in row]
    before = sum(head > heads[k] or (head == heads[k] and i < k) for i, head in enumerate(heads))
    return before < options.asked and heads[k] > options.head_floor
