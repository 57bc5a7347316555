"""Windows of a stream: the cuts of the whole, speech without silence, and Silero VAD as its own
package runs it.
"""

import importlib.util
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualasr.audio.load import SAMPLE_RATE, load_audio, quietest_cut, split_windows
from dualasr.audio.vad import CHUNK, SileroVad, VadOptions, follow
from dualasr.audio.windows import _speech, windows_of
from dualasr.data.espeak import Speaker, Voice
from dualasr.errors import MissingExtraError

DATA = Path(__file__).parents[2] / "shared" / "data"
HAS_VAD = all(importlib.util.find_spec(name) for name in ("silero_vad", "onnxruntime"))
needs_vad = pytest.mark.skipif(not HAS_VAD, reason="the extra vad is not installed")
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Nobody knows what the weather will be tomorrow.",
    "My brother works in a small shop near the river.",
)
SILENCE = np.zeros(5 * SAMPLE_RATE, np.float32)
NOISE = np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE).astype(np.float32)


@pytest.fixture(scope="module")
def phrases():
    """Three spoken sentences, of 1.9 to 3.2 s."""
    pytest.importorskip("espeakng_loader", reason="the extra synth is not installed")
    with Speaker() as speaker:
        return [speaker.speak(text, "en", Voice("f2", 140, 50, 50)) for text in SENTENCES]


@pytest.fixture(scope="module")
def talk(phrases):
    """The sentences with 5 s of silence around each, and where each begins and ends, in samples."""
    parts, places, at = [SILENCE], [], len(SILENCE)
    for phrase in phrases:
        parts += [phrase, SILENCE]
        places.append((at, at + len(phrase)))
        at += len(phrase) + len(SILENCE)
    return np.concatenate(parts), places


def in_blocks(samples, cuts):
    return iter(np.split(samples, sorted(cut % (len(samples) + 1) for cut in cuts)))


def spans(windows):
    """Start and end in samples, after a look at the promises every list of windows keeps."""
    found = [(round(w.start * SAMPLE_RATE), round(w.end * SAMPLE_RATE)) for w in windows]
    assert all(start < end for start, end in found)
    assert all(before[1] <= after[0] for before, after in zip(found, found[1:], strict=False)), (
        found
    )
    return found


@given(
    seconds=st.floats(0, 9),
    window_s=st.sampled_from([0.01, 0.05, 0.7, 2.5, 5]),
    cuts=st.lists(st.integers(0, 10**6), max_size=20),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_without_vad_the_cuts_are_those_of_the_whole(seconds, window_s, cuts, seed):
    rng = np.random.default_rng(seed)
    samples = (
        NOISE[: int(seconds * SAMPLE_RATE)]
        * np.repeat(rng.uniform(0, 1, 90), 1600)[: int(seconds * SAMPLE_RATE)]
    )
    samples = samples.astype(np.float32)
    windows = list(windows_of(in_blocks(samples, cuts), window_s))
    assert spans(windows) == split_windows(samples, window_s)
    for window, (start, end) in zip(windows, split_windows(samples, window_s), strict=True):
        np.testing.assert_array_equal(window.samples, samples[start:end])


def test_what_cannot_be_is_refused_at_once(monkeypatch):
    with pytest.raises(ValueError, match="window_s is 0"):
        windows_of(iter([]), 0.0)
    for wrong in (
        {"threshold": 0.0},
        {"threshold": 1.1},
        {"neg_threshold": 0.6},
        {"speech_pad_ms": -1},
        {"min_silence_duration_ms": np.inf},
        {"max_speech_duration_s": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VadOptions(**wrong)
    for package in ("onnxruntime", "silero_vad"):
        if package == "silero_vad" or HAS_VAD:
            monkeypatch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=r"pip install 'dualasr\[vad\]'"):
                windows_of(iter([]), 5.0, VadOptions())


class Script:
    """A model that reads its probabilities from a list."""

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def start(self):
        return 0

    def speech_probs(self, chunk, state):
        return self.probabilities[state], state + 1


def slow_speech_spans(samples, probabilities, size, options):
    """All stretches first, then all windows, with the whole sound at hand."""
    stretches, stretch, pad = [], None, options.speech_pad_ms * SAMPLE_RATE // 1000
    for i, probability in enumerate(probabilities):
        stretch = follow(stretch, probability, i * CHUNK, options)
        if stretch and (stretch.over or i == len(probabilities) - 1) and stretch.is_speech(options):
            stretches.append((max(0, stretch.start - pad), min(stretch.end + pad, len(samples))))
    assert all(
        before[1] <= after[0] for before, after in zip(stretches, stretches[1:], strict=False)
    ), "paddings overlap"
    found, held = [], None
    for start, end in stretches:
        if held and end - held[0] <= size:
            held = (held[0], end)
            continue
        found += [held] if held else []
        while end - start > size:
            cut = start + quietest_cut(samples[start : start + size])
            found.append((start, cut))
            start = cut
        held = (start, end)
    return found + ([held] if held else [])


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 60)), max_size=25
    ),
    tail=st.integers(1, CHUNK),
    window_s=st.sampled_from([0.05, 0.5, 1.7, 4.0]),
    options=st.builds(
        VadOptions,
        min_silence_duration_ms=st.sampled_from([0, 100, 800, 2000]),
        speech_pad_ms=st.sampled_from([0, 30, 400]),
        min_speech_duration_ms=st.sampled_from([0, 250, 1500]),
        neg_threshold=st.sampled_from([None, 0.1]),
        max_speech_duration_s=st.sampled_from([1.0, np.inf]),
    ),
)
@settings(max_examples=300, deadline=None)
def test_speech_windows_are_those_of_the_slow_version(runs, tail, window_s, options):
    probabilities = [probability for probability, count in runs for _ in range(count)]
    samples = np.resize(
        NOISE, max(0, len(probabilities) * CHUNK - CHUNK + tail) if probabilities else 0
    )
    size = int(min(window_s, options.max_speech_duration_s) * SAMPLE_RATE)
    windows = list(_speech(iter([samples]), size, options, Script(probabilities)))
    found = spans(windows)
    assert found == slow_speech_spans(samples, probabilities, size, options)
    for window, (start, end) in zip(windows, found, strict=True):
        assert len(window.samples) <= size
        np.testing.assert_array_equal(window.samples, samples[start:end])
    if not options.min_speech_duration_ms:
        inside = np.zeros(len(samples), bool)
        for start, end in found:
            inside[start:end] = True
        spoken = np.repeat(np.array(probabilities) >= options.threshold, CHUNK)[: len(samples)]
        assert inside[spoken].all(), "a spoken sample is in no window"


