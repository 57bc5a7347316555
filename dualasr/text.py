"""Text made comparable: two scoring normalisers, the unit a language is scored in, the words of a
corpus.
"""

import re
import unicodedata
from typing import Literal

from dualasr.languages import SPACELESS

NORMALISERS = ("whisper", "marks")

# ASCII, right quote, modifier apostrophe; left quote and its modifier are Uzbek's o‘
_APOSTROPHES = "'’ʼ‘ʻ"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ


def normalise(text: str, method: str) -> str:
    """Text without case, punctuation and doubled spaces, for scoring. `method` is one of
    `NORMALISERS`:

    - "whisper": the multilingual normaliser of Whisper (Radford et al. 2022, appendix C), which
      published error rates use. It drops what stands in brackets and puts a space in place of every
      combining mark, so it breaks words of the scripts that write vowels as marks: Odia "ଓଡ଼ିଆ
      ଭାଷା" (the Odia language) becomes "ଓଡ ଆ ଭ ଷ", and a wrong vowel is no error at all.
    - "marks": safe for marks, "ଓଡ଼ିଆ ଭାଷା" stays as it is. NFKC and lower case; punctuation and
      symbols become spaces, but the words in brackets stay; an apostrophe inside a word is a
      letter, written '; marks stay on their letter, ZWJ and ZWNJ between letters; other control
      characters go.

    Report both: the first to compare with the literature, the second to know. Raises ValueError for
    another method.
    """
    if method == "whisper":
        from transformers.models.whisper.english_normalizer import BasicTextNormalizer

        return " ".join(BasicTextNormalizer(remove_diacritics=False)(text).split())
    if method == "marks":
        return _mark_safe(text)
    raise ValueError(f"normaliser {method!r} is unknown; choose one of {', '.join(NORMALISERS)}")


def scoring_unit(language: str) -> Literal["word", "character"]:
    """What to count: characters for a language written without spaces, else words. Takes `zh`,
    `zh-TW`, `cmn_hans`.
    """
    return "character" if re.split("[-_]", language.lower())[0] in SPACELESS else "word"


def _mark_safe(text: str) -> str:
    # "İ".lower() leaves a dot behind
    text = unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i")
    text = unicodedata.normalize("NFKC", text)
    kept = " "
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
            char = ""  # a control, or a mark with no letter to stand on
        if char:
            out.append(char)
            kept = char
    return " ".join(unicodedata.normalize("NFC", "".join(out)).split())
