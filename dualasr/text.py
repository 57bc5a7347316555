"""One form of a text; two normalisers, to score it; the unit in which its errors are counted."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

from dualasr.languages import SPACELESS

NORMALISERS = ("whisper", "marks")

# ASCII apostrophe, right quote, modifier apostrophe; Uzbek's o‘ has the left quote or its modifier
_APOSTROPHES = "'’ʼ‘ʻ"
_JOINERS = "\u200c\u200d"  # ZWNJ, ZWJ

# Scripts in which ZWNJ and ZWJ change what is written: those that join their letters, and those of
# Brahmi's family, which join consonants to conjuncts. The names are the first words of the Unicode
# names of their letters.
_JOINING = frozenset(
    "ADLAM ARABIC BALINESE BENGALI BRAHMI CHAKMA DEVANAGARI GRANTHA GUJARATI GURMUKHI JAVANESE"
    " KAITHI KANNADA KHMER KHUDAWADI LEPCHA LIMBU MALAYALAM MANDAIC MEETEI MODI MONGOLIAN"
    " MYANMAR NEWA NKO ORIYA PHAGS-PA SHARADA SINHALA SUNDANESE SYLOTI SYRIAC TAI TAKRI TAMIL"
    " TELUGU TIBETAN TIRHUTA".split()
)
# Format characters that are seen: the number signs of Arabic, Syriac and Kaithi
_SEEN = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_TATWEEL, _VOWEL_SEPARATOR = "\u0640", "\u180e"


def one_form(text: str) -> str:
    """Return a text in the one form that corpora, training and scoring use.

    It is Unicode's NFC, without characters that nobody sees: format characters such as U+200B (zero
    width space), U+00AD (soft hyphen), U+FEFF, marks of direction, and Arabic's tatweel, which only
    makes a word longer. ZWJ stays behind a letter of a script that needs it, as Sinhala; ZWNJ
    between two, as in Persian. Control characters stay; `dualasr corpus check` names them.

    Args:
        text: A text in any script.
    """
    if text.isascii():
        return text
    kept = (char for char, kept in _marked(unicodedata.normalize("NFC", text)) if kept)
    return unicodedata.normalize("NFC", "".join(kept))


def invisible(text: str) -> list[str]:
    """Return the characters that `one_form` drops from a text, each once, in their order."""
    text = unicodedata.normalize("NFC", text)
    return list(dict.fromkeys(char for char, kept in _marked(text) if not kept))


def _marked(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character, and whether it belongs to the text."""
    before = " "  # the last character that belongs to it
    for i, char in enumerate(text):
        if char in _JOINERS:
            kept = _joins(before) and (
                char == "\u200d" or _joins(text[i + 1 : i + 2].lstrip(_JOINERS) or " ")
            )
        elif char == _VOWEL_SEPARATOR:
            kept = _joins(before)
        else:
            kept = char != _TATWEEL and (char in _SEEN or unicodedata.category(char) != "Cf")
        yield char, kept
        if kept:
            before = char


def _joins(char: str) -> bool:
    """Whether this is a letter or a mark of a script that needs ZWNJ and ZWJ."""
    return (
        not char.isascii()
        and unicodedata.category(char)[0] in "LM"
        and unicodedata.name(char, "").split(" ")[0] in _JOINING
    )


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

    Report both: the first to compare with the literature, the second for the true errors. The
    invisible characters that `one_form` drops make no difference, but "whisper" keeps every ZWJ and
    ZWNJ.

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

        if not text.isascii():
            text = "".join(c for c, kept in _marked(text) if kept or c in _JOINERS)
        return " ".join(BasicTextNormalizer(remove_diacritics=False)(text).split())
    if method == "marks":
        return _mark_safe(one_form(text))
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
        elif (
            category in ("Cc", "Cf", "Cs")
            or char == _TATWEEL  # NFKC makes it of some forms for display
            or (category[0] == "M" and kept == " ")
        ):
            char = ""  # a control character, or a mark without a letter before it
        if char:
            out.append(char)
            kept = char
    return " ".join(unicodedata.normalize("NFC", "".join(out)).split())
