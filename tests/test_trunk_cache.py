"""Cached activations: every part of a key, what an entry holds, and what is computed again."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
import soundfile
import torch

from dualasr.audio.augment import Augmentation, augment
from dualasr.audio.load import Sound
from dualasr.errors import AudioError, RunError
from dualasr.model.whisper import Backbone
from dualasr.training import trunk_cache
from dualasr.training.trunk_cache import TrunkCache

LOUD = Augmentation(speed=1.0, colour=0, reverberation=0, noise=0, band_limit=0, clip=0)


@pytest.fixture
def wav(tmp_path, clips):
    path = tmp_path / "a.wav"
    soundfile.write(path, clips[1], 16_000, subtype="FLOAT")
    return path


def other_base(folder):
    backbone = Backbone.load(folder)
    with torch.no_grad():
        backbone.decoder.layer_norm.bias[0] += 1
    return backbone


def changed(options):
    """An augmentation for each field, with another value of it."""
    for field in fields(Augmentation):
        value = getattr(options, field.name)
        other = tuple(v / 2 for v in value) if isinstance(value, tuple) else value / 2
        yield replace(options, **{field.name: other})


def test_every_part_of_a_key_makes_another_file(backbone, tiny_folder, tmp_path, monkeypatch):
    """Two caches in one folder never share an entry that would differ."""
    cache = TrunkCache(tmp_path, backbone, 1)
    digest = hashlib.sha256(b"a").digest()
    first = [cache.path(digest, variant) for variant in range(3)]
    assert TrunkCache(tmp_path, Backbone.load(tiny_folder), 1).path(digest, 1) == first[1]
    base = [replace(cache, fork=fork) for fork in (0, 2)]
    base.append(replace(cache, backbone=other_base(tiny_folder)))
    varied = [replace(cache, seed=1), *(replace(cache, augmentation=a) for a in changed(LOUD))]
    seen = list(first)
    for other in base:
        seen += [other.path(digest, variant) for variant in range(3)]
    for other in varied:
        assert other.path(digest, 0) == first[0], "the clip itself is nobody's variant"
        seen += [other.path(digest, variant) for variant in (1, 2)]
    seen += [cache.path(hashlib.sha256(b"b").digest(), variant) for variant in range(3)]
    monkeypatch.setattr(trunk_cache, "VERSION", "other")
    seen += [cache.path(digest, variant) for variant in range(3)]
    assert len(set(seen)) == len(seen)


def test_names_of_earlier_entries_stay(backbone, tmp_path):
    """A folder that an earlier version filled serves on."""
    cache, digest = TrunkCache(tmp_path, backbone, 1, LOUD, 7), b"0123"
    for variant, more in ((0, ""), (2, f"|7|{LOUD}")):
        text = f"2|{backbone.checksum}|1|{variant}{more}"
        name = hashlib.sha256(digest + text.encode()).hexdigest()[:32]
        assert cache.path(digest, variant) == tmp_path / name[:2] / f"{name}.npy"


def test_an_entry_is_the_trunk_of_its_frames_and_the_margin(backbone, clips, wav, tmp_path):
    for fork in (0, 1, 2):
        (path,) = TrunkCache(tmp_path / "cache", backbone, fork).fill([(wav, 0)], progress=False)
        found = np.load(path)
        trunk = backbone.trunk(backbone.features([clips[1]]), fork)[0]
        assert found.shape == (115 + 8, backbone.width), "2.3 s have 115 frames"
        assert found.dtype == np.float16 and found.itemsize == trunk_cache.BYTES_A_VALUE
        assert np.array_equal(found, trunk[: len(found)].to(torch.float16).numpy())


def test_an_entry_does_not_depend_on_its_batch(backbone, clips, tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    for path, clip in zip(paths, clips, strict=True):
        soundfile.write(path, clip, 16_000, subtype="FLOAT")
    wanted = [(path, variant) for path in paths for variant in (0, 1)]
    caches = [TrunkCache(tmp_path / f"cache{batch}", backbone, 1, LOUD) for batch in (1, 3, 16)]
    found = [
        cache.fill(wanted, batch=batch, progress=False)
        for cache, batch in zip(caches, (1, 3, 16), strict=True)
    ]
    for entries in zip(*found, strict=True):
        assert len({path.name for path in entries}) == 1
        values = [np.load(path).astype(np.float32) for path in entries]
        assert values[0].shape == values[1].shape == values[2].shape
        for one in values[1:]:
            assert np.allclose(values[0], one, rtol=5e-3, atol=5e-3)
    for (path, variant), entry in zip(wanted, found[0], strict=True):
        digest = hashlib.sha256(path.read_bytes()).digest()
        assert entry == caches[0].path(digest, variant), "in the order that was asked for"


def test_what_is_there_is_not_computed_again(backbone, wav, tmp_path, monkeypatch):
    cache = TrunkCache(tmp_path / "cache", backbone, 1, LOUD)
    (first,) = cache.fill([(wav, 0)], progress=False)
    np.save(first, np.zeros((3, 2), np.float16))
    calls, trunk = [], Backbone.trunk

    def count(self, mel, fork):
        calls.append(len(mel))
        return trunk(self, mel, fork)

    monkeypatch.setattr(Backbone, "trunk", count)
    both = cache.fill([(wav, 0), (wav, 1)], progress=False)
    assert both[0] == first and np.load(first).shape == (3, 2)
    assert calls == [1] and both[1].exists()
    copy = wav.with_name("copy.wav")
    copy.write_bytes(wav.read_bytes())
    assert cache.fill([(copy, 0)], progress=False) == [first], "the content counts, not the name"
    assert calls == [1] and cache.fill([], progress=False) == []


def test_a_variant_is_drawn_from_seed_clip_and_number(backbone, clips, wav, tmp_path):
    cache = TrunkCache(tmp_path, backbone, 1, LOUD)
    assert np.array_equal(cache.samples(wav, 0), clips[1])
    digest = hashlib.sha256(clips[1].tobytes()).digest()[:8]
    key = int.from_bytes(digest, "little")
    for seed, variant in ((0, 1), (0, 2), (5, 1)):
        found = replace(cache, seed=seed).samples(wav, variant)
        known = augment(clips[1], np.random.default_rng([seed, key, variant]), LOUD)
        assert np.array_equal(found, known) and len(found) != len(clips[1])
    quiet = replace(cache, augmentation=replace(LOUD, gain_db=(-20.0, -20.0)))
    assert np.abs(quiet.samples(wav, 1)).max() == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("seconds, slower", [(12.7, True), (12.75, True), (12.76, False)])
def test_a_clip_that_would_not_fit_keeps_its_speed(backbone, tmp_path, seconds, slower):
    """15 s of window at the slowest speed, 0.85, hold 12.75 s."""
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(round(16_000 * seconds))).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    cache = TrunkCache(tmp_path, backbone, 1, LOUD)
    lengths = {len(cache.samples(tmp_path / "a.wav", variant)) for variant in (1, 2, 3)}
    assert (len(samples) not in lengths) == slower and max(lengths) <= 240_000
    soundfile.write(tmp_path / "b.wav", np.tile(samples, 2), 16_000, subtype="FLOAT")
    long = cache.samples(tmp_path / "b.wav", 0)
    assert len(long) == 240_000 and np.array_equal(long[: len(samples)], samples)


def test_stretches_of_one_file(backbone, clips, wav, tmp_path):
    """Start and end are both part of the key; a stretch that is all of the file is the file."""
    cache = TrunkCache(tmp_path / "cache", backbone, 1)
    sounds = [wav, Sound(wav), Sound(wav, 0.0, 1.0), Sound(wav, 0.0, 1.5), Sound(wav, 0.5, 1.5)]
    found = cache.fill([(sound, 0) for sound in sounds], progress=False)
    assert found[0] == found[1] and len(set(found)) == 4
    assert [len(np.load(path)) for path in found[1:]] == [123, 58, 83, 58]
    digest = hashlib.sha256(wav.read_bytes()).digest()
    key = hashlib.sha256(digest + b"|0.5-1.5").digest()
    assert found[4] == cache.path(key, 0), "a name that earlier versions gave"


def test_sounds_that_cannot_be_read_are_told_and_the_others_kept(backbone, wav, tmp_path):
    broken, nowhere = tmp_path / "broken.wav", tmp_path / "nowhere.wav"
    broken.write_bytes(b"no sound" * 9)
    cache = TrunkCache(tmp_path / "cache", backbone, 1)
    found = cache.fill([(broken, 0), (wav, 0), (nowhere, 0), (nowhere, 1)], progress=False)
    assert [isinstance(one, AudioError) for one in found] == [True, False, True, True]
    assert "broken.wav" in str(found[0]) and "nowhere.wav" in str(found[2])
    assert np.load(found[1]).shape[0] == 123
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_a_folder_that_cannot_be_written(backbone, wav, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=f"the trunk cache {tmp_path}/cache.*lower --variants"):
        TrunkCache(tmp_path / "cache", backbone, 1).fill([(wav, 0)], progress=False)


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_counts_what_is_computed(backbone, wav, tmp_path, capsys, progress):
    cache = TrunkCache(tmp_path / "cache", backbone, 1)
    cache.fill([(wav, 0), (wav, 1), (wav, 2)], progress=progress, batch=2)
    shown = capsys.readouterr().err
    assert ("trunk activations" in shown and "3/3" in shown) == progress
