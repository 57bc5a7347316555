"""A pack's vocabulary that is a part of the base's."""

import pytest
import torch

from dualasr.model.secondary import Secondary, SecondaryOptions
from dualasr.model.tokenizer import PackTokenizer

TEXTS = [
    "Тоодо кар жаады, суу аккан.",
    "Los niños comen pan con queso.",
    "The house on the hill is old; the hill is green!",
    "ночь 7 часов",
]


@pytest.fixture
def base(backbone):
    return backbone.tokenizer.backend_tokenizer


def spelled(tokenizer, text):
    return [tokenizer.pieces[i - tokenizer.first_text] for i in tokenizer.encode(text)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_text_is_spelled_as_the_base_spells_it_after_a_space(base, count):
    tokenizer = PackTokenizer.of_base(TEXTS[:count], ("xx", "yy"), base)
    for text in TEXTS[:count]:
        assert spelled(tokenizer, text) == base.encode(" " + text, add_special_tokens=False).tokens
        assert tokenizer.decode(tokenizer.encode(text)) == (text, 0)
    assert set(tokenizer.pieces) <= set(base.get_vocab())
    assert tokenizer.size == tokenizer.first_text + len(set(tokenizer.pieces))
    assert any(len(piece) > 3 for piece in tokenizer.pieces), "whole units, not bytes alone"


def test_any_other_text_can_be_spelled(base):
    tokenizer = PackTokenizer.of_base(TEXTS[1:2], ("xx",), base)
    for text in ("ქართული 😀 ж", "zzz", "los", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == (text, 0)


def test_the_units_start_as_the_base_knows_them(backbone, base):
    """Each unit is one token of the base, so its first row is the base's row."""
    tokenizer = PackTokenizer.of_base(TEXTS, ("xx",), base)
    secondary = Secondary(backbone, tokenizer, SecondaryOptions(decoder="whisper"))
    rows = backbone.decoder.embed_tokens.weight
    for i, piece in enumerate(tokenizer.pieces):
        row = secondary.decoder.output[tokenizer.first_text + i]
        assert torch.equal(row, rows[base.token_to_id(piece)]), piece