def test_a_stretch_begins_and_ends_by_two_thresholds():
    options = VadOptions(min_silence_duration_ms=64, speech_pad_ms=0)
    stretch, seen = None, []
    for i, probability in enumerate([0.4, 0.5, 0.36, 0.2, 0.4, 0.5, 0.34, 0.34, 0.34, 0.4]):
        stretch = follow(stretch, probability, i * CHUNK, options)
        seen.append(
            stretch and (stretch.start // CHUNK, stretch.end // CHUNK, stretch.quiet, stretch.over)
        )
    assert seen == [
        None,
        (1, 2, False, False),
        (1, 3, False, False),
        (1, 3, True, False),
        (1, 3, True, False),
        (1, 6, False, False),
        (1, 6, True, False),
        (1, 6, True, False),
        (1, 6, True, True),
        None,
    ]


@needs_vad
def test_silence_gives_no_window_and_every_sentence_gives_one(talk):
    samples, places = talk
    found = spans(windows_of(iter([samples]), 5.0, VadOptions()))
    pad, onset = 0.4 * SAMPLE_RATE, 0.1 * SAMPLE_RATE
    assert len(found) == len(places)
    for (start, end), (first, last) in zip(found, places, strict=True):
        assert first - pad - onset <= start <= first and last <= end <= last + pad + 4 * onset


@needs_vad
def test_sentences_share_a_window_where_they_fit_with_the_gap_between_them(talk):
    samples, places = talk
    wide = list(windows_of(iter([samples]), 60.0, VadOptions()))
    ((start, end),) = spans(wide)
    np.testing.assert_array_equal(wide[0].samples, samples[start:end])
    pair = (places[1][1] - places[0][0]) / SAMPLE_RATE + 1.2  # of the padded first two
    assert len(spans(windows_of(iter([samples]), pair, VadOptions()))) == 2
    limited = VadOptions(max_speech_duration_s=5.0)
    assert spans(windows_of(iter([samples]), 60.0, limited)) == spans(
        windows_of(iter([samples]), 5.0, VadOptions())
    )


@needs_vad
@given(
    cuts=st.lists(st.integers(0, 10**6), max_size=40), window_s=st.sampled_from([0.8, 5.0, 15.0])
)
@settings(max_examples=10, deadline=None)
def test_blocks_of_any_size_give_the_same_speech(talk, cuts, window_s):
    samples = talk[0]
    expected = list(windows_of(iter([samples]), window_s, VadOptions()))
    windows = list(windows_of(in_blocks(samples, cuts), window_s, VadOptions()))
    assert spans(windows) == spans(expected) and all(
        len(w.samples) <= window_s * SAMPLE_RATE for w in windows
    )
    for window, other in zip(windows, expected, strict=True):
        np.testing.assert_array_equal(window.samples, other.samples)


@needs_vad
@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-3, 1e-2])
def test_silence_and_quiet_noise_give_nothing(level):
    assert list(windows_of(iter([level * NOISE[: 20 * SAMPLE_RATE]]), 5.0, VadOptions())) == []
    assert list(windows_of(iter([]), 5.0, VadOptions())) == []


@needs_vad
def test_a_sentence_comes_before_the_sound_has_ended(talk):
    read = 0

    def blocks():
        nonlocal read
        for block in np.split(talk[0], range(CHUNK, len(talk[0]), CHUNK)):
            read += len(block)
            yield block

    first = next(windows_of(blocks(), 5.0, VadOptions()))
    assert read < (first.start + 5.0 + 2.1) * SAMPLE_RATE < len(talk[0]) / 2


