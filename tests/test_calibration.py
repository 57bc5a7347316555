"""What dev decides, and what it is too small to decide."""

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import Sound
from dualasr.metrics import character_errors
from dualasr.model.dual_whisper import DecodeOptions
from dualasr.model.selector import Calibration
from dualasr.text import normalise
from dualasr.training import calibration
from dualasr.training.calibration import choose_ctc_weight, largest_within_error


def test_where_dev_cannot_tell_the_larger_weight_is_taken():
    rng = np.random.default_rng(0)
    best = rng.poisson(3, 40)
    noise = rng.integers(-2, 3, 40)
    noise[0] += 2 - noise.sum()  # two errors more in all, far within the noise
    surely = best + 1
    assert largest_within_error({0.0: surely, 0.3: best, 0.7: best + noise, 1.0: surely}) == 0.7
    assert largest_within_error({0.0: best, 0.3: surely, 0.7: surely}) == 0.0
    assert largest_within_error({0.3: best, 0.5: best}) == 0.5, "equals"


def test_what_a_calibration_is_fitted_on(make_model, clips, tmp_path):
    """Of each clip, in order: head, tag, the primary's doubt, the pack's lead over the primary per
    second, and the primary's surprise. The clips of two packs are not mixed up.
    """
    model = make_model(("west", "ga"), ("north", "ky"))
    sounds = [Sound(tmp_path / f"{i}.wav") for i in range(len(clips))]
    for sound, clip in zip(sounds, clips, strict=True):
        soundfile.write(sound.path, clip, 16_000, subtype="FLOAT")
    found = calibration._scores(model, "north", sounds)
    heard = model.encode_audio(clips)
    options = DecodeOptions(generate={"max_new_tokens": 200})
    first, _ = model.decode(heard, "primary", options=options)
    second, _ = model.decode(heard, "north")
    for i, row in enumerate(model.score_packs(heard)[0]):
        [score] = [score for score in row if score.name == "north"]
        lead = (second[i].logprob - first[i].logprob) / (len(clips[i]) / 16_000)
        known = (score.head, score.tag, score.primary_uncertainty)
        known += (score.confidence, score.phonotactics)
        assert found[i, :5] == pytest.approx(known, abs=1e-3)
        assert found[i, 5] == pytest.approx(max(-3.0, min(3.0, lead)), abs=1e-3)
        assert found[i, 6] == pytest.approx(-first[i].avg_logprob, abs=1e-3)
    assert found.shape == (4, 7)


def test_the_packs_own_clips_are_those_with_the_higher_scores(make_model, clips, tmp_path):
    """The other way round no score would count: weights are not negative."""
    model = make_model(("north", "ky"))
    sounds = []
    for i, clip in enumerate(clips):
        soundfile.write(tmp_path / f"{i}.wav", clip, 16_000, subtype="FLOAT")
        sounds.append(Sound(tmp_path / f"{i}.wav"))
    heads = [row[0].head for row in model.score_packs(model.encode_audio(clips))[0]]
    low, *_, high = np.argsort(heads)
    found = calibration.calibrate(model, "north", [sounds[high]], [sounds[low]])
    assert found.negatives and found.head.weights[0] > 0
    assert found.head(heads[high]) > 0 > found.head(heads[low])
    swapped = calibration.calibrate(model, "north", [sounds[low]], [sounds[high]])
    assert swapped.head.weights[0] == pytest.approx(0, abs=1e-6)
    for mine, others in (([], sounds), (sounds, [])):
        assert calibration.calibrate(model, "north", mine, others) == Calibration(negatives=False)


def test_the_rate_of_each_weight_is_that_of_its_own_transcripts(make_model, clips, tmp_path):
    model, refs = make_model(("north", "ky")), ["тоо", "кар жаады", "ат", "нан"]
    sounds = [Sound(tmp_path / f"{i}.wav") for i in range(len(clips))]
    for sound, clip in zip(sounds, clips, strict=True):
        soundfile.write(sound.path, clip, 16_000)
    weight, rates = choose_ctc_weight(model, "north", sounds, refs, beam=2, weights=(0.0, 1.0))
    assert set(rates) == {0.0, 1.0} and weight in rates
    best = [
        max(candidates, key=lambda c: c.ctc)
        for candidates in model.candidates(model.encode_audio(clips), "north", 2)
    ]
    said = [normalise(candidate.hypothesis.text, "marks") for candidate in best]
    assert rates[1.0] == pytest.approx(character_errors(refs, said).rate)


def test_calibration_in_bfloat16_is_that_of_float32_but_for_rounding(make_model, clips, tmp_path):
    model = make_model(("north", "ky"))
    sounds = [Sound(tmp_path / f"{i}.wav") for i in range(len(clips))]
    for sound, clip in zip(sounds, clips, strict=True):
        soundfile.write(sound.path, clip, 16_000, subtype="FLOAT")
    exact, rounded = (
        calibration._scores(model, "north", sounds, precision)
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, rounded)
    assert rounded[:, :4] == pytest.approx(exact[:, :4], rel=0.1, abs=0.1)
    weight, _ = choose_ctc_weight(model, "north", sounds, ["a"] * 4, precision="bfloat16")
    assert 0 <= weight <= 1
