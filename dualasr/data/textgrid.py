r"""Read Praat TextGrids.

The parser is our own. praatio reads most of these files, too, but stops at others with an
IndexError, tells no lines, and leaves Praat's backslash trigraphs (`sch\o"n`) as they are; tgt
reads neither the short format nor UTF-16.
"""

import re
from bisect import bisect

from dualasr.data.utterance import Annotation, Annotations

_TOKEN = re.compile(r'"((?:[^"]|"")*+)"|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)|![^\n]*')
_TRIGRAPH = re.compile(r"\\([ -~]{2})")

# Praat's special symbols: a backslash and two characters. From the pages "Special symbols" and
# "Phonetic symbols" of Praat's manual, https://praat.org/manual/Special_symbols.html
_SYMBOLS = r"""
a` à a' á a^ â a~ ã a" ä ao å a; ą c' ć c< č d< ď d- đ e` è e' é e^ ê e" ë e< ě e; ę g< ǧ i` ì i' í
i^ î i" ï l/ ł n' ń n~ ñ n< ň o` ò o' ó o^ ô o~ õ o" ö o: ő r< ř s' ś s< š t< ť u` ù u' ú u^ û u" ü
u: ű uo ů y' ý y" ÿ z' ź z< ž z! ż
A` À A' Á A^ Â A~ Ã A" Ä Ao Å A; Ą C' Ć C< Č D< Ď D- Đ E` È E' É E^ Ê E" Ë E< Ě E; Ę G< Ǧ I` Ì I' Í
I^ Î I" Ï L/ Ł N' Ń N~ Ñ N< Ň O` Ò O' Ó O^ Ô O~ Õ O" Ö O: Ő R< Ř S' Ś S< Š T< Ť U` Ù U' Ú U^ Û U" Ü
U: Ű Uo Ů Y' Ý Y" Ÿ Z' Ź Z< Ž Z! Ż
ss ß ae æ c, ç o/ ø th þ Ae Æ C, Ç O/ Ø Th Þ
!d ¡ ?d ¿ -- – +- ± bs \ 'a ' "l “ "r ” << « >> » .c · dg ° c/ ¢ Lp £ cu ¤ eu € Y= ¥ SS § || ¶
co © re ® a_ ª o_ º FI ﬁ FL ﬂ
al α be β ga γ de δ ep ε ze ζ et η te θ t2 ϑ io ι ka κ la λ mu μ nu ν xi ξ on ο pi π ro ρ si σ s2 ς
ta τ up υ fi φ f2 ϕ ci χ ps ψ om ω o2 ϖ
Al Α Be Β Ga Γ De Δ Ep Ε Ze Ζ Et Η Te Θ Io Ι Ka Κ La Λ Mu Μ Nu Ν Xi Ξ On Ο Pi Π Ro Ρ Si Σ Ta Τ Up Υ
Fi Φ Ci Χ Ps Ψ Om Ω
?+ א B+ ב G+ ג D+ ד H+ ה V+ ו Z+ ז X+ ח Y+ ט J+ י K% ך K+ כ L+ ל M% ם M+ מ N% ן N+ נ S+ ס 9+ ע P% ף
P+ פ C% ץ C+ צ Q+ ק R+ ר W+ ש T+ ת
tm ™ TM ™ no ¬ xx × :- ÷ fd ƒ bu • 'p ′ "p ″ At ∀ dd ∂ Er ∃ O| ∅ e= ∈ su ∑ -m − /d ∕ Vr √ oc ∝
oo ∞ an ∧ or ∨ ni ∩ uu ∪ in ∫ .3 ∴ =~ ≅ ~~ ≈ =/ ≠ =3 ≡ <_ ≤ >_ ≥ c= ⊂ o+ ⊕ ox ⊗ Tt ⊥ .. ⋯ cl ♣ di ♦
he ♥ sp ♠ <- ← ^| ↑ -> → _| ↓ <> ↔ <= ⇐ ^# ⇑ => ⇒ _# ⇓ eq ⇔ pf ☞ f5 ❀
dh ð h- ħ oe œ at ɐ as ɑ ay ɒ ab ɒ b^ ɓ [f [ ]f ] bc ʙ ct ɔ cc ɕ d. ɖ d^ ɗ e- ɘ sw ə sr ɚ ef ɛ er ɜ
kb ɞ j- ɟ g^ ɠ gs ɡ gc ɢ gf ɣ rh ɤ G^ ʛ ht ɥ h^ ɦ hj ɧ hc ʜ i- ɨ ic ɪ jc ʝ l~ ɫ l- ɬ l. ɭ lz ɮ lc ʟ
mt ɯ ml ɰ mj ɱ ng ŋ nj ɲ n. ɳ nc ɴ o- ɵ Oe ɶ |1 ǀ |2 ǁ |- ǂ |f | ff ɸ rt ɹ rl ɺ r. ɻ f. ɽ fh ɾ rc ʀ
ri ʁ s. ʂ sh ʃ j^ ʄ t. ʈ u- ʉ hs ʊ vs ʋ vt ʌ wt ʍ yt ʎ yc ʏ z. ʐ zc ʑ zh ʒ ?g ʔ 9e ʕ O. ʘ ?- ʡ 9- ʢ
:f ː .f ˑ hr ˞ bf β tf θ cf χ '1 ˈ '2 ˌ ^h ʰ ^H ʱ ^j ʲ ^w ʷ ^Y ᶣ ^y ʸ ^? ˀ ^9 ˁ ^l ˡ ^s ˢ ^g ˠ ^M ᵚ
^G ᶭ ^x ˣ ^f ᶠ ^n ⁿ ^m ᵐ ^N ᵑ id ɿ ir ʅ _u ‿ ts ʦ tS ʧ ap ʼ
""".split()
# those that stand over or under a letter, or are not seen, by their code points
_MARKS = """
`^ 0300 '^ 0301 ^^ 0302 ~^ 0303 -^ 0304 N^ 0306 :^ 0308 0^ 030A v^ 030C T( 0318 T) 0319 cn 031A
cv 031C T^ 031D Tv 031E +v 031F -v 0320 :v 0324 0v 0325 |v 0329 Nv 032A nv 032F ~v 0330 ~< 0334
3v 0339 Uv 033A Dv 033B li 0361 -h 00AD
hI 05B4 cE 05B5 sE 05B6 pA 05B7 qA 05B8 hO 05B9 qU 05BB dq 05BC sU FB35 vO FB4B
""".split()
SYMBOLS = dict(zip(_SYMBOLS[::2], _SYMBOLS[1::2], strict=True)) | {
    code: chr(int(point, 16)) for code, point in zip(_MARKS[::2], _MARKS[1::2], strict=True)
}


