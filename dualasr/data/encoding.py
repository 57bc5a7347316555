"""The encoding of a text file: UTF-8 and UTF-16 are recognised, an older one is guessed."""

import codecs
import re
import unicodedata

from dualasr.data.utterance import NOT_UTF8, ReadNotes
from dualasr.languages import codes_of

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Encodings of files from before UTF-8. Where several fit, the first one is taken.
_OLDER = (
    "cp1252 cp1251 koi8_r cp1250 cp1254 cp1257 cp1253 cp932 euc_jp gb18030 big5 cp949 cp1255"
    " cp1256 cp874"
).split()
# Encodings of a language; they come first where the language of a file is known.
_OF_LANGUAGE = {
    code: encodings.split()
    for codes, encodings in (
        ("be bg kk ky mk mn ru sr tg uk", "cp1251 koi8_r cp866 iso8859_5"),
        ("bs cs hr hu pl ro sk sl sq", "cp1250 iso8859_2"),
        ("az tr", "cp1254"),
        ("et lt lv", "cp1257"),
        ("vi", "cp1258"),
        ("el", "cp1253"),
        ("he yi", "cp1255"),
        ("ar fa ps sd ug ur", "cp1256"),
        ("th", "cp874"),
        ("ja", "cp932 euc_jp"),
        ("ko", "cp949"),
        ("zh cmn yue", "gb18030 big5"),
    )
    for code in codes.split()
}
_CLOSE = 0.1  # charset-normalizer's "chaos": guesses that differ by less are equally good
_MOST = 100_000  # bytes that a guess is made from
_WORD = re.compile(r"[^\W\d_]+")


def marked_encoding(data: bytes) -> str | None:
    """Return the encoding of a file by its first bytes; None if they do not tell.

    It is told by a byte order mark, or in UTF-16 without one by the zeros in every second byte.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return "utf-8-sig" if name == "utf-8" else name
    start = data[:4000]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) > 0.05 * len(start) and len(start) > 3:
        # the upper half of a Latin letter, a digit, a space or a line break is zero
        return "utf-16-le" if odd > 5 * even else "utf-16-be" if even > 5 * odd else None
    return None


def guessed_encoding(data: bytes, language: str | None = None) -> str | None:
    """Guess the encoding of a file that is not UTF-8; None if there is none that fits.

    1. charset-normalizer gives the encodings in which the lines with bytes above 127 look like
       text.
    2. Those that mix scripts in a word, or make half-width katakana, are left out.
    3. Of the ones that are left, take one that is usual for the language, else the first in the
       order of `_OLDER`: the library's own order is no good for a few words.

    Args:
        data: The bytes of the file.
        language: Code of its language, if known.
    """
    from charset_normalizer import from_bytes

    own = next(
        (_OF_LANGUAGE[code] for code in codes_of(language or "") if code in _OF_LANGUAGE), []
    )
    order = [*own, *(name for name in _OLDER if name not in own)]
    data = data[:_MOST].rpartition(b"\n")[0] if len(data) > _MOST else data
    lines = b"\n".join(line for line in re.split(rb"[\r\n]+", data) if not line.isascii())
    matches = from_bytes(lines, cp_isolation=order)
    fitting = {
        name: match.chaos
        for match in matches
        for name in (match.encoding, *match.could_be_from_charset)
        if name in order and not _is_odd(str(match))
    }
    if not fitting:
        return None
    least = min(fitting.values())
    close = [name for name in order if fitting.get(name, 9.0) <= least + _CLOSE]
    return next((name for name in close if name in own), close[0])


def _is_odd(text: str) -> bool:
    """Whether a word mixes scripts, or there are half-width katakana."""
    for word in _WORD.findall(text):
        scripts = {unicodedata.name(char, "").split(" ")[0] for char in word}
        if "HALFWIDTH" in scripts or len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARABIC"}) > 1:
            return True
    return False


class Encodings:
    """Decodes the files of a corpus, and remembers those whose encoding was guessed."""

    def __init__(self, language: str | None) -> None:
        self.language = language
        self.guessed: dict[str, list[str]] = {}

    def decode(self, data: bytes, name: str) -> str:
        """Return the text of a file.

        Raises ValueError if it is not UTF-8, and no older encoding fits.
        """
        encoding = marked_encoding(data) or "utf-8"
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
        data = data.removeprefix(codecs.BOM_UTF8)
        if encoding.startswith("utf-8") and (guess := guessed_encoding(data, self.language)):
            self.guessed.setdefault(guess, []).append(name)
            try:
                return data.decode(guess)
            except UnicodeDecodeError as error:
                raise ValueError(f"{NOT_UTF8}, and not {guess} either ({error})") from None
        kind = NOT_UTF8 if encoding.startswith("utf-8") else f"is damaged {encoding.upper()}"
        raise ValueError(f"{kind}, and its encoding cannot be guessed; save it as UTF-8")

    def as_utf8(self, data: bytes, name: str) -> bytes:
        """Return the bytes of a file in UTF-8, without a byte order mark.

        A file that is mostly UTF-8 is returned as it is: the reader skips its bad lines.
        """
        if marked_encoding(data) in (None, "utf-8-sig"):
            data = data.removeprefix(codecs.BOM_UTF8)
            bad = good = 0
            for line in re.split(rb"[\r\n]+", data) if not data.isascii() else ():
                if not line.isascii():
                    is_good = _is_utf8(line)
                    good, bad = good + is_good, bad + (not is_good)
            if good >= bad:
                return data
        try:
            return self.decode(data, name).encode()
        except ValueError:
            return data

    def note(self, notes: ReadNotes) -> None:
        """Add a sentence for each encoding that was guessed."""
        for encoding, names in self.guessed.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            notes.add(
                f"not UTF-8, read as {encoding}, which is a guess: {', '.join(names[:3])}{more};"
                " look at a few texts"
            )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
