"""Make texts comparable: two normalisers, and the unit in which a language's errors are counted."""

import re
import unicodedata
from typing import Literal

from dualasr.languages import SPACELESS

NORMALISERS = ("whisper", "marks")

# ASCII apostrophe, right quote, modifier apostrophe; Uzbek's o‘ has the left quote or its modifier
_APOSTROPHES = "'’ʼ‘ʻ"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ


def normalise(text: str, method: str) -> str:
    """Remove case, punctuation and doubled spaces from a text, so that it can be scored.

    - "whisper" is the multilingual normaliser of Whisper (Radford et al. 2022, appendix C), which
      published error rates use. It drops text in brackets, and puts a space in place of every
      combining mark. So it breaks words in scripts that write vowels as marks: Odia "ଓଡ଼ିଆ ଭାଷା"
      (the Odia language) becomes "ଓଡ ଆ ଭ ଷ", and a wrong vowel is no error at all.
    - "marks" keeps combining marks: "ଓଡ଼ିଆ ଭାଷା" stays as it is. It applies NFKC and lower case.
      Punctuation and symbols become spaces, but the words in brackets stay. An apostrophe inside a
      word is a letter, written '. Marks stay on their letter, and ZWJ and ZWNJ stay between
      letters. Other control characters are removed.

    Report both: the first to compare with the literature, the second for the true errors.

    Args:
        text: A text in any script.
        method: One of `NORMALISERS`.

    Returns:
        The normalised text.

    Raises:
        ValueError: There is no such method.
    """
    if method == "whisper":
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return " ".join(BasicTextNormalizer(remove_diacritics=False)(text).split())
    if method == "marks":
        return _mark_safe(text)
    raise ValueError(f"normaliser {method!r} is unknown; choose one of {', '.join(NORMALISERS)}")


def scoring_unit(language: str) -> Literal["word", "character"]:
    """Return what to count: characters for a language written without spaces, else words.

    The language is a code with or without a region or script: `zh`, `zh-TW`, `cmn_hans`.
    """
    return "character" if re.split("[-_]", language.lower())[0] in SPACELESS else "word"


def _mark_safe(text: str) -> str:
    """Normalise a text by the Unicode category of each character and of its two neighbours."""
    # the replacement removes the combining dot that "İ".lower() leaves
    text = unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i")
    text = unicodedata.normalize("NFKC", text)
    kept = " "  # the last character of the result
    out = []
    for before, char, after in zip(" " + text, text, text[1:] + " ", strict=False):
        category, left, right = (unicodedata.category(c) for c in (char, before, after))
        if char in _APOSTROPHES:
            char = "'" if left[0] in "LMN" and right[0] in "LN" else " "
        elif char in _JOINERS:
            char = char if left[0] in "LM" and right[0] in "LM" else ""
        elif char.isspace() or category[0] in "PSZ":
            char = " "
        elif category in ("Cc", "Cf", "Cs") or (category[0] == "M" and kept == " "):
            char = ""  # a control character, or a mark without a letter before it
        if char:
            out.append(char)
            kept = char
    return " ".join(unicodedata.normalize("NFC", "".join(out)).split())
