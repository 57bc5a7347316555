"""Text: the normalisers on known lines, and what must hold for every character there is."""

import sys
import unicodedata
from pathlib import Path

import pytest

from dualasr.text import NORMALISERS, invisible, normalise, one_form, scoring_unit

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text"


@pytest.mark.parametrize(
    ("text", "whisper", "marks"),
    [
        ("Hello,  World!", "hello world", "hello world"),
        ("ଓଡ଼ିଆ ଭାଷା।", "ଓଡ ଆ ଭ ଷ", "ଓଡ଼ିଆ ଭାଷା"),
        ("well (laughs) [noise] <unk> done", "well done", "well laughs noise unk done"),
        ("Don't 'quote' rock'n'roll", "don t quote rock n roll", "don't quote rock'n'roll"),
        ("balk’i ñoqaʼta o‘zbek", "balk i ñoqaʼta o zbek", "balk'i ñoqa'ta o'zbek"),
        ("İSTANBUL IŞIK", "i stanbul işik", "istanbul işik"),
        ("ﬁne １２３ Ⅳ", "fine 123 iv", "fine 123 iv"),
        ("cafe\u0301", "café", "café"),
        ("100% 1,000 $5", "100 1 000 5", "100 1 000 5"),
        ("soft\u00adhyphen\ufeff", "softhyphen", "softhyphen"),
        ("مـــرحبا", "مرحبا", "مرحبا"),
        ("zero\u200bwidth a\u200db", "zerowidth a\u200db", "zerowidth ab"),
        ("a\tb\nc\u3000d\u00a0e", "a b c d e", "a b c d e"),
        ("می\u200cخواهم", "می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष \u200dक", "क \u200dष \u200dक", "क्\u200dष क"),
        ("❤\ufe0f ok \u0301", "ok", "ok"),
        ("´x' '", "x", "x"),
        ("你好，世界。", "你好 世界", "你好 世界"),
        ("…", "", ""),
        ("", "", ""),
    ],
)
def test_known_lines(text, whisper, marks):
    assert normalise(text, "whisper") == whisper
    assert normalise(text, "marks") == marks


@pytest.mark.parametrize(
    ("text", "form", "dropped"),
    [
        ("plain", "plain", []),
        # Vietnamese, composed and in pieces
        ("Bà ấy", "Bà ấy", []),
        (unicodedata.normalize("NFD", "Có ấy nấu cơm"), "Có ấy nấu cơm", []),
        ("ଓଡ଼ିଆ", "ଓଡ଼ିଆ", []),
        ("co\u00adoperative work\u200b here", "cooperative work here", ["\u00ad", "\u200b"]),
        ("\u200eplain \ufeffword", "plain word", ["\u200e", "\ufeff"]),
        ("\u202bשלום\u202c \u2067א\u2069", "שלום א", ["\u202b", "\u202c", "\u2067", "\u2069"]),
        ("مـــرحبا", "مرحبا", ["\u0640"]),
        ("e\u200d\u0301", "é", ["\u200d"]),
        ("a\u200db c\u200cd кар\u200cды", "ab cd карды", ["\u200d", "\u200c"]),
        # Persian, Kashmiri, Sinhala, Marathi, Malayalam's older chillu, Bengali, Khmer
        ("می\u200cخواهم", "می\u200cخواهم", []),
        ("ه\u200d.ش", "ه\u200d.ش", []),
        ("ශ්\u200dරී ලංකා", "ශ්\u200dරී ලංකා", []),
        ("क्\u200dष दुर्\u200dयोधन", "क्\u200dष दुर्\u200dयोधन", []),
        ("അവന്\u200d", "അവന്\u200d", []),
        ("র\u200d্যাব", "র\u200d্যাব", []),
        ("می\u200c خواهم \u200cمن\u200c", "می خواهم من", ["\u200c"]),
        ("می\u200c\u200cخواهم", "می\u200cخواهم", ["\u200c"]),
        ("٣\u06dd ok", "٣\u06dd ok", []),
        ("ᠠ\u180eᠢ a\u180eb", "ᠠ\u180eᠢ ab", ["\u180e"]),
    ],
)
def test_the_one_form_of_a_text(text, form, dropped):
    assert one_form(text) == form == one_form(form)
    assert invisible(text) == dropped and invisible(form) == []
    assert one_form(unicodedata.normalize("NFD", text)) == form
    assert normalise(text, "marks") == normalise(form, "marks")
    if not set(dropped) & {"\u200c", "\u200d"}:
        assert normalise(text, "whisper") == normalise(form, "whisper")


def test_the_one_form_holds_for_characters_of_every_kind():
    for around in ("{}", "a{}b", "क्{}ष", "م{} م"):
        for point in range(0, sys.maxunicode + 1, 61):
            form = one_form(text := around.format(chr(point)))
            assert one_form(form) == form and unicodedata.is_normalized("NFC", form), ascii(text)


def test_an_unknown_normaliser_is_refused_by_name():
    with pytest.raises(ValueError, match="'english' is unknown; choose one of whisper, marks"):
        normalise("x", "english")
    assert NORMALISERS == ("whisper", "marks")


@pytest.mark.parametrize("around", ["{}", "a{}b", "a {}b", "a{}\u0301", "क्{}ष"])
def test_marks_holds_for_characters_of_every_kind(around):
    for point in range(0, sys.maxunicode + 1, 3 if around == "a{}b" else 31):
        out = normalise(text := around.format(chr(point)), "marks")
        assert normalise(out, "marks") == out, f"not idempotent on {text!a}"
        assert out == unicodedata.normalize("NFC", " ".join(out.split())), ascii(text)
        kinds = {unicodedata.category(char) for char in out if char not in " '\u200c\u200d"}
        assert not any(kind[0] in "PSZ" or kind in ("Cc", "Cf", "Cs") for kind in kinds), ascii(
            text
        )


def test_marks_keeps_every_mark_and_letter_of_indic_scripts():
    for point in range(0x0900, 0x0E00):
        if unicodedata.category(char := chr(point))[0] in "LM":
            expected = unicodedata.normalize("NFKC", "क" + char)
            assert normalise("क" + char, "marks") == expected, f"U+{point:04X}"


@pytest.mark.parametrize(
    ("unit", "languages"),
    [
        (
            "character",
            "zh zh-TW ZH yue yue_hant_hk cmn_hans_cn ja ja_jp th lo my my_mm km km_kh bo",
        ),
        ("word", "en ky_kg or_in ko vi ga qu-EC ckb jv zu mi"),
    ],
)
def test_scoring_unit(unit, languages):
    assert {scoring_unit(language) for language in languages.split()} == {unit}


@pytest.mark.skipif(not TEXT.is_dir(), reason="shared/data/text is not there")
def test_real_sentences_keep_their_words():
    paths = sorted(TEXT.glob("cv_*.txt"))
    assert len(paths) >= 3
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines()[:50]:
            for method in NORMALISERS:
                out = normalise(line, method)
                assert normalise(out, method) == out, f"{path.name}: {line}"
            letters = sum(
                unicodedata.category(char)[0] in "LMN"
                for char in unicodedata.normalize("NFKC", line)
            )
            kept = sum(char not in "' \u200c\u200d" for char in normalise(line, "marks"))
            assert kept >= letters - line.count("ʼ") - line.count("ʻ") - line.upper().count("İ"), (
                line
            )
