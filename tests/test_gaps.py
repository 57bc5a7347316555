"""Stretches of a window that have speech and no words, and the parts a transcript is cut into."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dualasr.audio.load import SAMPLE_RATE, load_audio
from dualasr.data.corpus import load_corpus
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper, WindowResult
from dualasr.model.fallback import Fallback
from dualasr.model.selector import PRIMARY
from dualasr.model.whisper import Backbone
from dualasr.text import normalise
from dualasr.transcription.gaps import Gap, find_gaps, is_speech, part_of, speech_s
from dualasr.transcription.request import TranscribeOptions
from dualasr.transcription.transcribe import transcribe
from dualasr.transcription.transcript import Word

FLEURS = Path(__file__).parents[2] / "shared/data/fleurs_mini"


def speaking(seconds: float, *places: tuple[float, float], loud: float = 0.1) -> np.ndarray:
    """Faint noise, with syllables of 0.1 s in every 0.2 s of the places."""
    rng = np.random.default_rng(0)
    sound = 0.01 * loud * rng.standard_normal(round(seconds * SAMPLE_RATE))
    for start, end in places:
        for at in np.arange(start, end - 0.05, 0.2):
            first = round(at * SAMPLE_RATE)
            sound[first : first + SAMPLE_RATE // 10] += loud * rng.standard_normal(
                SAMPLE_RATE // 10
            )
    return sound.astype(np.float32)


def word(text: str, start: float, end: float) -> Word:
    return Word(start, end, text, 0.9, False)


@pytest.mark.parametrize("loud", [0.5, 0.005])
def test_speech_is_what_is_louder_than_the_background_however_quiet_it_is(loud):
    assert speech_s(speaking(10, (2, 6), loud=loud)) == pytest.approx(2.0, abs=0.1)
    assert speech_s(speaking(10, loud=loud)) == 0


def test_silence_and_steady_noise_are_no_speech_and_zeros_are_no_background():
    zeros = np.zeros(5 * SAMPLE_RATE, np.float32)
    hiss = (0.05 * np.random.default_rng(1).standard_normal(5 * SAMPLE_RATE)).astype(np.float32)
    assert speech_s(zeros) == speech_s(zeros[:0]) == speech_s(hiss) == 0
    assert speech_s(np.concatenate([hiss, zeros])) == 0
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE)
    assert speech_s(hum.astype(np.float32)) == 0


def test_a_gap_is_where_somebody_speaks_and_no_word_is():
    words = [word(" One", 0.2, 0.6), word(" two", 0.7, 1.1), word(" five.", 8.0, 8.5)]
    sound = speaking(12, (0.2, 1.1), (3, 5), (8, 8.5), (9, 11))
    assert find_gaps(sound, words) == [Gap(1.1, 8.0, 2), Gap(8.5, 12.0, 3)]
    assert find_gaps(speaking(12, (0.2, 1.1), (8, 8.5)), words) == []
    assert find_gaps(sound[: round(8.9 * SAMPLE_RATE)], words) == [Gap(1.1, 8.0, 2)]


@pytest.mark.parametrize(
    "words, gap",
    [
        # it begins a sentence: it was spoken at the end of its time
        ([word(" one.", 0, 0.5), word(" Two", 0.5, 9), word(" three", 9, 9.5)], (0.5, 8.3, 1)),
        # it ends one: at the beginning
        ([word(" one", 0, 0.5), word(" two.", 0.5, 9), word(" Three", 9, 9.5)], (1.2, 9.0, 2)),
        # neither: no side is heard twice
        ([word(" one", 0, 0.5), word(" two", 0.5, 9), word(" three", 9, 9.5)], (1.2, 8.3, 1)),
        # two of them, the first of which ends a sentence
        ([word(" one.", 0, 4), word(" Two", 4, 9), word(" three", 9, 9.5)], (0.7, 8.3, 1)),
        # the first words of a window
        ([word(" one", 0, 4), word(" two", 4, 9), word(" three", 9, 9.5)], (0.0, 7.6, 0)),
        # the last ones
        ([word(" one", 0, 0.5), word(" two", 0.5, 9.5)], (1.2, 9.5, 2)),
    ],
)
def test_a_word_that_takes_too_long_hides_a_gap(words, gap):
    start, end, before = gap
    [found] = find_gaps(speaking(9.5, (2, 7)), words)
    assert (found.start, found.end) == pytest.approx((start, end)) and found.word == before


@pytest.mark.parametrize(
    "text, seconds, wanted",
    [("Thank you.", 4.0, False), ("...", 1.0, False), ("", 1.0, False), ("Thank you.", 2.0, True)],
)
def test_what_is_too_short_for_its_gap_was_not_said(text, seconds, wanted):
    assert is_speech(text, seconds) is wanted


def test_parts_of_a_transcript_hold_all_its_words_and_count_time_from_their_own_start(backbone):
    model, times = DualWhisper(backbone), backbone.special_ids.times
    frame = backbone.frame_s
    first, second = (backbone.tokenizer.encode(t, add_special_tokens=False) for t in (" Ab", " Cd"))
    at = [times.start + round(t / frame) for t in (0.0, 2.0, 6.0, 8.0)]
    tokens = (at[0], *first, at[1], at[2], *second, at[3])
    texts = [text for text, _ in backbone.token_words([*first, *second], "en")]
    places = [(0.0, 2.0)] * sum(1 for t in texts if t in " Ab") or [(0.0, 2.0)]
    words = [
        word(text, *(places[0] if k < len(texts) // 2 else (6.0, 8.0)))
        for k, text in enumerate(texts)
    ]
    cut = len(backbone.token_words(first, "en"))
    result = WindowResult(
        text="Ab Cd",
        language="en",
        route=PRIMARY,
        language_probs={},
        no_speech_prob=0.0,
        tokens=tokens,
    )
    early, before = part_of(model, result, words, range(0, cut), 0.0)
    late, after = part_of(model, result, words, range(cut, len(words)), 5.0)
    assert early.tokens == (at[0], *first, at[1])
    shifted = [times.start + round(t / frame) for t in (1.0, 3.0)]
    assert late.tokens == (shifted[0], *second, shifted[1])
    assert (early.text, late.text) == ("Ab", "Cd")
    assert after[0].start == pytest.approx(1.0) and len(before) + len(after) == len(words)


@pytest.mark.slow
@pytest.mark.skipif(not FLEURS.exists(), reason="needs genuine clips of FLEURS")
@pytest.mark.skipif(
    "DUALASR_REAL_BASE" not in os.environ, reason="DUALASR_REAL_BASE names no genuine Whisper"
)
def test_a_genuine_base_writes_a_quiet_sentence_between_two_loud_ones():
    clips = {u.id: u for u in load_corpus(FLEURS, "test", languages=["en"]).utterances}
    chosen = [clips[name] for name in ("en_001", "en_009", "en_008")]
    sounds = [load_audio(u.sound) for u in chosen]
    sounds[1] = sounds[1] * (0.003 / float(np.abs(sounds[1]).max()))
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    parts = [part for sound in sounds for part in (sound, pause)]
    model = DualWhisper(Backbone.load(os.environ["DUALASR_REAL_BASE"]))
    decode = DecodeOptions(timestamps=True, fallback=Fallback())
    found = transcribe(
        model, np.concatenate(parts), language="en", options=TranscribeOptions(decode=decode)
    )
    said = normalise(found.text, "marks").split()
    for utterance in chosen:
        wanted = normalise(utterance.text, "marks").split()
        assert sum(w in said for w in wanted) > 0.8 * len(wanted), utterance.text
    assert all(a.end <= b.start + 0.2 for a, b in pairwise(found.segments))
