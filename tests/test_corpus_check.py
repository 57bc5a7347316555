"""What corpus check finds, and that corpus split keeps sentences and speakers apart."""

import json
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from dualasr.audio.load import load_audio
from dualasr.cli.main import main
from dualasr.data.check import (
    NARROW_HZ,
    check_corpus,
    level_and_band,
    odd_words,
    sentence_of,
    to_text,
)
from dualasr.data.corpus import Utterance, load_corpus
from dualasr.data.split import SplitOptions, _groups, deal
from dualasr.errors import CorpusError

RNG = np.random.default_rng(0)
DATA = Path(__file__).parents[2] / "shared" / "data"


def write(folder: Path, rows: list[dict], sounds: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / name, samples, 16_000, subtype="FLOAT")
    lines = [json.dumps({"lang": "ky", "text": "Кар"} | row, ensure_ascii=False) for row in rows]
    (folder / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    return RNG.uniform(-level, level, int(seconds * 16_000))


@pytest.fixture
def faulty(tmp_path):
    """A corpus with one of each fault."""
    loud = noise(1)
    loud[:17] = 1.0  # 17 of 16,000 is over 0.1 %
    fine = noise(2)
    sounds = {
        "fine.wav": fine,
        "same.wav": fine,
        "silent.wav": noise(1, 0.001),
        "loud.wav": loud,
        "short.wav": noise(0.2),
        "long.wav": noise(31),
        "dev.wav": noise(1),
    }
    train = [
        {
            "id": Path(name).stem,
            "audio": name,
            "split": "train",
            "text": f"сөз {name[0]}",
            "speaker": name[0],
        }
        for name in sounds
        if name != "dev.wav"
    ]
    train[4]["text"] = "алты тамга"  # 10 characters in 0.2 s
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.wav").write_bytes(b"no sound at all" * 9)
    more = [
        {"id": "broken", "audio": "broken.wav", "split": "train", "text": "<b>&2\x07"},
        {"id": "gone", "audio": "gone.wav", "split": "train"},
        {"id": "d", "audio": "dev.wav", "split": "valid"},
        {"id": "t", "audio": "gone.wav", "split": "test"},
    ]
    return write(tmp_path / "c", train + more, sounds)


def test_each_fault_is_found(faulty):
    check = check_corpus(faulty, progress=False)
    test, train, valid = check.splits
    assert (test.split, train.split, valid.split) == (
        "test",
        "train",
        "valid",
    ) and check.layout == "jsonl"
    found = dict(train.issues)
    assert found.pop("unreadable audio")[0].startswith("broken (")
    assert found == {
        "silent clips (RMS below -60 dBFS)": ("silent",),
        "clipped clips (over 0.1 % of samples at full scale)": ("loud (0.1 %)",),
        "duplicate clips (the same samples)": ("same = fine",),
        "more than 25 characters a second": ("short (50)",),
        "longer than 30 s": ("long (31.0 s)",),
        "sentences said more than once": ("сөз s (2)", "сөз l (2)"),
        "words with control characters": (r"'<b>&2\x07'",),
        "words with digits": (r"'<b>&2\x07'",),
    }
    # f, s, l; three are doubled or odd
    assert (train.clips, train.speakers, train.sentences) == (7, 3, 5)
    assert (
        train.hours == pytest.approx((2 + 2 + 1 + 1 + 0.2 + 31) / 3600)
        and len(train.durations) == 6
    )
    assert dict(train.characters)["с"] == 5 and "\x07" in dict(train.characters)
    assert [row.reason for row in train.skipped] == [f"audio file {faulty / 'gone.wav'} is missing"]
    assert valid.clips == 1 and valid.issues == () and "no usable rows" in test.error


def test_check_on_the_command_line(faulty, tmp_path, capsys):
    page = tmp_path / "pages" / "check.html"
    assert main(["corpus", "check", str(faulty), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert (
        "clips 7, hours 0.01, speakers known 3, distinct sentences 5" in out
        and "skipped rows: 1" in out
    )
    assert "U+0007 1" in out
    text = page.read_text(encoding="utf-8")
    assert (
        text.count("data:image/png;base64,iVBOR") == 2
        and "<b>" not in text
        and "&lt;b&gt;&amp;2" in text
    )
    assert "http" not in text and list(page.parent.iterdir()) == [page]
    assert main(["corpus", "check", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith(f"dualasr: {tmp_path / 'nowhere'}: does not exist")
    for wrong in ("colour=x", "text", "text="):
        assert main(["corpus", "check", str(faulty), "--column", wrong]) == 1
        assert "wanted FIELD=NAME, with FIELD one of audio, text" in capsys.readouterr().err


def test_what_was_guessed_is_said(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(1), 16_000)
    (tmp_path / "x.csv").write_text("file,sentence,note\na.wav,Кар,x\n")
    assert main(["corpus", "check", str(tmp_path)]) == 0
    assert "guessed the columns audio=file, text=sentence\n" in capsys.readouterr().out
    assert (
        main(["corpus", "check", str(tmp_path), "--column", "text=note", "--column", "audio=file"])
        == 0
    )
    assert "guessed the" not in (out := capsys.readouterr().out) and "characters 1: x 1" in out


def telephone(samples: np.ndarray) -> np.ndarray:
    """As recorded at 8 kHz and resampled, in 16 bits."""
    narrow = soxr.resample(soxr.resample(samples, 16_000, 8_000), 8_000, 16_000)
    return np.round(narrow * 32_768 + RNG.triangular(-1, 0, 1, len(narrow))) / 32_768


def speech_like(seconds: float) -> np.ndarray:
    """Vowels of 160 Hz, each with a short s after it, over the faint noise of a room."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    vowel = sum(np.sin(2 * np.pi * 160 * k * time) / k**1.5 for k in range(1, 20)) * (
        time % 0.4 < 0.25
    )
    s = RNG.standard_normal(len(time)) * ((time % 0.4 >= 0.25) & (time % 0.4 < 0.29))
    return 0.1 * vowel + 0.02 * s + 1e-4 * RNG.standard_normal(len(time))


def band(samples: np.ndarray) -> float:
    return level_and_band(samples.astype(np.float32))[1]


def test_the_upper_end_of_the_band():
    whole = speech_like(4)
    assert band(whole) > 6000
    assert 3000 < band(telephone(whole)) < NARROW_HZ
    assert 3000 < band(telephone(whole)[:6000]) < NARROW_HZ
    # a codec's low-pass
    assert 5000 < band(soxr.resample(soxr.resample(whole, 16_000, 12_000), 12_000, 16_000)) < 6500
    # without dither
    assert (
        3000 < band(soxr.resample(soxr.resample(whole, 16_000, 8_000), 8_000, 16_000)) < NARROW_HZ
    )
    clicks = telephone(whole)
    clicks[len(clicks) // 2] = 1.0
    assert band(clicks) < NARROW_HZ, "a click makes no wide band"
    for gain in (0.01, 3.0):
        assert band(gain * whole) == pytest.approx(band(whole), abs=100)
    level, _ = level_and_band(np.full(16_000, 0.1, np.float32))
    assert level == pytest.approx(-20, abs=1e-4)


def test_a_narrow_band_is_said_with_its_share(tmp_path, capsys):
    sounds = {f"wide{i}.wav": speech_like(2) for i in range(3)} | {
        "a<b>.wav": telephone(speech_like(2))
    }
    narrower = soxr.resample(soxr.resample(speech_like(2), 16_000, 4_000), 4_000, 16_000)
    sounds["low.wav"] = narrower
    folder = write(tmp_path, [{"id": name[:-4], "audio": name} for name in sounds], sounds)
    page = tmp_path / "check.html"
    assert main(["corpus", "check", str(folder), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert (
        "clips with a narrow band (nothing above 4 kHz): 2: low (99 % of the energy below 1." in out
    )
    assert "; a<b> (99 % of the energy below 3." in out
    assert (
        "  narrow band: 2 of 5 clips (40.0 %) have no sound above about 4 kHz, as telephone speech"
        in out
    )
    assert "Use recordings made at 16 kHz or more" in out
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg ") == 2 and text.index("low: 99 % of the energy") < text.index(
        "a&lt;b&gt;: 99 % of the energy"
    )
    assert (
        "<b>" not in text and "Narrow band: 2 of 5 clips (40.0 %)" in text and "<script" not in text
    )


def test_a_wide_band_is_not_mentioned(tmp_path):
    check = check_corpus(
        write(tmp_path, [{"audio": "a.wav"}], {"a.wav": speech_like(1)}), progress=False
    )
    assert "narrow" not in to_text(check) and check.splits[0].narrow == ()


def test_a_few_narrow_clips_are_no_fault_of_the_recordings(tmp_path):
    sounds = {f"{i}.wav": speech_like(0.5) for i in range(24)} | {
        "x.wav": telephone(speech_like(0.5))
    }
    folder = write(tmp_path, [{"audio": name} for name in sounds], sounds)
    text = to_text(check_corpus(folder, progress=False))
    assert (
        "1 of 25 clips (4.0 %) have no sound above" in text
        and "So few may only be speech without s, f or sh." in text
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not there")
@pytest.mark.parametrize(
    "name", ["fleurs_mini", "misc", "kichwa", "kichwa_more", "suba", "swahili", "fsdd"]
)
def test_the_bands_of_real_recordings(name):
    """Digits of 8 kHz and telephone copies of all others are narrow, recordings of the whole band
    are not.
    """
    rows = [
        json.loads(line)
        for line in (DATA / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    sounds = [load_audio(DATA / name / row["audio"]) for row in rows[:: max(1, len(rows) // 40)]]
    share = np.mean([band(samples) < NARROW_HZ for samples in sounds])
    if name == "fsdd":
        assert share == 1.0
        return
    assert share <= 0.05
    # in a quiet one, 16 bits are audible noise
    loud = [samples for samples in sounds if level_and_band(samples)[0] > -50]
    assert len(loud) > len(sounds) / 2
    assert np.mean([band(telephone(samples)) < NARROW_HZ for samples in loud]) >= 0.95


def test_odd_words():
    words = "cат кат naïve 東京タワー ka‘b МиГ-29 \ue000x a\u200bb µm"
    assert odd_words([words]) == {
        "words of several scripts": ["cат"],
        "words with digits": ["МиГ-29"],
        "words with private-use or unassigned characters": ["'\\ue000x'"],
    }


def test_invisible_characters_and_mixed_forms_are_named_and_gone(tmp_path, capsys):
    texts = [
        "Cô ấy",
        unicodedata.normalize("NFD", "Cô ấy"),
        "co\u00adop\u200b",
        "مـــرحبا",
        "می\u200cخ",
    ]
    rows = [{"audio": f"{i}.wav", "text": text} for i, text in enumerate(texts)]
    folder = write(tmp_path, rows, {f"{i}.wav": noise(1) for i in range(len(texts))})
    corpus = load_corpus(folder, None)
    assert [u.text for u in corpus.utterances] == ["Cô ấy", "Cô ấy", "coop", "مرحبا", "می\u200cخ"]
    expected = {
        "invisible characters: U+00AD SOFT HYPHEN": ("2.wav",),
        "invisible characters: U+0640 ARABIC TATWEEL": ("3.wav",),
        "invisible characters: U+200B ZERO WIDTH SPACE": ("2.wav",),
        "texts in another Unicode form than NFC": ("1.wav",),
    }
    assert dict(corpus.changed) == expected
    [split] = check_corpus(folder, progress=False).splits
    assert {k: v for k, v in split.issues if k in expected} == expected
    assert "\u200b" not in dict(split.characters) and "\u200c" in dict(split.characters)
    assert main(["corpus", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in expected) and "\u200b" not in out and "U+200C 1" in out
    plain = write(tmp_path / "plain", rows[:1], {"0.wav": noise(1)})
    assert load_corpus(plain, None).changed == () == load_corpus(plain, None).notes


def test_skipped_rows_are_listed_up_to_twenty(tmp_path):
    folder = write(
        tmp_path,
        [{"audio": "a.wav"}, *({"audio": f"gone{i}.wav"} for i in range(30))],
        {"a.wav": noise(1)},
    )
    text = to_text(check_corpus(folder, progress=False))
    assert "skipped rows: 30" in text and text.count("is missing") == 20


def said(*rows) -> list[Utterance]:
    return [
        Utterance(str(i), text, "ky", Path("a.wav"), 1.0, "", speaker)
        for i, (text, speaker) in enumerate(rows)
    ]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("abcdefghijklmnopqrst"), st.sampled_from([None, "x", "y", "z", "w"])
        ),
        min_size=1,
        max_size=60,
    ),
    by_speaker=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_sentence_and_no_speaker_in_two_splits(rows, by_speaker, seed):
    utterances, options = said(*rows), SplitOptions(0.2, 0.1, by_speaker, seed)
    try:
        splits = deal(utterances, options)
    except CorpusError as error:
        largest = max(map(len, _groups(utterances, by_speaker)))
        assert f"{largest} of {len(rows)} clips hang together" in str(error)
        assert 10 * largest > len(rows), "groups that fit into the smaller share can be dealt"
        return
    assert splits == deal(utterances, options) and set(splits) == {"train", "dev", "test"}
    places = defaultdict(set)
    for u, split in zip(utterances, splits, strict=True):
        places["sentence", sentence_of(u)].add(split)
        if by_speaker and u.speaker:
            places["speaker", u.speaker].add(split)
    assert all(len(where) == 1 for where in places.values())
    assert 2 * splits.count("train") >= 0.7 * len(rows)


def test_groups_hang_together_by_sentences_and_speakers():
    rows = said(
        ("a", "x"),
        ("b", "y"),
        ("c", None),
        ("A", "z"),
        ("d", None),
        ("e", "y"),
        ("f", "z"),
        ("c", None),
        ("e", "w"),
    )
    assert _groups(rows, False) == [[0, 3], [1], [2, 7], [4], [5, 8], [6]]
    assert _groups(rows, True) == [[0, 3, 6], [1, 5, 8], [2, 7], [4]]


def test_shares_and_seeds():
    utterances = said(*((f"sentence {i}", None) for i in range(200)))
    splits = deal(utterances, SplitOptions(0.1, 0.25))
    assert [splits.count(name) for name in ("train", "dev", "test")] == [130, 20, 50]
    assert splits != deal(utterances, SplitOptions(0.1, 0.25, seed=2))
    assert set(deal(utterances, SplitOptions(0, 0))) == {"train"}
    with pytest.raises(CorpusError, match="leave nothing for train"):
        deal(utterances, SplitOptions(0.5, 0.5))


def test_what_cannot_be_divided_is_refused():
    # each speaker shares a sentence with the next
    chain = said(*((f"s{i // 2}", f"p{(i + 1) // 2}") for i in range(40)))
    assert set(deal(chain, SplitOptions())) == {"train", "dev", "test"}
    with pytest.raises(
        CorpusError,
        match="40 of 40 clips hang together, .* by a sentence or a speaker.* without --by-speaker",
    ):
        deal(chain, SplitOptions(by_speaker=True))
    with pytest.raises(
        CorpusError, match="9 of 9 clips hang together, clip to clip by a sentence,"
    ):
        deal(said(*[("Same!", None), ("same", None), ("SAME", None)] * 3), SplitOptions())


def test_split_writes_a_manifest_once(tmp_path, capsys):
    sounds = {f"{i}.wav": noise(0.1) for i in range(20)}
    rows = [
        {"audio": name, "text": f"сөз {i // 2}", "speaker": "x", "start": 0.0, "end": 0.05}
        for i, name in enumerate(sounds)
    ]
    folder = write(tmp_path / "in", [*rows, {"audio": "gone.wav"}], sounds)
    command = ["corpus", "split", str(folder), "--out", str(tmp_path / "out"), "--dev", "0.2"]
    assert main(command) == 0
    assert "manifest.jsonl: train 14, dev 4, test 2, skipped 1" in capsys.readouterr().out
    parts = {
        name: load_corpus(tmp_path / "out", name, strict=True).utterances
        for name in ("train", "dev", "test")
    }
    assert sum(map(len, parts.values())) == 20 and all(u.end == 0.05 for u in parts["train"])
    texts = [{u.text for u in part} for part in parts.values()]
    assert len(set.union(*texts)) == 10 == sum(map(len, texts))
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    assert main(command) == 1 and "Nothing was overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
