"""Generated speech in many languages, as negatives."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from dualasr.data import negatives
from dualasr.data.negatives import CLIPS, SECONDS, generated_negatives
from dualasr.training.options import AddLanguageOptions
from dualasr.training.prepare import read_negatives


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All clips, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALASR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield generated_negatives([])


def languages(paths):
    return Counter(path.stem.split("_")[0] for path in paths)


def test_many_languages_of_which_each_has_a_clip_for_dev(made):
    train, dev = made
    assert len(languages(dev)) >= 80 and set(languages(dev).values()) == {1}
    assert set(languages(train)) == set(languages(dev))
    assert max(languages(train).values()) == CLIPS - 1
    assert not set(train) & set(dev)
    first = [path.stem.split("_")[0] for path in train[:60]]
    assert len(set(first)) == 60, "the languages take turns"


def test_the_clips_are_speech_of_some_seconds_and_all_differ(made):
    seen = set()
    for path in made[0][::7]:
        samples, rate = soundfile.read(path)
        assert rate == 16_000 and SECONDS[0] / 2 <= len(samples) / rate <= SECONDS[1]
        assert np.abs(samples).max() > 0.1
        seen.add(samples.tobytes())
    assert len(seen) == len(made[0][::7])


@pytest.mark.parametrize(
    "own, gone, there",
    [
        (["qu-EC"], {"qu"}, {"es", "sw", "en"}),
        (["quz"], {"qu"}, {"es"}),  # one language of Quechua
        (["swh"], {"sw"}, {"en"}),  # the macrolanguage's other code
        (["ky", "ga"], {"ky", "ga"}, {"kk", "gd", "uz"}),
        (["sxb"], set(), {"sw", "tn"}),
    ],
)
def test_the_packs_own_languages_are_left_out(made, monkeypatch, own, gone, there):
    monkeypatch.setenv("DUALASR_CACHE", str(made[0][0].parent.parent))
    everything, found = set(languages(made[0])), set(languages(generated_negatives(own)[0]))
    assert everything - found == gone and there <= found


def test_they_are_made_once_and_alike(made, tmp_path, monkeypatch):
    monkeypatch.setattr(negatives, "spoken_languages", lambda: ["ga", "sw"])
    digests = []
    for name in ("a", "b"):
        monkeypatch.setenv("DUALASR_CACHE", str(tmp_path / name))
        train, dev = generated_negatives([])
        digests.append([path.read_bytes() for path in train + dev])
        (tmp_path / name / "negatives-1" / "ga_0.flac").unlink()
        assert len(generated_negatives([])[0]) == len(train) - 1, "what is there is used"
    assert digests[0] == digests[1] and len(digests[0]) == 8


def test_they_are_added_to_the_users_own(made, tmp_path, monkeypatch):
    monkeypatch.setenv("DUALASR_CACHE", str(made[0][0].parent.parent))
    rows = []
    for i in range(20):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(16_000), 16_000)
        rows.append({"audio": f"{i}.wav", "text": "", "lang": "und", "split": "train"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = AddLanguageOptions("micro", (), {"qu": "Quechua"}, tmp_path / "pack", (tmp_path,))
    train, dev = read_negatives(options)
    mine = [sound for sound in train + dev if sound.path.parent == tmp_path]
    assert len(mine) == 20 and len(train) + len(dev) - 20 == sum(
        map(len, generated_negatives(["qu"]))
    )


def test_without_the_packages_there_are_none(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dualasr.data.espeak.importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("DUALASR_CACHE", str(tmp_path / "cache"))
    options = AddLanguageOptions("micro", (), {"qu": "Quechua"}, tmp_path / "pack")
    with caplog.at_level("WARNING", "dualasr"):
        assert read_negatives(options) == ([], [])
    assert "pip install" in caplog.text and not list((tmp_path / "cache").iterdir())
