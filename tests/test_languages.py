"""The languages of FLEURS: held against Whisper's own list, and known to a Whisper under either
name.
"""

import shutil
from dataclasses import replace

import pytest
import soundfile

from dualasr.data.corpus import Utterance
from dualasr.errors import CorpusError, PackError
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.languages import (
    LANGUAGES,
    NINETEEN,
    code_of,
    codes_of,
    english_name,
    language_of,
    nearest,
    tag_among,
)
from dualasr.packs.load import load_model
from dualasr.text import scoring_unit
from dualasr.transcription.transcribe import transcribe


def test_there_are_102_and_the_nineteen_have_no_tag():
    assert {
        len({getattr(row, name) for row in LANGUAGES.values()})
        for name in ("config", "code", "name")
    } == {102}
    assert len(set(NINETEEN)) == 19
    assert {row.config for row in LANGUAGES.values() if row.whisper is None} == {
        *NINETEEN,
        "yue_hant_hk",
    }


def test_tags_are_large_v2s():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER

    large_v2 = {tag: name for tag, name in WHISPER.items() if tag != "yue"}  # large-v3 brought it
    assert len(large_v2) == 99
    tagged = [row for row in LANGUAGES.values() if row.whisper]
    assert {row.whisper for row in tagged} <= set(large_v2)
    assert not [
        row for row in LANGUAGES.values() if row.code in large_v2 and row.whisper != row.code
    ]
    renamed = {
        row.code: (row.whisper, large_v2[row.whisper]) for row in tagged if row.whisper != row.code
    }
    assert renamed == {
        "cmn": ("zh", "chinese"),
        "fil": ("tl", "tagalog"),
        "jv": ("jw", "javanese"),
        "nb": ("no", "norwegian"),
    }
    other = {
        row.name.lower(): large_v2[row.whisper]
        for row in tagged
        if row.name.lower() != large_v2[row.whisper]
    }
    assert other == {"mandarin chinese": "chinese", "filipino": "tagalog", "burmese": "myanmar"}


def test_a_language_is_called_by_its_english_name():
    names = [english_name(code) for code in ("ky", "ckb", "quz", "qu-EC", "")]
    assert names == ["Kyrgyz", "Sorani Kurdish", "quz", "qu-EC", ""]


def test_scripts_and_units():
    shown = "ky_kg or_in ckb_iq sr_rs sd_in pa_in am_et uz_uz"
    assert [
        language_of(config).script for config in shown.split()
    ] == "Cyrl Orya Arab Cyrl Arab Guru Ethi Latn".split()
    by_character = {row.config for row in LANGUAGES.values() if row.unit == "character"}
    assert by_character == {
        "cmn_hans_cn",
        "yue_hant_hk",
        "ja_jp",
        "th_th",
        "lo_la",
        "my_mm",
        "km_kh",
    }
    assert all(
        row.unit == scoring_unit(row.code) == scoring_unit(row.config) for row in LANGUAGES.values()
    )


def test_a_config_or_a_code_names_a_language():
    assert all(
        language_of(row.code) is language_of(config) is row for config, row in LANGUAGES.items()
    )
    row = language_of("cmn_hans_cn")
    assert (row.code, row.name, row.whisper, row.script, row.unit) == (
        "cmn",
        "Mandarin Chinese",
        "zh",
        "Hans",
        "character",
    )
    assert code_of("qu_ec") == "qu"  # no FLEURS language, but a folder of its shape


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("ky_kz", r"'ky_kz' is no language of FLEURS; the nearest: .*ky_kg \(Kyrgyz\)"),
        ("Kirgyz", r"the nearest: ky_kg \(Kyrgyz\)"),
        ("om-ET", r"the nearest: om_et \(Oromo\)"),
        ("42", r"'42' is no language of FLEURS; wanted one of its 102 configs, as ky_kg\.$"),
    ],
)
def test_an_unknown_one_is_refused_with_the_nearest(asked, message):
    with pytest.raises(CorpusError, match=message):
        language_of(asked)