@needs_vad
def test_torch_keeps_its_threads_and_silero_is_not_imported(talk):
    code = (
        "import sys, numpy as np, torch\n"
        "torch.set_num_threads(3)\n"
        "from dualasr.audio.vad import VadOptions\n"
        "from dualasr.audio.windows import windows_of\n"
        "list(windows_of(iter([np.zeros(9000, np.float32)]), 5.0, VadOptions()))\n"
        "assert torch.get_num_threads() == 3 and 'silero_vad' not in sys.modules"
    )
    before = torch.get_num_threads()
    list(windows_of(iter([talk[0]]), 5.0, VadOptions()))
    assert torch.get_num_threads() == before
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_vad
def test_a_long_stream_takes_no_more_memory_than_its_windows(phrases):
    speech = np.concatenate(phrases)

    def stream(minutes):
        for _ in range(int(minutes * 60 * SAMPLE_RATE / (5 * len(speech)))):
            yield from (speech, speech, speech, np.zeros(2 * len(speech), np.float32))

    peaks = []
    for minutes in (1.5, 6):
        tracemalloc.start()
        try:
            spoken = sum(len(w.samples) for w in windows_of(stream(minutes), 15.0, VadOptions()))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert spoken > 0.5 * minutes * 60 * SAMPLE_RATE
    assert peaks[1] < peaks[0] + 2**18 and peaks[1] < 16 * 2**20, peaks


def test_hours_without_vad_take_no_more_memory_than_a_window():
    tracemalloc.start()
    try:
        block = NOISE[: 1 << 16].copy()
        hours = (block for _ in range(3 * 3600 * SAMPLE_RATE >> 16))
        assert (
            sum(len(w.samples) for w in windows_of(hours, 30.0))
            == 3 * 3600 * SAMPLE_RATE >> 16 << 16
        )
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


REFERENCE = """
import json, sys
import numpy as np, torch
from silero_vad import get_speech_timestamps, load_silero_vad
model, samples = load_silero_vad(onnx=True), torch.from_numpy(np.load(sys.argv[1]))
probabilities = []
for chunk in samples.split(512):
    probabilities.append(model(torch.nn.functional.pad(chunk, (0, 512 - len(chunk))), 16000).item())
asked = json.loads(sys.argv[2])
stretches = [get_speech_timestamps(samples, model, **options) for options in asked]
json.dump([probabilities, stretches], sys.stdout)
"""
ASKED = (
    {"min_silence_duration_ms": 2000, "speech_pad_ms": 400, "min_speech_duration_ms": 0},
    {"min_silence_duration_ms": 100, "speech_pad_ms": 30, "min_speech_duration_ms": 250},
    {
        "min_silence_duration_ms": 0,
        "speech_pad_ms": 0,
        "min_speech_duration_ms": 0,
        "threshold": 0.9,
        "neg_threshold": 0.2,
    },
)


def check_against_the_package(samples, folder):
    """Probabilities and stretches of silero_vad itself, in a process of its own, for its import
    sets torch's threads.
    """
    # the last stretch ends in silence
    samples = np.concatenate([samples, np.zeros(3 * SAMPLE_RATE + 100, np.float32)])
    np.save(folder / "a.npy", samples)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        REFERENCE,
        str(folder / "a.npy"),
        json.dumps(ASKED),
    ]
    expected, stretches = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    vad = SileroVad()
    state, probabilities = vad.start(), []
    for at in range(0, len(samples), CHUNK):
        probability, state = vad.speech_probs(samples[at : at + CHUNK], state)
        probabilities.append(probability)
    assert max(expected) > 0.9 > 0.1 > min(expected)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    for asked, theirs in zip(ASKED, stretches, strict=True):
        assert theirs
        options, ours, stretch = VadOptions(**asked), [], None
        pad = options.speech_pad_ms * SAMPLE_RATE // 1000
        for i, probability in enumerate(probabilities):
            stretch = follow(stretch, probability, i * CHUNK, options)
            if stretch and stretch.over and stretch.is_speech(options):
                ours.append(
                    {
                        "start": max(0, stretch.start - pad),
                        "end": min(stretch.end + pad, len(samples)),
                    }
                )
        assert stretch is None or stretch.over, "silence ends all speech"
        assert ours == theirs, asked


@needs_vad
def test_generated_speech_is_heard_as_the_package_hears_it(talk, tmp_path):
    check_against_the_package(talk[0], tmp_path)


@needs_vad
@pytest.mark.skipif(
    not (DATA / "fleurs_mini").is_dir(), reason="shared/data/fleurs_mini is not there"
)
def test_real_speech_is_heard_as_the_package_hears_it(tmp_path):
    clips = [
        load_audio(path) for path in sorted((DATA / "fleurs_mini" / "test").glob("*_00[01].flac"))
    ]
    check_against_the_package(np.concatenate(clips), tmp_path)
