"""When each word of a window was said, whichever pipeline wrote it."""

import re
from collections.abc import Sequence
from itertools import zip_longest

from dualasr.alignment import align_words
from dualasr.attention_alignment import warp_words
from dualasr.backbone import Span
from dualasr.bidding import Heard, encode
from dualasr.model import DualWhisper, WindowResult
from dualasr.selector import PRIMARY
from dualasr.text import scoring_unit
from dualasr.transcript import Word

LONG_PAUSE = 1.0  # s; nobody reads on over it
_SENTENCE_END = re.compile(r"[.!?…。！？؟۔।॥።]['\"”’»」』)\]]*\s*$")


def words_of(model: DualWhisper, heard: Heard, results: Sequence[WindowResult], task: str = "transcribe"
             ) -> list[tuple[Word, ...]]:  # fmt: skip
    """The words of each window, in seconds of the window.

    The primary's come from its decoder's cross-attention, a pack's from CTC forced alignment on its character head.
    """
    return [_words(model, heard.of([i]), result, task) for i, result in enumerate(results)]


def _words(model: DualWhisper, heard: Heard, result: WindowResult, task: str) -> tuple[Word, ...]:
    text, [seconds] = result.text.strip(), heard.seconds
    if not text:
        return ()
    if result.route != PRIMARY:
        pack = model.pack(result.route)
        secondary, (encoded, lengths) = pack.secondary, encode(pack, heard)
        frames = secondary.ctc_log_probs(encoded)[0, : int(lengths[0])]
        return align_words(frames, text, secondary.tokenizer, secondary.frame_s, seconds, scoring_unit(result.language))
    backbone = model.backbone
    tokens = backbone.text_tokens(result.tokens)
    weights, probabilities = backbone.attend(heard.encoded, result.language, tokens, task)
    frame_s = backbone.window_s / backbone.positions
    words = backbone.token_words(tokens, result.language)
    return warp_words(weights[..., : heard.frames[0]], probabilities, words, frame_s, seconds)


def sentences(words: Sequence[Word]) -> tuple[Span, ...]:
    """The sentences that words make, from the first word's start to the last one's end; a long pause ends one, too."""
    spans, mine = [], []
    for word, after in zip_longest(words, words[1:]):
        mine.append(word)
        if after is None or _SENTENCE_END.search(word.word) or after.start - word.end > LONG_PAUSE:
            spans.append(Span(mine[0].start, mine[-1].end, "".join(w.word for w in mine).strip()))
            mine = []
    return tuple(spans)