def test_the_tag_of_a_language():
    tags = ["en", "zh", "no", "nn"]
    assert [tag_among(code, tags) for code in ("cmn", "nb", "nn", "en", "yue", "ky")] == [
        "zh",
        "no",
        "nn",
        "en",
        None,
        None,
    ]
    assert tag_among("yue", [*tags, "yue"]) == "yue" and tag_among("jv", ["jv", "jw"]) == "jv"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zh-TW", "zh"),
        ("zh_Hans", "zh"),
        ("zh-Hant-HK", "zh"),
        ("cmn-Hant", "zh"),
        ("CMN_hans_cn", "zh"),
        ("en-US", "en"),
        ("EN_gb", "en"),
        ("pt-BR", "pt"),
        ("es-419", "es"),
        ("iw", "he"),
        ("jv", "jw"),
        ("jw", "jw"),
        ("in", "id"),
        ("nb-NO", "no"),
        ("no-bok", "no"),
        ("eng", "en"),
        ("ger", "de"),
        ("yue-HK", "yue"),
        ("ky-KG", "ky"),
        ("kir", "ky"),
        ("qu-EC", "qu-EC"),
        ("qu-ec", "qu-EC"),
    ],
)
def test_a_region_or_a_script_is_no_other_language(name, code):
    """By the names of Whisper large-v3 and of two packs."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER

    tags = [*WHISPER, "ky", "qu-EC"]
    by_lower = {tag.lower(): tag for tag in tags}
    found = next((by_lower[c] for c in codes_of(name) if c in by_lower), None)
    assert (tag_among(name, tags) or found) == code
    assert tag_among("yue-HK", ["zh", "en"]) is None, "Cantonese is no Mandarin"


def test_the_model_knows_a_language_by_its_tags_and_offers_a_few(tiny_folder):
    model = load_model(tiny_folder)
    code = model.backbone.codes[0]
    assert model.language_code(f"{code}-XX") == model.language_code(f"{code.upper()}_Latn") == code
    assert model.route_of(f"{code}-XX") == "primary"
    for refused in (model.language_code, model.route_of):
        with pytest.raises(PackError, match="nearest: ") as caught:
            refused("klingon")
        assert len(str(caught.value).partition("nearest: ")[2].split(", ")) <= 3
    assert len(nearest("klingon", [f"language{i}" for i in range(99)]).split(", ")) == 3


@pytest.fixture
def hears_chinese(tiny_folder, clips, tmp_path):
    """The tiny Whisper, with what it takes the first clip for called zh."""
    heard = load_model(tiny_folder).transcribe_windows(clips[:1])[0].language
    folder = shutil.copytree(tiny_folder, tmp_path / "chinese")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(
            path.read_text(encoding="utf-8").replace(f"<|{heard}|>", "<|zh|>"), encoding="utf-8"
        )
    return load_model(folder)


def test_a_whisper_with_zh_knows_cmn(hears_chinese, clips, tmp_path):
    model = hears_chinese
    assert model.route_of("cmn") == "primary"
    with pytest.raises(PackError, match="No loaded pipeline knows 'yue'"):
        model.route_of("yue")
    asked, named = (transcribe(model, clips[0], language=code) for code in ("cmn", "zh"))
    assert asked == named == transcribe(model, clips[0], route="primary", language="cmn")
    soundfile.write(tmp_path / "x.wav", clips[0], 16_000)
    row = Utterance("x", "你好", "cmn", tmp_path / "x.wav", 1.0, "test")
    options = EvaluationOptions(beam=1, bootstrap=0, probes=0)
    report = evaluate(model, [row, replace(row, id="y", language="yue")], options)
    assert {code: entry["known"] for code, entry in report.report["languages"].items()} == {
        "cmn": True,
        "yue": False,
    }
    assert [clip.agnostic.language for clip in report.clips] == ["zh", "zh"]
    assert report.report["routing"]["language_accuracy"] == 1  # of cmn alone, as zh is its tag