def decode_trigraphs(text: str) -> str:
    r"""Return a label with Praat's backslash trigraphs as letters: `sch\o"n` as `schön`.

    A backslash before two other characters stays as it is, as in Praat.
    """
    return _TRIGRAPH.sub(lambda match: SYMBOLS.get(match[1], match[0]), text)


def parse_textgrid(text: str) -> Annotations:
    """Read the intervals of a Praat TextGrid in its long or short format.

    Only quoted strings and numbers that stand alone are read, as Praat does. In these tokens the
    two formats are the same. Points have no length; they are counted and left out.

    Args:
        text: The content of the file.

    Raises:
        ValueError: The text is no TextGrid, or is cut short.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    tokens = (match for match in _TOKEN.finditer(text) if match.lastindex)

    def take(kind: int) -> str:
        token = next(tokens, None)
        if token is None or token[kind] is None:
            line = 0 if token is None else bisect(starts, token.start())
            wanted = "a number" if kind == 2 else "a string"
            raise ValueError(
                f"is cut short or no TextGrid: wanted {wanted} "
                + (f"in line {line}" if line else "at its end")
            )
        return token[kind].replace('""', '"')

    def count() -> int:
        value = float(take(2))
        if not 0 <= value < 1e9:
            raise ValueError(f"is no TextGrid: it counts {value:g} tiers or intervals")
        return int(value)

    if not (take(1).startswith("ooTextFile") and take(1).startswith("TextGrid")):
        raise ValueError('is no TextGrid: wanted "ooTextFile" and "TextGrid" at its start')
    span = float(take(2)), float(take(2))
    segments: list[tuple[int, Annotation | str]] = []
    points = 0
    for _ in range(count()):
        kind, tier = take(1), decode_trigraphs(take(1))
        take(2), take(2)
        for _ in range(count()):
            start = float(take(2))
            end = float(take(2)) if kind == "IntervalTier" else None
            token = next(tokens, None)
            if token is None or token[1] is None:
                raise ValueError("is cut short or no TextGrid: an interval has no text")
            if end is None:
                points += 1
                continue
            said = decode_trigraphs(token[1].replace('""', '"'))
            line = bisect(starts, token.start())
            segments.append((line, Annotation(said, start, end, tier)))
    return Annotations(tuple(segments), span=span, points=points)
