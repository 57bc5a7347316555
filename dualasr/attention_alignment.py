"""When each word of the primary's transcript was said: dynamic time warping of its decoder's cross-attention.

The method is openai-whisper's; the warping and the median filter are transformers' own.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from dualasr.transcript import Word

FILTER_WIDTH = 7  # frames


def warp_words(weights: torch.Tensor, probabilities: torch.Tensor, words: Sequence[tuple[str, int]], frame_s: float,
               seconds: float) -> tuple[Word, ...]:  # fmt: skip
    """The words of a window of so many seconds, in order and without overlap.

    weights (heads, tokens + 1, frames) over the clip's own frames, the last row the end token's; probabilities (tokens,);
    words as text and number of tokens, of which there are as many as tokens in all. A word's probability is the mean of
    its tokens'.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    heads = _median_filter(((weights - mean) / spread.clamp_min(1e-9)).unsqueeze(0), FILTER_WIDTH)[0]
    tokens, frames = _dynamic_time_warping(-heads.mean(0).double().cpu().numpy())
    first = np.flatnonzero(np.diff(tokens, prepend=-1))  # where the path comes to each token
    starts = frames[first] * frame_s
    found, at, likely = [], 0, probabilities.tolist()
    for text, count in words:
        begins, ends = (min(float(starts[place]), seconds) for place in (at, at + count))
        found.append(Word(begins, ends, text, sum(likely[at : at + count]) / count, False))
        at += count
    return tuple(found)
