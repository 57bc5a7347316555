"""Language identification: encoded windows, and each pack's scores of them.

The trunk of a window is computed once for all packs. A pack's upper layers run only on the windows
where its language head makes it a candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dualasr.model.interrupt import OnStep, uninterrupted
from dualasr.model.language_statistics import Discriminant
from dualasr.model.pack import Pack
from dualasr.model.secondary import slice_trunk
from dualasr.model.selector import PackScore, SelectorOptions

MIN_UNCERTAINTY = -10.0  # lowest log(1 - p) of the primary's best language; lower values are raised
NO_TEXT = -5.0  # confidence and phonotactics of a window for which a CTC head writes nothing
MIN_OTHER = -50.0  # lowest log-probability of `<|other|>`, which keeps log-odds finite


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodedAudio:
    """A batch of windows after the encoder and the first decoder step of the primary.

    Attributes:
        seconds: Length of each window, in seconds.
        frames: Number of encoder frames of each window that hold its sound; the rest is padding.
        trunks: By fork, the output of the frozen layers below it, (batch, positions, width).
        encoded: The primary's encoder output, (batch, positions, width).
        language_log_probs: Log-probabilities of the primary's languages, (batch, languages).
        no_speech_prob: The primary's no-speech probability of each window.
        pooled_features: Mean and deviation of the encoder output and the state of the first decoder
            step, (batch, 3 x width).
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
        """Return some of the windows, in the order of `rows`.

        All windows in their own order are returned without a copy.
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
        rows: Numbers of these windows in the batch.
        encoded: The encoder output, (rows, frames, width).
        lengths: Number of frames of each window that belong to its sound, (rows,).
    """

    rows: tuple[int, ...]
    encoded: torch.Tensor
    lengths: torch.Tensor

    def of(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the encoder output, (rows, frames, width), and the lengths, (rows,), of windows.

        None if one of the windows was not encoded.
        """
        if not set(rows) <= set(self.rows):
            return None
        index = torch.tensor([self.rows.index(i) for i in rows], device=self.encoded.device)
        return self.encoded[index], self.lengths[index]


def encode(
    pack: Pack,
    audio: EncodedAudio,
    rows: Sequence[int] | None = None,
    on_step: OnStep = uninterrupted,
) -> PackEncoding:
    """Run a pack's upper layers on the trunk of windows.

    Args:
        pack: The pack.
        audio: The encoded windows.
        rows: Numbers of the windows to encode; None for all.
        on_step: Function that is called between steps; it may raise, to stop the work.

    Returns:
        The pack's encoder output for these windows.
    """
    rows = range(len(audio)) if rows is None else rows
    chosen = audio.of(rows)
    trunk, lengths = slice_trunk(chosen.trunks[pack.secondary.options.fork], list(chosen.frames))
    return PackEncoding(tuple(rows), pack.secondary.encode(trunk, lengths, on_step), lengths)


def allowed(codes: Sequence[str], languages: frozenset[str] | None) -> list[int]:
    """Return the indices of the languages that are allowed.

    Args:
        codes: Codes of languages.
        languages: Codes of the allowed ones; None allows all.
    """
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
    on_step: OnStep = uninterrupted,
) -> tuple[list[list[PackScore]], dict[str, PackEncoding]]:
    """Score every window with every pack (steps 1 to 5 of the selector).

    Args:
        packs: The loaded packs.
        audio: The encoded windows.
        options: The selector's settings; they decide for which windows a pack's upper layers run.
        discriminant: Compares the packs that have statistics; None if fewer than two have.
        languages: Codes of the allowed languages; None for all.
        tags: False runs no tag step at all.
        on_step: Function that is called between steps; it may raise, to stop the work.

    Returns:
        For each window the scores of all packs, in the order of the packs; and by pack the encoder
        output that was computed for the tag steps.
    """
    # steps 1 to 3: the primary's uncertainty, the heads and the penalties, for every pack
    best = audio.language_log_probs.max(-1).values
    uncertainty = (-best.expm1()).log().clamp_min(MIN_UNCERTAINTY).tolist()
    penalties = _penalties(packs, audio, options, discriminant)
    columns = [_head_scores(pack, audio, languages) for pack in packs]
    rows = [
        [
            replace(column[i], primary_uncertainty=uncertainty[i], penalty=penalties[i][k])
            for k, column in enumerate(columns)
        ]
        for i in range(len(audio))
    ]
    # step 4: upper layers and tag step, for the candidates alone
    encodings: dict[str, PackEncoding] = {}
    for k, pack in enumerate(packs):
        candidates = [i for i, row in enumerate(rows) if tags and _is_candidate(row, k, options)]
        if candidates:
            encodings[pack.name] = encode(pack, audio, candidates, on_step)
            scores = [rows[i][k] for i in candidates]
            found = _with_tags(pack, encodings[pack.name], scores, languages)
            for i, score in zip(candidates, found, strict=True):
                rows[i][k] = score
    # step 5 is computed on demand: PackScore.log_odds
    return rows, encodings


def _head_scores(
    pack: Pack, audio: EncodedAudio, languages: frozenset[str] | None
) -> list[PackScore]:
    """Score each window with a pack's language head, over its allowed languages and "other"."""
    codes = list(pack.info.languages)
    may = allowed(codes, languages)
    trunk, lengths = slice_trunk(audio.trunks[pack.secondary.options.fork], list(audio.frames))
    logits = pack.secondary.language_logits(trunk, lengths)[:, [0, *(1 + i for i in may)]]
    heads = (logits[:, 1:].logsumexp(-1) - logits[:, 0]).tolist()
    shares = logits[:, 1:].softmax(-1).tolist()
    return [
        PackScore(
            name=pack.name,
            languages=tuple(codes[i] for i in may),
            head=head,
            calibration=pack.info.calibration,
            shares=tuple(share),
        )
        for head, share in zip(heads, shares, strict=True)
    ]


def _with_tags(
    pack: Pack,
    encoding: PackEncoding,
    scores: Sequence[PackScore],
    languages: frozenset[str] | None,
) -> list[PackScore]:
    """Add the scores of a pack's tag step to those of the windows that it encoded."""
    may = allowed(list(pack.info.languages), languages)
    log_probs = pack.secondary.tag_step(encoding.encoded, encoding.lengths)
    texts = text_scores(pack, encoding)
    steps = log_probs[:, [0, *(1 + i for i in may)]]
    found = []
    for score, step, (confidence, phonotactics) in zip(scores, steps, texts, strict=True):
        mine = step[1:].logsumexp(-1)
        found.append(
            replace(
                score,
                tag=float(mine - step[0].clamp_min(MIN_OTHER)),
                shares=tuple((step[1:] - mine).exp().tolist()),
                best_tag=float((step[1:] - mine).max()),
                confidence=confidence,
                phonotactics=phonotactics,
            )
        )
    return found


def text_scores(pack: Pack, encoding: PackEncoding) -> list[tuple[float, float]]:
    """Score the text that a pack's CTC head writes for windows, by its best path.

    Args:
        pack: The pack.
        encoding: Its encoder output for the windows.

    Returns:
        For each window confidence and phonotactics, as `PackScore` has them; both are NO_TEXT where
        the head writes nothing.
    """
    log_probs = pack.secondary.ctc_log_probs(encoding.encoded)
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    best = log_probs.argmax(-1)
    found = []
    for entropy, path, length in zip(entropies, best, encoding.lengths.tolist(), strict=True):
        path = path[:length]
        units = torch.unique_consecutive(path)
        text = units[units > 0].tolist()
        if not text:
            found.append((NO_TEXT, NO_TEXT))
            continue
        phonotactics = 0.0
        if pack.ngrams is not None:
            gain = (pack.ngrams.score(text) - pack.ngrams.score(text, 1))[:-1]
            phonotactics = float(gain.sum() / len(text) ** 0.5)
        found.append((-float(entropy[:length][path > 0].mean()), phonotactics))
    return found


def _penalties(
    packs: Sequence[Pack],
    audio: EncodedAudio,
    options: SelectorOptions,
    discriminant: Discriminant | None,
) -> list[list[float]]:
    """Return each pack's penalty for every window; 0 for a pack without statistics."""
    behind = np.zeros((len(audio), len(packs)))
    if discriminant is not None:
        compared = [k for k, pack in enumerate(packs) if pack.statistics is not None]
        behind[:, compared] = discriminant.behind(audio.pooled_features.cpu().numpy())
    return (options.discriminant_weight * behind).tolist()


def _is_candidate(row: Sequence[PackScore], k: int, options: SelectorOptions) -> bool:
    """Return whether pack k runs its upper layers for a window."""
    if options.rule == "paper" or options.max_candidates is None:
        return True
    heads = [score.head_log_odds for score in row]
    before = sum(head > heads[k] or (head == heads[k] and i < k) for i, head in enumerate(heads))
    return before < options.max_candidates and heads[k] > options.head_threshold
