"""What a file holds decides who reads it, and its header is believed as far as the data go."""

import logging
import shutil
import struct
import sys

import numpy as np
import pytest
import soundfile
from sounds import REPORTS, encode, heard, in_format, tone

from dualasr.audio.files import open_sound_file
from dualasr.audio.headers import contents_of as contents
from dualasr.audio.headers import flac_frames
from dualasr.audio.load import (
    SAMPLE_RATE,
    SUFFIXES,
    Sound,
    audio_duration,
    header_duration,
    load_audio,
)
from dualasr.errors import AudioError

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(3 * RATE)).astype(np.float32)


@pytest.fixture(params=["PyAV", "ffmpeg", "neither"])
def means(request, monkeypatch):
    """What stands behind libsndfile."""
    if request.param == "PyAV":
        pytest.importorskip("av", reason="PyAV is not installed")
    else:
        monkeypatch.setitem(sys.modules, "av", None)
    if request.param == "neither":
        monkeypatch.setenv("PATH", "")
    elif request.param == "ffmpeg" and not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg on the PATH")
    return request.param


def seconds(path):
    """The length that is read; the one that is promised has to agree."""
    read = len(load_audio(path)) / SAMPLE_RATE
    assert audio_duration(path) == pytest.approx(read, abs=0.08)
    assert header_duration(path) in (0.0, pytest.approx(read, abs=0.08))
    return read


def files_of_each_kind(folder):
    """Contents -> bytes; made before any test takes PyAV away."""
    kinds = {
        name: in_format(tone(1.0, RATE), RATE, *kind)
        for name, kind in {
            "wav": ("WAV",),
            "rf64": ("RF64",),
            "flac": ("FLAC",),
            "aiff": ("AIFF",),
            "au": ("AU",),
            "caf": ("CAF",),
            "w64": ("W64",),
            "mp3": ("MP3",),
            "ogg": ("OGG", "VORBIS"),
            "opus": ("OGG", "OPUS"),
        }.items()
    }
    for name, codec, form in (
        ("m4a", "aac", "mp4"),
        ("aac", "aac", "adts"),
        ("webm", "libopus", "webm"),
        ("mkv", "flac", "matroska"),
        ("ts", "mp2", "mpegts"),
        ("ac3", "ac3", "ac3"),
        ("avi", "pcm_s16le", "avi"),
        ("flv", "aac", "flv"),
    ):
        encode(folder / "made", codec, [(0.0, tone(1.0))], form=form)
        kinds[name] = (folder / "made").read_bytes()
    return kinds


