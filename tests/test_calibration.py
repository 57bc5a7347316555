"""What dev decides, and what it is too small to decide."""

import numpy as np
import pytest
import soundfile

from dualasr.audio.load import Sound
from dualasr.metrics import character_errors
from dualasr.text import normalise
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
