"""Beam search with any step-wise decoder, and CTC search over characters.

Beam search calls a decoder's `start` and `step` (`decoder.StepDecoder`) and decodes a whole batch
at once. CTC search works on the log-probabilities of one clip.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dualasr.model.decoder import StepDecoder
from dualasr.model.interrupt import OnStep, uninterrupted

Tokens = tuple[int, ...]
Scored = tuple[Tokens, float, bool]  # tokens, log-probability, finished
Kept = tuple[Tokens, float, int, int]  # text, score, row of the text that it extends, last token


@dataclass(frozen=True)
class Hypothesis:
    """A transcript with the decoder's own log-probability of it.

    Attributes:
        tokens: Ids of the text units, without tag and end.
        text: The text that they spell.
        logprob: Sum of the log-probabilities of the tokens and the end.
        finished: False where the length limit cut it.
        temperature: The temperature of sampling; 0 where the most likely text was searched for.
    """

    tokens: Tokens
    text: str
    logprob: float
    finished: bool = True
    temperature: float = 0.0

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability of a token, the end included."""
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
    on_step: OnStep = uninterrupted,
) -> list[list[Scored]]:
    """Search the most likely texts of a batch of clips; beam 1 is greedy search.

    1. Feed the prefix, then repeat each clip's memory and state for its `beam` texts.
    2. Add the log-probabilities of the next token to the scores of all texts of a clip.
    3. Take the 2 x beam best extensions of each clip (there are always `beam` among them that do
       not end), best first. One that ends is finished if it is among the `beam` best; the first
       `beam` that do not end stay open.
    4. A clip is done with `beam` finished texts, or at its length limit, where open texts are cut.
       Its rows leave the batch.
    5. Feed the last tokens of the open texts and go on with 2.

    At the end the texts of a clip are ordered by their mean log-probability per token, the end
    included; so long texts are not put behind short ones.

    Args:
        decoder: The decoder.
        encoded: (batch, frames, width) encoder output.
        lengths: (batch,) frames of each clip.
        prefix: (batch, given) tokens that all texts of a clip begin with.
        beam: Number of texts that stay open.
        limits: (batch,) most tokens of a text, the prefix apart.
        on_step: Function that is called between steps; it may raise, to stop the work.

    Returns:
        For each clip up to `beam` (tokens, log-probability, finished), best first.
    """
    memory, state = decoder.start(encoded, lengths)
    for column in range(prefix.shape[1]):
        log_probs, state = decoder.step(prefix[:, column], memory, state)
    memory = tuple(part.repeat_interleave(beam, 0) for part in memory)
    state = tuple(part.repeat_interleave(beam, 0) for part in state)
    log_probs, size = log_probs.repeat_interleave(beam, 0), log_probs.shape[-1]
    # Before the first token all texts of a clip are empty: only the first may be extended.
    scores = torch.full((len(encoded), beam), -torch.inf, device=encoded.device)
    scores[:, 0] = 0.0

    most: list[int] = limits.tolist()
    done: list[list[Scored]] = [[] for _ in most]
    clips = list(range(len(most)))  # those that are not done
    texts: list[list[Tokens]] = [[()] * beam for _ in clips]
    for length in range(max(most) + 1):
        on_step()
        total = (scores.unsqueeze(-1) + log_probs.view(len(clips), beam, size)).flatten(1)
        values, indices = total.topk(2 * beam if beam > 1 else 1)
        best, flat, before = values.tolist(), indices.tolist(), scores.tolist()
        open_clips: list[int] = []
        extended: list[list[Kept]] = []
        for row, clip in enumerate(clips):
            if length >= most[clip]:
                done[clip] += [
                    (texts[row][k], s, False) for k, s in enumerate(before[row]) if s > -np.inf
                ]
                continue
            kept: list[Kept] = []
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
            # Every clip has `beam` rows in the batch: fill up with texts that cannot win.
            kept += [((), -np.inf, row * beam, decoder.end)] * (beam - len(kept))
            open_clips.append(clip)
            extended.append(kept)
        if not open_clips:
            break
        clips, texts = open_clips, [[text for text, *_ in kept] for kept in extended]
        scores = torch.tensor(
            [[score for _, score, _, _ in kept] for kept in extended], device=encoded.device
        )
        rows = [(source, token) for kept in extended for _, _, source, token in kept]
        sources, tokens = torch.tensor(rows, device=encoded.device).unbind(1)
        state = tuple(part[sources] for part in state)
        if len(clips) * beam < len(memory[0]):
            memory = tuple(part[sources] for part in memory)
        log_probs, state = decoder.step(tokens, memory, state)
    return [
        sorted(found, key=lambda text: text[1] / (len(text[0]) + 1), reverse=True)[:beam]
        for found in done
    ]


def ctc_greedy(log_probs: np.ndarray) -> list[int]:
    """Return the units of CTC's best path, without repeats and blanks.

    `log_probs` is (frames, units); unit 0 is the blank.
    """
    best = log_probs.argmax(-1)
    return [
        int(unit) for i, unit in enumerate(best) if unit != 0 and (i == 0 or unit != best[i - 1])
    ]


def ctc_prefix_beam(
    log_probs: np.ndarray, *, beam: int = 8, units: int = 8, on_step: OnStep = uninterrupted
) -> list[tuple[Tokens, float]]:
    """Search the most likely texts of CTC by prefix beam search (Graves 2012, section 7.5.3).

    Many paths spell the same text. So each prefix has two sums over the paths that spell it up to
    a frame: of those that end in a blank, and of those that end in its last unit. At each frame

    1. the prefix itself lives on, by a blank or by its last unit once more;
    2. each of the `units` best units extends it; a unit equal to the last one needs a blank
       between them, or it would be a repeat;
    3. the `beam` best prefixes by the sum of both are kept.

    Args:
        log_probs: (frames, units) log-probabilities; unit 0 is the blank.
        beam: Number of prefixes kept.
        units: Number of units that may extend a prefix at a frame.
        on_step: Function that is called at each frame; it may raise, to stop the work.

    Returns:
        (units of the text, log-probability), best first.
    """
    never = -np.inf
    # log-probability of the paths that end in a blank, and of those that end in a unit
    beams: dict[Tokens, tuple[float, float]] = {(): (0.0, never)}
    for frame in log_probs:
        on_step()
        candidates = [
            int(u) for u in np.argpartition(-frame, min(units, len(frame) - 1))[:units] if u != 0
        ]
        if frame[0] > -1e-3:  # A blank for sure: no unit is worth a try. Most frames are such.
            candidates = []
        grown: dict[Tokens, list[float]] = {}

        def add(prefix: Tokens, blank: float, unit: float, grown=grown) -> None:
            slot = grown.setdefault(prefix, [never, never])
            slot[0], slot[1] = np.logaddexp(slot[0], blank), np.logaddexp(slot[1], unit)

        for prefix, (blank, unit) in beams.items():
            total = np.logaddexp(blank, unit)
            add(prefix, total + frame[0], unit + frame[prefix[-1]] if prefix else never)
            for u in candidates:
                repeated = bool(prefix) and prefix[-1] == u
                add(prefix + (u,), never, frame[u] + (blank if repeated else total))
        ranked = sorted(grown.items(), key=lambda item: -np.logaddexp(item[1][0], item[1][1]))
        beams = {prefix: (blank, unit) for prefix, (blank, unit) in ranked[:beam]}
    return [(prefix, float(np.logaddexp(*both))) for prefix, both in beams.items()]
