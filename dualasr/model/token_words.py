"""Words from the primary's text tokens, so that each word can be given its time.

A token is a part of a word, and sometimes only a part of a character. The steps are those of
openai-whisper (MIT licence), and so are the lists of punctuation and of languages:

1. join tokens until they spell whole characters;
2. join these parts at spaces; in a language written without spaces each part is a word;
3. join punctuation to the word that it belongs to.
"""

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import WhisperTokenizer

# Chinese, Japanese, Thai, Lao, Burmese, Cantonese
WRITTEN_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
OPENING_PUNCTUATION, CLOSING_PUNCTUATION = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"
# what the tokenizer writes for bytes that are no whole character
REPLACEMENT = "\ufffd"

Word = tuple[str, int]  # text with the space before it, number of tokens
Part = tuple[str, int, bool]  # text, number of tokens, whether it begins with a special token


def token_words(
    tokenizer: "WhisperTokenizer", tokens: Sequence[int], language: str | None
) -> list[Word]:
    """Join text tokens to words.

    Args:
        tokenizer: The tokenizer that the tokens come from.
        tokens: Token ids of a text, without timestamps.
        language: Code of the text's language; None for English.

    Returns:
        (text, number of tokens) of each word. The texts, joined, are the whole text: a space
        belongs to the word after it. The numbers add up to the number of tokens.
    """
    parts = _whole_characters(tokenizer, tokens)
    if language not in WRITTEN_WITHOUT_SPACES:
        parts = _join_at_spaces(parts)
    return _join_punctuation([(text, count) for text, count, _ in parts])


def _whole_characters(tokenizer: "WhisperTokenizer", tokens: Sequence[int]) -> list[Part]:
    """Cut tokens into the shortest runs that spell whole characters."""

    def decode(ids: Sequence[int]) -> str:
        text = tokenizer.decode(ids, decode_with_timestamps=True)
        assert isinstance(text, str)  # a list for a batch alone
        return text

    full, end = decode(tokens), tokenizer.eos_token_id
    assert isinstance(end, int)  # special tokens and timestamps have ids from here up
    parts: list[Part] = []
    run: list[int] = []
    at = 0  # of the run's first character in the full text
    for token in tokens:
        run.append(token)
        text = decode(run)
        cut = text.find(REPLACEMENT)
        # The run ends inside a character, unless the full text has the replacement there, too.
        if cut < 0 or full[at + cut : at + cut + 1] in ("", REPLACEMENT):
            parts.append((text, len(run), run[0] >= end))
            run, at = [], at + len(text)
    return parts


def _join_at_spaces(parts: Sequence[Part]) -> list[Part]:
    """Join each part that has no space before it to the word before.

    Punctuation and special tokens stay words of their own.
    """
    words: list[Part] = []
    for text, count, special in parts:
        if words and not (special or text.startswith(" ") or text.strip() in string.punctuation):
            before, counted, kind = words.pop()
            text, count, special = before + text, counted + count, kind
        words.append((text, count, special))
    return words


def _join_punctuation(words: Sequence[Word]) -> list[Word]:
    """Join opening punctuation to the word after it, then closing to the word before it."""
    opened: list[Word] = []  # from the last to the first
    for text, count in reversed(words):
        if opened and text.startswith(" ") and text.strip() in OPENING_PUNCTUATION:
            after, counted = opened.pop()
            text, count = text + after, count + counted
        opened.append((text, count))
    closed: list[Word] = []
    for text, count in reversed(opened):
        if closed and not closed[-1][0].endswith(" ") and text in CLOSING_PUNCTUATION:
            before, counted = closed.pop()
            text, count = before + text, counted + count
        closed.append((text, count))
    return closed