def test_the_suffix_decides_nothing(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    kinds = files_of_each_kind(tmp_path)
    for kind, content in kinds.items():
        lengths = set()
        for suffix in [*kinds, "bin", "txt", "raw", "mp4", ""]:
            path = tmp_path / f"{kind} as {suffix}{'.' if suffix else ''}{suffix}"
            path.write_bytes(content)
            lengths.add(seconds(path))
            [(start, end)] = heard(load_audio(path))
            # 0.05: an aac, ts, ac3 or flv does not say how long its encoder's delay is
            assert start < 0.05 and end - start == pytest.approx(1.0, abs=0.03), path
        assert len(lengths) == 1, kind


def test_an_id3_tag_may_stand_before_anything(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    kinds = files_of_each_kind(tmp_path)
    tag = b"ID3\x03\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
    for kind in ("mp3", "aac", "flac", "wav"):
        path = tmp_path / "a.mp3"
        path.write_bytes(tag + kinds[kind])
        assert seconds(path) == pytest.approx(1.0, abs=0.08), kind


def test_what_can_be_read_is_found_in_folders():
    assert {".wav", ".mp3", ".ts", ".ogg", ".amr", ".mov", ".avi", ".m4b", ".caf", ".wma"} <= {
        *SUFFIXES
    }
    assert {".webm", ".mp4", ".mkv", ".ac3", ".3gp", ".aiff", ".spx", ".oga"} <= {*SUFFIXES}
    assert len({*SUFFIXES}) == len(SUFFIXES) and all(s == s.lower() for s in SUFFIXES)


# ---- wav and its relatives


def with_size(content, size, where):
    """The same file with another size of its sound."""
    at, layout = where
    return content[:at] + struct.pack(layout, size) + content[at + struct.calcsize(layout) :]


@pytest.mark.parametrize("name", ["WAV", "RF64", "AIFF", "AU"])
@pytest.mark.parametrize("counted", [0, 8, 20_000, "unknown"])
def test_a_header_that_counts_too_little_is_not_believed(tmp_path, caplog, name, counted):
    content = in_format(NOISE, RATE, name)
    where = {
        "WAV": (content.find(b"data") + 4, "<I"),
        "RF64": (content.find(b"ds64") + 16, "<Q"),
        "AIFF": (content.find(b"SSND") + 4, ">I"),
        "AU": (8, ">I"),
    }[name]
    size = (0xFFFFFFFF if where[1] != "<Q" else 1 << 63) if counted == "unknown" else counted
    path = tmp_path / f"{counted}.wav"
    path.write_bytes(with_size(content, size, where))
    with caplog.at_level(logging.WARNING, "dualasr"):
        assert seconds(path) == 3.0
    np.testing.assert_allclose(load_audio(path), NOISE, atol=1e-4)
    noted = [r.getMessage() for r in caplog.records]
    assert len(noted) == (counted != "unknown")
    assert all(note.startswith(f"{path}: its header counts {size} bytes") for note in noted)
    part = load_audio(Sound(path, 1.0, 2.0))
    np.testing.assert_allclose(part, NOISE[RATE : 2 * RATE], atol=1e-4)


@pytest.mark.parametrize("name", ["WAV", "RF64", "AIFF", "AU"])
def test_a_header_that_counts_too_much_is_not_believed(tmp_path, name):
    path = tmp_path / "a.wav"
    path.write_bytes(in_format(NOISE, RATE, name)[:-20_000])
    for reader in (load_audio, audio_duration):
        with pytest.raises(AudioError, match=r"is truncated: its header promises \d+ bytes"):
            reader(path)
    assert header_duration(path) == 0.0


@pytest.mark.parametrize("size", [0, 96_000])
def test_chunks_behind_the_sound_are_no_sound(tmp_path, caplog, size):
    chunk = struct.pack("<4sI", b"LIST", 6000) + b"INFO" + bytes(5996)
    other = struct.pack("<4sI", b"what", 5001) + bytes(5002)
    whole = in_format(NOISE, RATE, "WAV")
    for behind in (chunk, other, chunk + other, chunk[:-100], chunk + b"\0\0\0"):
        path = tmp_path / f"{len(behind)}.wav"
        path.write_bytes(with_size(whole[: 44 + size] + behind, size, (40, "<I")))
        if size:
            assert seconds(path) == 3.0
        else:
            with pytest.raises(AudioError, match="has no samples"):
                load_audio(path)
    assert not caplog.records


@pytest.mark.parametrize("counted", [1 << 30, 0, 0xFFFFFFFF])
def test_a_wav_beyond_four_gigabytes_is_read(tmp_path, counted):
    path, size = tmp_path / "long.wav", 5 << 30  # counted modulo 4 GB, not at all, or as unknown
    path.write_bytes(with_size(in_format(NOISE, RATE, "WAV")[:44], counted, (40, "<I")))
    with path.open("r+b") as file:
        file.truncate(44 + size - 2 * len(NOISE))
        file.seek(0, 2)
        file.write((NOISE * 32767).astype("<i2").tobytes())
    assert header_duration(path) == audio_duration(path) == size / 2 / RATE
    part = load_audio(Sound(path, size / 2 / RATE - 3.0))
    np.testing.assert_allclose(part, NOISE, atol=1e-4)


@pytest.mark.parametrize("counted", [0, 100, 16_000])
def test_a_flac_that_counts_too_few_samples_is_read_to_its_end(tmp_path, caplog, counted):
    content = bytearray(in_format(NOISE, RATE, "FLAC"))
    content[21], content[22:26] = content[21] & 0xF0, struct.pack(">I", counted)
    path = tmp_path / f"{counted}.flac"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "dualasr"):
        assert seconds(path) == 3.0 and header_duration(path) == 3.0
    assert len(caplog.records) == (counted > 0)
    np.testing.assert_allclose(load_audio(path), NOISE, atol=1e-4)
    assert len(load_audio(Sound(path, 2.5, 2.75))) == RATE // 4


def test_a_flac_that_counts_too_many_samples_is_not_believed(tmp_path):
    content = bytearray(in_format(NOISE, RATE, "FLAC"))
    content[22:26] = struct.pack(">I", 30 * RATE)
    (tmp_path / "a.flac").write_bytes(content)
    (tmp_path / "cut.flac").write_bytes(in_format(NOISE, RATE, "FLAC")[:-9000])
    for path in (tmp_path / "a.flac", tmp_path / "cut.flac"):
        for reader in (load_audio, audio_duration):
            with pytest.raises(AudioError, match="is truncated"):
                reader(path)
        assert header_duration(path) == 0.0


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 96_000, 12_345])
@pytest.mark.parametrize("frames", [1, 4096, 4097, 100_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_last_frame_of_a_flac_tells_its_length(tmp_path, rate, frames, channels):
    path = tmp_path / "a.flac"
    sound = np.random.default_rng(frames).normal(0, 0.05, (frames, channels))
    for subtype in ("PCM_16", "PCM_24", "PCM_S8"):
        soundfile.write(path, sound, rate, subtype=subtype)
        with path.open("rb") as file:
            size = path.stat().st_size
            assert flac_frames(file, contents(file, size)) == (frames, frames)


# ---- mp3


def mp3(sound=NOISE):
    return bytearray(in_format(sound, RATE, "MP3"))


def put_count(content, frames):
    at = content.find(b"Xing") if b"Xing" in content else content.find(b"Info")
    content[at + 8 : at + 12] = struct.pack(">I", frames)
    return content


def lying_mp3s():
    """Name -> (file, seconds)."""
    none = mp3()
    at = none.find(b"Xing")
    none[at : at + 4] = b"XXXX"
    tag = b"TAG" + bytes(125)
    id3 = b"ID3\x04\0\0\0\0\1\0" + bytes(128)
    return {
        "right": (mp3(), 3.0),
        "few": (put_count(mp3(), 10), 3.0),
        "none counted": (put_count(mp3(), 0), 3.0),
        "many": (put_count(mp3(), 10_000), 3.0),
        "no Xing": (none, 3.0),
        "chain": (mp3() + mp3(NOISE[:RATE]), 4.0),
        "chain with tags": (mp3() + tag + id3 + mp3(NOISE[:RATE]), 4.0),
        "tags": (id3 + mp3() + tag, 3.0),
        "junk inside": (mp3()[:9000] + bytes(500) + mp3()[9000:], 3.0),
        "cut in front": (mp3()[1000:], 3.0),
    }


@pytest.mark.parametrize("name", lying_mp3s())
def test_an_mp3_is_read_to_the_end_of_its_data(tmp_path, means, name):
    content, length = lying_mp3s()[name]
    path = tmp_path / f"{name}.mp3"
    path.write_bytes(content)
    if means == "neither" and name not in ("right", "many", "tags"):
        for reader in (load_audio, audio_duration):
            with pytest.raises(AudioError, match=r"pip install 'dualasr\[av\]'"):
                reader(path)
        return
    # the first of two links keeps its padding, the second its delay; a cut loses a frame or two
    assert seconds(path) == pytest.approx(length, abs=0.25 if "chain" in name else 0.15)


# ---- chained Ogg


@pytest.mark.parametrize("second", [(1.5, 16_000, 1), (1.5, 48_000, 2), (0.5, 8_000, 1)])
@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_all_links_of_an_ogg_are_read(tmp_path, means, codec, second):
    length, rate, channels = second
    other = np.repeat(tone(length, rate, 300.0)[:, None], channels, axis=1)
    path = tmp_path / "a.ogg"
    links = [in_format(tone(2.0, RATE), RATE, "OGG", codec), in_format(other, rate, "OGG", codec)]
    path.write_bytes(b"".join([*links, links[0]]))
    assert seconds(path) == pytest.approx(4.0 + length, abs=0.002)
    samples = load_audio(path)
    assert heard(samples) == [pytest.approx((0.0, 4.0 + length), abs=0.01)]
    middle = load_audio(Sound(path, 2.1, 2.0 + length))
    crossings = np.count_nonzero(np.diff(np.signbit(middle[200:-200])))
    assert crossings == pytest.approx(2 * 300 * len(middle[200:-200]) / SAMPLE_RATE, rel=0.03)


def test_all_links_of_a_flac_in_ogg_are_read(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    links = []
    for length, rate in ((2.0, 16_000), (1.5, 48_000)):
        encode(tmp_path / "link", "flac", [(0.0, tone(length, rate))], rate=rate, form="ogg")
        links.append((tmp_path / "link").read_bytes())
    path = tmp_path / "a.flac"
    path.write_bytes(b"".join(links))
    assert seconds(path) == pytest.approx(3.5, abs=0.01)


def test_a_link_that_cannot_be_read_is_named(tmp_path, caplog):
    link = in_format(tone(2.0, RATE), RATE, "OGG", "VORBIS")
    path = tmp_path / "a.ogg"
    path.write_bytes(link + link.replace(b"vorbis", b"robvis") + link)
    with caplog.at_level(logging.WARNING, "dualasr"):
        assert seconds(path) == pytest.approx(4.0, abs=0.01)
    assert "a part of this chained Ogg cannot be read; it is left out" in caplog.text


@pytest.mark.parametrize("kept", [27, 60, 600])
def test_a_track_that_begins_within_another_is_left_out(tmp_path, kept):
    """A page that was cut hides that a track begins; PyAV raises an IndexError at its end."""
    pytest.importorskip("av", reason="PyAV is not installed")
    one, other = (
        [b"OggS" + page for page in content.split(b"OggS")[1:]]
        for content in (
            in_format(tone(9.0, RATE, pitch), RATE, "OGG", "VORBIS") for pitch in (300.0, 500.0)
        )
    )
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join([*one[:2], one[2][:kept], one[-1], other[0], one[-1]]))
    assert 0.1 < seconds(path) < 12.0


# ---- what cannot be read


def test_one_sentence_says_what_is_missing(tmp_path, means):
    for name, content in {
        "a.ts": b"G" + bytes(187) * 4,
        "a.mp3": b"ID3" + bytes(500),
        "a.wav": b"RIFF\0\0\0\0WAVE",
        "a.ogg": b"OggS" + bytes(500),
        "a.png": b"\x89PNG\r\n\x1a\n" + bytes(500),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudioError) as caught:
            load_audio(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: cannot be read as audio") and (
            "pip install 'dualasr[av]'" in message
        ) == (means == "neither")
        assert "\n" not in message


@pytest.mark.skipif(not REPORTS.is_dir(), reason="shared/data/public_reports is not there")
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("chain.ogg", 4.39),
        ("chain.mp3", 4.5),
        ("xingshort.mp3", 2.58),
        ("zerodata.wav", 2.58),
        ("antiphase.flac", 2.58),
        ("speex.ogg", 2.57),
        # the delay of the encoder is not in these two
        ("show.ts", 2.66),
        ("reallyaac.mp3", 2.69),
    ],
)
def test_files_of_public_reports(means, name, length):
    if means == "neither" and name.endswith((".mp3", ".ts", "speex.ogg")):
        with pytest.raises(AudioError, match=r"pip install 'dualasr\[av\]'"):
            load_audio(REPORTS / name)
        return
    assert seconds(REPORTS / name) == pytest.approx(length, abs=0.011)
    assert 0.07 < load_audio(REPORTS / name).std() < 0.12
    with open_sound_file(REPORTS / name) as file:
        assert file.rate in (16_000, 48_000)
