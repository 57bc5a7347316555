"""Generated speech: voices kept apart, crashes survived, sentences as promised."""

import sys

import numpy as np
import pytest

from dualasr.data.espeak import TEST_VARIANTS, TRAIN_VARIANTS, Speaker, Voice, draw_voice
from dualasr.data.synthetic import sentences
from dualasr.errors import DualasrError, MissingExtraError
from dualasr.text import normalise
from dualasr.training.quickstart import NEW, OLD

pytest.importorskip("espeakng_loader")


def test_test_voices_are_in_no_training_set():
    assert not set(TEST_VARIANTS) & set(TRAIN_VARIANTS)
    rng = np.random.default_rng(0)
    train, test = ([draw_voice(rng, role) for _ in range(2000)] for role in ("train", "test"))
    assert not {v.variant for v in train} & {v.variant for v in test}
    assert not {v.rate for v in train} & {v.rate for v in test}
    assert not {v.pitch for v in train} & {v.pitch for v in test}


def test_every_language_of_the_quickstart_speaks():
    voice = Voice("f2", 155, 50, 50)
    with Speaker() as speaker:
        for code in [*NEW, *OLD]:
            samples = speaker.speak(sentences(code, "test")[0], code, voice)
            assert samples.dtype == np.float32 and 16_000 < len(samples) < 16_000 * 12
            assert 0.3 < np.abs(samples).max() <= 0.51
        slow, fast = (
            speaker.speak("one two three four", "en", Voice("f2", rate, 50, 50))
            for rate in (110, 220)
        )
        assert len(slow) > 1.3 * len(fast)
        with pytest.raises(DualasrError, match="no voice"):
            speaker.speak("hm", "tlh-nowhere", voice)
        assert len(speaker.speak("still here", "en", voice)), (
            "an unknown voice must not end the speaker"
        )


def test_phones_come_with_the_second_they_start_at():
    with Speaker() as speaker:
        utterance = speaker.utter("One. Sasha.", "en", Voice("f2", 155, 50, 50))
    phones, starts = zip(*utterance.phones, strict=True)
    assert (
        "".join(phones).startswith("wʌn") and phones.count("s") == 1 and "ˈ" not in "".join(phones)
    )
    assert list(starts) == sorted(starts) and starts[-1] <= len(utterance.samples) / 16_000 + 0.01
    level = [float(np.abs(utterance.samples[round(s * 16_000) :][:800]).mean()) for s in starts]
    pause = phones.index("")
    assert 0 < pause < phones.index("s"), "a full stop is a pause"
    assert level[pause] < 0.1 * max(level), "nothing sounds where the pause is"
    hiss = utterance.samples[round(starts[phones.index("s")] * 16_000) :][:800]
    assert np.abs(np.diff(hiss)).mean() > 0.5 * np.abs(hiss).mean(), (
        "an s hisses where it is said to start"
    )


def test_words_come_with_the_second_they_start_at():
    text = "Тоодо кар жаады. Апам нан бышырды."
    with Speaker() as speaker:
        utterance = speaker.utter(text, "ky", Voice("f2", 155, 50, 50))
    places, starts = zip(*utterance.words, strict=True)
    assert [text[place:].split()[0] for place in places] == text.split()
    assert (
        list(starts) == sorted(set(starts))
        and starts[0] == 0.0
        and starts[-1] < len(utterance.samples) / 16_000
    )
    pause = next(at for phone, at in utterance.phones if phone == "")
    assert starts[2] < pause <= starts[3], (
        "the full stop's pause lies between the third word and the fourth"
    )


def test_a_missing_loader_is_named_with_its_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dualasr\[synth\]'"), Speaker():
        pass


def test_a_crash_of_the_library_is_survived():
    with Speaker() as speaker:
        speaker.speak("first", "en", Voice("f2", 155, 50, 50))
        speaker._process.kill()
        speaker._process.wait()
        assert len(speaker.speak("lost", "en", Voice("f2", 155, 50, 50))) == 0
        assert len(speaker.speak("second", "en", Voice("f2", 155, 50, 50))) > 8000


def test_sentences_are_apart():
    for code in [*NEW, *OLD]:
        splits = ("train", "dev", "test") if code in NEW else ("negatives", "test")
        texts = {split: sentences(code, split) for split in splits}
        assert len(texts["test"]) >= 60
        everything = [text for split in splits for text in texts[split]]
        assert len(everything) == len(set(everything))
        if code in NEW:
            seen, test = (
                set(normalise(" ".join(texts[split]), "marks").split())
                for split in ("train", "test")
            )
            assert len(test - seen) >= len(test) / 4
