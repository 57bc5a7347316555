"""The temperature fallback on a two-layer random Whisper, whose transcripts are all failures."""

import pytest
import torch

from dualasr.model.fallback import Fallback, compression_ratio, decode_with_fallback
from dualasr.model.search import Hypothesis


def test_what_fails():
    rule = Fallback()
    good = Hypothesis((1, 2, 3), "a quiet evening by the river", -1.0)
    unsure, loop = (
        Hypothesis((1, 2, 3), good.text, -8.0),
        Hypothesis((1, 2, 3), "river " * 40, -1.0),
    )
    assert not rule.fails(good, 0.0) and rule.fails(unsure, 0.0) and rule.fails(loop, 0.9)
    assert not rule.fails(unsure, 0.7), "unsure where nobody speaks is silence"
    assert not rule.fails(Hypothesis((1, 2, 3), loop.text, -8.0), 0.7), (
        "and so it is if it repeats itself"
    )
    assert not Fallback(logprob_threshold=None).fails(unsure, 0.0)
    assert not Fallback(compression_ratio_threshold=None).fails(loop, 0.0)


def test_a_text_that_repeats_itself_compresses():
    assert (
        compression_ratio("no no no no " * 20)
        > 2.4
        > 1.5
        > compression_ratio("Each of these words comes once only.")
    )
    assert compression_ratio("") == 0.0


@pytest.mark.parametrize("temperatures", [(), (0.0, -0.2), (float("nan"),)])
def test_temperatures_are_checked(temperatures):
    with pytest.raises(ValueError, match="temperatures"):
        Fallback(temperatures=temperatures)


def test_a_window_is_decoded_alike_in_any_batch(backbone, clips):
    """Sampled texts too; what does not fail keeps the text of plain decoding; other random numbers
    are left alone.
    """
    encoded = backbone.upper(backbone.trunk(backbone.features(clips), 1), 1)
    languages, silence = ["en"] * len(clips), [0.0] * len(clips)
    always = Fallback((0.0, 0.7), compression_ratio_threshold=None, logprob_threshold=1.0)
    never = Fallback((0.0, 0.7), compression_ratio_threshold=None, logprob_threshold=None)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together = decode_with_fallback(backbone, encoded, languages, silence, always)
    assert torch.equal(before, torch.random.get_rng_state())
    apart = [
        decode_with_fallback(backbone, encoded[i : i + 1], ["en"], [0.0], always)[0]
        for i in range(len(clips))
    ]
    assert [h.tokens for h in together] == [h.tokens for h in apart]
    plain = backbone.decode(encoded, languages)
    assert decode_with_fallback(backbone, encoded, languages, silence, never) == plain
    assert [h.tokens for h in together] != [h.tokens for h in plain]
