"""Language identity: the encoded windows, and every pack's scores of them.

The trunk of a window is computed once. A pack's upper layers run only where its language head makes
it a candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dualasr.model.language_statistics import Discriminant
from dualasr.model.pack import Pack
from dualasr.model.secondary import slice_trunk
from dualasr.model.selector import PackScore, SelectorOptions

# the least log(1 - p) of the primary's best language; a surer primary counts as this sure
MIN_UNCERTAINTY = -10.0


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedAudio:
    """What the encoder and the first decoder step of the primary give for a batch of windows.

    Attributes:
        seconds: Length of each window.
        frames: Encoder frames that each fills. trunks: By fork, the output of the frozen layers
        below it: (batch, positions, width). encoded: The primary's encoder output, (batch,
        positions, width). language_log_probs: Over the primary's languages, (batch, languages).
        no_speech_prob: The primary's, of each window. pooled_features: (batch, 3 x width): mean and
        deviation of the encoder output, and the first step's state.
    """

    seconds: tuple[float, ...]
    frames: tuple[int, ...]
    trunks: Mapping[int, torch.Tensor]
    encoded: torch.Tensor
    language_log_probs: torch.Tensor
    no_speech_prob: tuple[float, ...]
    pooled_features: torch.Tensor

    def __len__(self) -> int:
        return len(self.seconds)

    def of(self, rows: Sequence[int]) -> "EncodedAudio":
        """Return some of the windows, in the order of `rows`; all of them in their order is no
        copy.
        """
        if list(rows) == list(range(len(self))):
            return self
        index = torch.tensor(list(rows), device=self.encoded.device)
        return EncodedAudio(
            seconds=tuple(self.seconds[i] for i in rows),
            frames=tuple(self.frames[i] for i in rows),
            trunks={fork: trunk[index] for fork, trunk in self.trunks.items()},
            encoded=self.encoded[index],
            language_log_probs=self.language_log_probs[index],
            no_speech_prob=tuple(self.no_speech_prob[i] for i in rows),
            pooled_features=self.pooled_features[index],
        )


@dataclass(frozen=True, eq=False)
class PackEncoding:
    """A pack's encoder output for some windows of a batch.

    Attributes:
        rows: Which windows of the batch.
        encoded: (rows, frames, width).
        lengths: Frames of each that belong to the clip, (rows,).
    """

    rows: tuple[int, ...]
    encoded: torch.Tensor
    lengths: torch.Tensor

    def of(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return encoder output and lengths of these windows of the batch; None where one of them
        was not encoded.
        """
        if not set(rows) <= set(self.rows):
            return None
        index = torch.tensor([self.rows.index(i) for i in rows], device=self.encoded.device)
        return self.encoded[index], self.lengths[index]


def encode(pack: Pack, audio: EncodedAudio, rows: Sequence[int] | None = None) -> PackEncoding:
    """Run a pack's upper layers on the trunk of some windows of a batch, or of all."""
    rows = range(len(audio)) if rows is None else rows
    chosen = audio.of(rows)
    trunk, lengths = slice_trunk(chosen.trunks[pack.secondary.options.fork], list(chosen.frames))
    return PackEncoding(tuple(rows), pack.secondary.encode(trunk, lengths), lengths)


def allowed(codes: Sequence[str], languages: frozenset[str] | None) -> list[int]:
    """Return the indices of the languages that may be heard; `languages` None allows all."""
    return [i for i, code in enumerate(codes) if languages is None or code in languages]


@torch.no_grad()
def score_packs(
    packs: Sequence[Pack],
    audio: EncodedAudio,
    options: SelectorOptions,
    discriminant: Discriminant | None,
    languages: frozenset[str] | None,
    *,
    tags: bool = True,
) -> tuple[list[list[PackScore]], dict[str, PackEncoding]]:
    """Score every window with every pack (steps 1 to 5 of the selector).

    Args:
        packs: The loaded packs.
        audio: The encoded windows.
        options: The selector's settings; they say for which windows a pack's tag step is run.
        discriminant: Compares the packs that have statistics; None where fewer than two have.
        languages: The only ones that may be heard; None for all.
        tags: False runs no tag step at all.

    Returns:
        For each window the scores of all packs, in their order; and by pack the encoder output that
            was computed.
    """
    rows: list[list[PackScore]] = [[] for _ in audio.seconds]
    encodings: dict[str, PackEncoding] = {}
    may = [allowed(list(pack.info.languages), languages) for pack in packs]
    best = audio.language_log_probs.max(-1).values
    uncertainty = (-best.expm1()).log().clamp_min(MIN_UNCERTAINTY).tolist()
    penalties = _penalties(packs, audio, options, discriminant)
    for k, pack in enumerate(packs):
        trunk, lengths = slice_trunk(audio.trunks[pack.secondary.options.fork], list(audio.frames))
        logits = pack.secondary.language_logits(trunk, lengths)[:, [0, *(1 + i for i in may[k])]]
        heads = (logits[:, 1:].logsumexp(-1) - logits[:, 0]).tolist()
        shares = logits[:, 1:].softmax(-1).tolist()
        codes = tuple(list(pack.info.languages)[i] for i in may[k])
        for i, row in enumerate(rows):
            row.append(
                PackScore(
                    name=pack.name,
                    languages=codes,
                    head=heads[i],
                    calibration=pack.info.calibration,
                    shares=tuple(shares[i]),
                    primary_uncertainty=uncertainty[i],
                    penalty=penalties[i][k],
                )
            )
    for k, pack in enumerate(packs):
        candidates = [i for i, row in enumerate(rows) if tags and _is_candidate(row, k, options)]
        if not candidates:
            continue
        found = encodings[pack.name] = encode(pack, audio, candidates)
        log_probs = pack.secondary.tag_step(found.encoded, found.lengths)[
            :, [0, *(1 + i for i in may[k])]
        ]
        for i, step in zip(candidates, log_probs, strict=True):
            mine = step[1:].logsumexp(-1)
            rows[i][k] = replace(
                rows[i][k],
                tag=float(mine - step[0].clamp_min(-50)),
                shares=tuple((step[1:] - mine).exp().tolist()),
                best_tag=float((step[1:] - mine).max()),
            )
    return rows, encodings


def _penalties(
    packs: Sequence[Pack],
    audio: EncodedAudio,
    options: SelectorOptions,
    discriminant: Discriminant | None,
) -> list[list[float]]:
    """By window, what each pack pays for lying behind the one that fits best: 0 for a pack without
    statistics.
    """
    behind = np.zeros((len(audio), len(packs)))
    if discriminant is not None:
        compared = [k for k, pack in enumerate(packs) if pack.statistics is not None]
        behind[:, compared] = discriminant.behind(audio.pooled_features.cpu().numpy())
    return (options.discriminant_weight * behind).tolist()


def _is_candidate(row: Sequence[PackScore], k: int, options: SelectorOptions) -> bool:
    """Whether pack k runs its upper layers for a window."""
    if options.rule == "paper" or options.max_candidates is None:
        return True
    heads = [score.head_log_odds for score in row]
    before = sum(head > heads[k] or (head == heads[k] and i < k) for i, head in enumerate(heads))
    return before < options.max_candidates and heads[k] > options.head_threshold
