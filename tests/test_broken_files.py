"""Bytes that were cut, flipped or overwritten give finite samples or one sentence, never more.

Fuzzing with atheris (docs/contributing.md) does the same for hours.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import encode, in_format, tone, with_edits

from dualasr.audio.load import SAMPLE_RATE, audio_duration, header_duration, stream_audio
from dualasr.errors import AudioError

KINDS = {
    "wav": ("WAV",),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64",),
    "flac": ("FLAC",),
    "aiff": ("AIFF",),
    "au": ("AU",),
    "caf": ("CAF",),
    "mp3": ("MP3",),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
CODECS = {
    "m4a": ("aac", "mp4"),
    "aac": ("aac", "adts"),
    "webm": ("libopus", "webm"),
    "mkv": ("flac", "matroska"),
    "ts": ("mp2", "mpegts"),
    "ac3": ("ac3", "ac3"),
    "avi": ("pcm_s16le", "avi"),
    "flv": ("aac", "flv"),
    "mov": ("pcm_s16le", "mov"),
}
NUMBERS = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1"])
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("put"), st.floats(0, 1), st.binary(min_size=1, max_size=12) | NUMBERS),
    # headers are the first bytes of most formats, and the last of some
    st.tuples(st.just("put"), st.floats(0, 0.03), st.binary(min_size=1, max_size=4) | NUMBERS),
    st.tuples(st.just("put"), st.floats(0.95, 1), st.binary(min_size=1, max_size=4) | NUMBERS),
    st.tuples(st.just("add"), st.floats(0, 1), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("lose"), st.floats(0, 1), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("flip"), st.floats(0, 1), st.binary(min_size=1, max_size=1)),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> the bytes of a whole file, a third of a second long."""
    pytest.importorskip("av", reason="PyAV is not installed")
    folder, sound = tmp_path_factory.mktemp("whole"), tone(0.3, 16_000)
    found = {name: in_format(sound, 16_000, *kind) for name, kind in KINDS.items()}
    for name, (codec, form) in CODECS.items():
        encode(folder / "a", codec, [(0.2, tone(0.3))], form=form)
        found[name] = (folder / "a").read_bytes()
    found["edited.m4a"] = with_edits(found["m4a"], [(1.0, None), (0.2, 0.05)])
    found["chain.ogg"] = found["ogg"] + found["opus"]
    found["chain.mp3"] = found["mp3"] + found["mp3"]
    return found


def damaged(content, damage):
    for how, where, what in damage:
        at = int(where * len(content))
        if how == "cut":
            content = content[:at]
        elif how == "put":
            content = content[:at] + what + content[at + len(what) :]
        elif how == "add":
            content = content[:at] + what + content[at:]
        elif how == "lose":
            content = content[:at] + content[at + len(what) :]
        elif content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ what[0]]) + content[at + 1 :]
    return content


@pytest.mark.parametrize("name", [*KINDS, *CODECS, "edited.m4a", "chain.ogg", "chain.mp3"])
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=st.lists(DAMAGE, min_size=1, max_size=4))
def test_damage_gives_samples_or_a_sentence(files, tmp_path, name, damage):
    path = tmp_path / name  # the same file again and again
    path.write_bytes(damaged(files[name], damage))
    count = 0
    try:
        for block in stream_audio(path):
            assert block.dtype == np.float32 and block.ndim == 1 and np.isfinite(block).all()
            count += len(block)
        read = count / SAMPLE_RATE
        assert audio_duration(path) == pytest.approx(read, abs=0.25)
        assert header_duration(path) in (0.0, pytest.approx(read, abs=0.25))
    except AudioError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        header_duration(path)
