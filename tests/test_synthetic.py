"""Generated corpora: sentences that keep their splits apart, streams that do not depend on each
other, whole languages.
"""

import importlib.util
import logging

import numpy as np
import pytest
import soundfile

from dualasr.data.corpus import load_corpus
from dualasr.data.fingerprints import fingerprint
from dualasr.data.synthetic import (
    ENLARGED,
    NEGATIVES,
    NEW,
    NUMBERS,
    GenerateOptions,
    generate_corpus,
    recombine,
    sentences,
    texts_of,
)
from dualasr.errors import CorpusError
from dualasr.languages import code_of
from dualasr.text import normalise

spoken = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed"
)


def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("config", NEW)
def test_sentences_of_a_new_language(config):
    texts = {split: sentences(code_of(config), split) for split in ("train", "dev", "test")}
    assert [len(texts[split]) for split in texts] == [420, 40, 64]
    plain = [normalise(text, "marks") for lines in texts.values() for text in lines]
    assert len(set(plain)) == len(plain) and all(len(text.split()) >= 2 for text in plain)


@pytest.mark.parametrize("config", ["or_in", "om_et"])
def test_no_held_out_sentence_is_nearly_one_that_is_trained_on(config):
    """Jaccard similarity of character 4-grams, as the audit estimates it, below its limit; of
    recombined sentences, too.
    """

    def grams(text: str) -> set[str]:
        text = f" {normalise(text, 'marks')} "
        return {text[i : i + 4] for i in range(len(text) - 3)}

    code = code_of(config)
    train = [
        grams(text) for text in texts_of(config, "train", GenerateOptions(readings=1), rng())[0]
    ]
    assert len(train) == 840
    for text in sentences(code, "dev") + sentences(code, "test"):
        mine = grams(text)
        assert max(len(mine & other) / len(mine | other) for other in train) < 0.7, text


def test_more_text_enlarges_train_and_keeps_test_sentences_out(tmp_path):
    held, more = (
        [sentences("ky", split)[0] for split in ("dev", "test")],
        [
            "бул башка сүйлөм",
            "дагы бир сүйлөм",
        ],
    )
    (tmp_path / "cv_ky.txt").write_text("\n".join([held[0].upper(), f" {held[1]} ", *more]))
    options = GenerateOptions(text=tmp_path)
    texts, ids = texts_of("ky_kg", "train", options, rng())
    assert len(texts) == len(ids) == ENLARGED
    assert {*sentences("ky", "train"), *more} <= set(texts)
    assert not {text.strip().lower() for text in texts} & {text.lower() for text in held}
    assert texts_of("ky_kg", "test", options, rng())[0] == sentences("ky", "test")


def test_how_often_a_sentence_is_read():
    train, ids = texts_of("om_et", "train", GenerateOptions(readings=3), rng())
    assert len(train) == len(set(ids)) == 4 * 420 and train[:420] == train[420:840] == sentences(
        "om", "train"
    )
    test, ids = texts_of("om_et", "test", GenerateOptions(test_readings=5), rng())
    assert len(test) == 320 and ids == [*range(64)] * 5  # one id, five voices
    assert len(texts_of("om_et", "dev", GenerateOptions(test_readings=5), rng())[0]) == 40
    assert len(texts_of("en_us", "train", GenerateOptions(), rng())[0]) == NEGATIVES


@spoken
def test_a_language_is_the_same_whatever_is_generated_beside_it(tmp_path, caplog):
    options, asked = GenerateOptions(limit=3, test_readings=2), ["om_et", "en_us"]
    generate_corpus(tmp_path / "one", asked, options)
    with caplog.at_level(logging.INFO, "dualasr"):
        generate_corpus(tmp_path / "two", ["ky", *reversed(asked)], options)
    assert [line.strip() for line in caplog.messages] == ["ky_kg", "en_us", "om_et"]
    for config in asked:
        for split in ("train", "test"):
            first, second = (
                load_corpus(tmp_path / name / "data" / config, split).utterances
                for name in ("one", "two")
            )
            assert [u.text for u in first] == [u.text for u in second] and len(first) >= 6
            assert first[0].language == code_of(config)
    clips = load_corpus(tmp_path / "one" / "data" / "om_et", "test").utterances
    heard = fingerprint([(u.sound, u.text, u.language) for u in clips], progress=False)
    assert len(clips) == 6 and len(set(heard.audio)) == 6 and len(set(heard.sentence)) == 3
    assert soundfile.info(clips[0].audio).samplerate == 16_000
    stamp = clips[0].audio.stat().st_mtime_ns
    generate_corpus(tmp_path / "one", asked, options)
    assert clips[0].audio.stat().st_mtime_ns == stamp and len(caplog.messages) == 3


def test_a_language_without_sentences(tmp_path):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(
        CorpusError, match=f"xh_za has no sentences to be read; there is {', '.join(NUMBERS)}"
    ):
        generate_corpus(tmp_path, ["xh_za"])
    assert not (tmp_path / "data" / "xh_za").exists()


@pytest.mark.parametrize("config", ["bg_bg", "ky_kg", "or_in"])
def test_recombined_sentences_end_as_sentences_do(config):
    """Questions among them, too."""
    code, split = code_of(config), "train" if config in NEW else "negatives"
    made = recombine(sentences(code, split), 300, rng())
    ends = {text[-1] for text in sentences(code, split)}
    assert {text[-1] for text in made} <= ends and sum(text.endswith("?") for text in made) >= 1
    assert not any(end in text[:-1] for text in made for end in "?!।")


@spoken
def test_a_language_sounds_the_same_whenever_it_is_generated(tmp_path):
    options = GenerateOptions(limit=20)
    for name, configs in (("alone", ["ky_kg"]), ("second", ["en_us", "ky_kg"])):
        generate_corpus(tmp_path / name, configs, options)
    folders = [tmp_path / name / "data" / "ky_kg" for name in ("alone", "second")]
    alone, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in folders
    )
    assert len(alone) > 60
    assert alone == second
