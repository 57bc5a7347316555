"""Containers: second 0 is the zero of the container, and each sound keeps its time."""

import shutil
import sys

import numpy as np
import pytest
from sounds import REPORTS, encode, heard, tone, with_edits

from dualasr.audio.containers import MOST_SILENCE
from dualasr.audio.load import SAMPLE_RATE, Sound, audio_duration, load_audio
from dualasr.errors import AudioError

pytest.importorskip("av", reason="PyAV is not installed")


@pytest.fixture(params=["PyAV", "ffmpeg"])
def read(request, monkeypatch):
    """Read a file with one of the two; PyAV has written it before."""
    if request.param == "ffmpeg" and not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg on the PATH")

    def reading(path):
        with monkeypatch.context() as patch:
            if request.param == "ffmpeg":
                patch.setitem(sys.modules, "av", None)
            samples = load_audio(path)
            assert audio_duration(path) == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.01)
            return samples

    return reading


def about(*stretches):
    """What `heard` gives for these stretches; a codec's frame may be cut at the end."""
    return [pytest.approx(stretch, abs=0.03) for stretch in stretches]


CODECS = {"mkv": "libopus", "webm": "libopus", "mp4": "aac", "mov": "pcm_s16le", "ts": "mp2"}


@pytest.mark.parametrize("suffix", CODECS)
def test_a_track_that_begins_later_begins_later(tmp_path, read, suffix):
    path = tmp_path / f"a.{suffix}"
    encode(
        path,
        CODECS[suffix],
        [(2.0, tone(1.0))],
        picture_s=4.0,
        form={"ts": "mpegts", "webm": "matroska"}.get(suffix),
    )
    assert heard(read(path)) == about((2.0, 3.0))


@pytest.mark.parametrize("suffix", ["mka", "m4a", "mov"])
def test_a_clock_that_begins_at_zero_does_so_without_a_picture(tmp_path, read, suffix):
    path = tmp_path / f"a.{suffix}"
    codec = {"mka": "libopus", "m4a": "aac", "mov": "pcm_s16le"}[suffix]
    encode(path, codec, [(5.0, tone(1.0))], form={"mka": "matroska"}.get(suffix))
    samples = read(path)
    assert heard(samples) == about((5.0, 6.0)) and not samples[: 4 * SAMPLE_RATE].any()
    part = load_audio(Sound(path, 5.25, 5.75))
    np.testing.assert_allclose(part[800:-800], samples[84_800:91_200], atol=0.05)
    assert len(part) == SAMPLE_RATE // 2 and np.abs(part[800:-800]).max() > 0.3


@pytest.mark.parametrize("shift", [0.0, 10.0, 60_000.0])
def test_a_recording_of_a_broadcast_begins_where_its_first_track_does(tmp_path, read, shift):
    path = tmp_path / "a.ts"
    encode(path, "mp2", [(1.5, tone(1.0))], picture_s=3.0, form="mpegts", shift=shift)
    assert heard(read(path)) == about((1.5, 2.5))
    encode(path, "mp2", [(1.5, tone(1.0))], form="mpegts", shift=shift)
    assert heard(read(path)) == about((0.0, 1.0))


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.mka", "libopus", "matroska"),
        ("a.webm", "libopus", "webm"),
        ("a.m4a", "aac", "mp4"),
        ("a.flv", "aac", "flv"),
        ("a.ts", "mp2", "mpegts"),
        ("a.opus", "libopus", "ogg"),
    ],
)
def test_a_gap_between_packets_is_silence(tmp_path, read, name, codec, form):
    path = tmp_path / name
    encode(
        path, codec, [(0.0, tone(1.2)), (3.0, tone(1.2)), (7.0, tone(0.6))], form=form, pages=True
    )
    # an encoder and the last frame before a gap may move a sound by a frame, at most 0.1 s
    for (start, end), (wanted, until) in zip(
        heard(read(path)), ((0.0, 1.2), (3.0, 4.2), (7.0, 7.6)), strict=True
    ):
        assert start == pytest.approx(wanted, abs=0.1) and end == pytest.approx(until, abs=0.1)


@pytest.mark.parametrize(
    ("edits", "stretches"),
    [
        ([(5.0, None), (1.0, 0.5)], [(5.0, 6.0)]),
        ([(2.0, 1.0)], [(0.0, 2.0)]),
        ([(1.0, 0.0), (2.0, None), (1.0, 1.0)], [(0.0, 1.0), (3.0, 4.0)]),
        ([(0.5, 0.25), (0.5, 2.0)], [(0.0, 1.0)]),
    ],
)
@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mov", "pcm_s16le")])
def test_edit_lists_are_followed(tmp_path, read, name, codec, edits, stretches):
    encode(tmp_path / "plain", codec, [(0.0, tone(3.0))], form="mp4" if codec == "aac" else "mov")
    path = tmp_path / name
    path.write_bytes(with_edits((tmp_path / "plain").read_bytes(), edits))
    assert heard(read(path)) == about(*stretches)


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [("a.m4a", "aac", "mp4"), ("a.webm", "libopus", "webm"), ("a.mp3", "mp3", "mp3")],
)
def test_the_delay_of_an_encoder_is_no_silence(tmp_path, read, name, codec, form):
    path = tmp_path / name
    encode(path, codec, [(0.0, tone(1.0))], form=form)
    samples = read(path)
    # the sound begins at once, and lasts its second
    assert heard(samples)[0] == pytest.approx((0.0, 1.0), abs=0.025)


def test_timestamps_that_ask_for_days_of_silence_are_not_followed(tmp_path, read):
    path = tmp_path / "a.mka"
    late = MOST_SILENCE * 10.0
    encode(path, "pcm_s16le", [(0.0, tone(1.0)), (late, tone(1.0))], form="matroska")
    [(start, end)] = heard(read(path))
    assert (start, end) == pytest.approx((0.0, 2.0), abs=0.1)
    encode(path, "pcm_s16le", [(late, tone(1.0))], form="matroska")
    assert heard(read(path)) == about((0.0, 1.0))


def test_a_playlist_opens_no_other_file(tmp_path, read):
    encode(tmp_path / "a.ts", "mp2", [(0.0, tone(1.0))], form="mpegts")
    lists = {
        "hls.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile '{}'\n",
        "sdp.wav": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 5004 RTP/AVP 0\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text.format(tmp_path / "a.ts"))
        with pytest.raises(AudioError, match="is a playlist, not sound"):
            read(tmp_path / name)


def test_a_codec_that_nobody_knows_is_a_sentence(tmp_path, read):
    encode(tmp_path / "plain", "libopus", [(0.0, tone(1.0))], form="matroska")
    path = tmp_path / "a.mka"
    path.write_bytes((tmp_path / "plain").read_bytes().replace(b"A_OPUS", b"A_ZZZZ"))
    with pytest.raises(AudioError, match="cannot be read as audio"):
        read(path)


@pytest.mark.skipif(not REPORTS.is_dir(), reason="shared/data/public_reports is not there")
def test_files_of_public_reports_keep_their_time(read):
    [(start, end)] = heard(read(REPORTS / "delayed.mkv"), loud=0.01, pause=0.5)
    assert 5.0 <= start < 5.1 and 7.5 < end <= 7.63
    film = REPORTS.parent / "corpora" / "srt_delayed" / "film.mkv"
    assert heard(read(film), loud=0.01, pause=5.0)[0][0] == pytest.approx(2.0, abs=0.05)
