"""The audit: what leaked is found, whatever was done to it; what did not is left alone; and what
leaks do to a score.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from dualasr.audio.load import Sound
from dualasr.data.corpus import Utterance, write_manifest
from dualasr.data.fingerprints import SIMILAR, Fingerprints, fingerprint
from dualasr.errors import PackError
from dualasr.evaluation.contamination import audit
from dualasr.evaluation.evaluate import EvaluationOptions, evaluate
from dualasr.model.secondary import SecondaryOptions
from dualasr.packs.load import load_model
from dualasr.training.add_language import add_language
from dualasr.training.options import AddLanguageOptions, TrainingOptions

TRAINED = (
    "The farmer carried two baskets of plums across the old stone bridge before the rain began.",
    "Nobody remembered who had painted the wooden door of the school such a bright green.",
    "When the tide goes out, children look for crabs between the black rocks of the harbour.",
    "My grandmother keeps her letters in a tin box under the stairs, tied with a red ribbon.",
)
OTHER = (
    "A quiet engineer repaired the tram last night while snow was falling on the empty square.",
    "Seven goats were standing on the roof of the bakery, and the baker had not noticed them.",
)


QUICK = EvaluationOptions(beam=1, bootstrap=0, probes=0)


def of(texts, language="en"):
    """Fingerprints of sentences without a sound."""
    return fingerprint([(Sound(Path("no such file")), text, language) for text in texts])


def found(test, pack):
    return [(leak.clip, leak.kind, leak.match) for leak in audit(test, {"pack": pack})]


def test_a_sentence_in_other_dress_is_the_same(tmp_path):
    dressed = [
        TRAINED[2].upper(),
        TRAINED[0].replace(",", "").replace(".", "!"),
        "  ".join(TRAINED[1].split()),
    ]
    assert found(of(dressed), of(TRAINED)) == [
        (0, "same sentence", 2),
        (1, "same sentence", 0),
        (2, "same sentence", 1),
    ]
    assert found(of(OTHER), of(TRAINED)) == []


def test_a_sentence_with_one_word_replaced_is_similar():
    edited = [TRAINED[0].replace("plums", "figs"), TRAINED[3].replace("red", "blue")]
    leaks = audit(of(edited), {"pack": of(TRAINED)})
    assert [(leak.clip, leak.kind, leak.match) for leak in leaks] == [
        (0, "similar sentence", 0),
        (1, "similar sentence", 3),
    ]
    assert all(
        SIMILAR <= leak.similarity < 1 and leak.words == len(edited[leak.clip].split())
        for leak in leaks
    )


@pytest.mark.parametrize(
    ("language", "sentence", "edited", "other"),
    [
        (
            "or",
            "ଆମ ଗାଁର ପିଲାମାନେ ପ୍ରତିଦିନ ସକାଳେ ନଈ କୂଳରେ ଖେଳନ୍ତି",
            "ଆମ ଗାଁର ପିଲାମାନେ ପ୍ରତିଦିନ ସନ୍ଧ୍ୟାରେ ନଈ କୂଳରେ ଖେଳନ୍ତି",
            "ଘର",
        ),
        (
            "th",
            "เด็กในหมู่บ้านของเราเล่นริมแม่น้ำทุกเช้าก่อนไปโรงเรียน",
            "เด็กในหมู่บ้านของเราเล่นริมแม่น้ำทุกเย็นก่อนไปโรงเรียน",
            "แมวของครูนอนอยู่บนหลังคา",
        ),
    ],
)
def test_letters_with_marks_and_without_spaces(language, sentence, edited, other):
    pack = of([sentence], language)
    assert found(of([sentence, other], language), pack) == [(0, "same sentence", 0)]
    assert [kind for _, kind, _ in found(of([edited], language), pack)] == ["similar sentence"]


def test_no_text_is_no_leak():
    assert found(of(["", "?!"]), of(["", "...", *TRAINED])) == []


def test_the_search_finds_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), rng.integers(2, 8))) for _ in range(400)]
    pack = [" ".join(rng.choice(words, 12)) for _ in range(150)]
    test = []
    for text in pack[:100]:
        parts = text.split()
        for place in rng.choice(12, rng.integers(0, 5), replace=False):
            parts[place] = rng.choice(words)
        test.append(" ".join(parts))
    own, held = of(test), of(pack)
    jaccard = (256 * (own.minhash[:, None] == held.minhash[None]).mean(axis=2) - 1) / 255
    expected = {
        int(i): (int(row.argmax()), row.max())
        for i, row in enumerate(jaccard)
        if row.max() >= SIMILAR
    }
    leaks = audit(own, {"pack": held})
    assert {leak.clip: (leak.match, pytest.approx(leak.similarity)) for leak in leaks} == expected
    assert 20 < len(expected) < 100, "some edits leave a sentence similar, some do not"


@pytest.fixture(scope="module")
def speech():
    """Six readings, (samples,) at 16 kHz: four of TRAINED by one voice, then two of those sentences
    by another.
    """
    pytest.importorskip("espeakng_loader")
    from dualasr.data.espeak import Speaker, Voice

    one, two = Voice("f2", 160, 45, 50), Voice("m4", 140, 30, 40)
    with Speaker() as speaker:
        asked = [*((text, one) for text in TRAINED), *((text, two) for text in TRAINED[:2])]
        return [speaker.speak(text, "en", voice) for text, voice in asked]


def integers(samples):
    """As every lossless format holds them alike."""
    return np.rint(32767 * samples).astype(np.int16)


def written(folder, sounds, ending="flac"):
    folder.mkdir()
    for i, samples in enumerate(sounds):
        soundfile.write(folder / f"{i}.{ending}", integers(samples), 16_000)
    return fingerprint([(Sound(folder / f"{i}.{ending}"), "", "en") for i in range(len(sounds))])


def test_copies_of_recordings_are_found_and_other_readers_are_not(speech, tmp_path):
    pack, rng = written(tmp_path / "pack", speech[:4]), np.random.default_rng(1)
    assert found(written(tmp_path / "same", speech[:2], ending="wav"), pack) == [
        (0, "same recording", 0),
        (1, "same recording", 1),
    ]
    copies = {
        "quieter": [0.3 * clip for clip in speech[:4]],
        "noisy": [clip + 0.003 * rng.standard_normal(len(clip)) for clip in speech[:4]],
        "cut": [clip[4_500:] for clip in speech[:4]],
        "padded": [np.pad(clip, (7_000, 3_000)) for clip in speech[:4]],
    }
    for name, sounds in copies.items():
        leaks = audit(written(tmp_path / name, sounds), {"pack": pack})
        assert [(leak.clip, leak.kind, leak.match) for leak in leaks] == [
            (i, "similar recording", i) for i in range(4)
        ], name
        assert all(0.66 < leak.similarity <= 1 for leak in leaks)
    mp3 = written(tmp_path / "mp3", speech[:4], ending="mp3")
    assert found(mp3, pack) == [(i, "similar recording", i) for i in range(4)]
    assert found(written(tmp_path / "another voice", speech[4:]), pack) == []
    assert found(written(tmp_path / "silence", [np.zeros(16_000), np.zeros(20_000)]), pack) == []


def made(*clips, seed=0):
    """Fingerprints of clips with these sub-fingerprints, and nothing else in common."""
    count = len(clips)
    return Fingerprints(
        sentence=np.zeros(count, np.uint64),
        words=np.zeros(count, np.uint16),
        minhash=np.zeros((count, 128), np.uint8),
        audio=np.random.default_rng(seed).integers(1, 2**63, count, dtype=np.uint64),
        frames=np.array([len(clip) for clip in clips], np.uint8),
        acoustic=np.concatenate(clips).astype(np.uint32),
    )


def random_frames(rng, count):
    return rng.integers(1, 2**32, count, dtype=np.uint32)


@pytest.mark.parametrize("shared, leaks", [(29, False), (30, True), (50, True)])
def test_clips_that_share_less_than_their_greater_part_are_no_copies(shared, leaks):
    """The music before two programmes: 30 of 50 sub-fingerprints are the 60 % that are asked for,
    where one begins with what the other ends with.
    """
    rng = np.random.default_rng(0)
    music, one, two = (random_frames(rng, 50) for _ in range(3))
    ends = np.concatenate([one[: 50 - shared], music[:shared]])
    begins = np.concatenate([music[:shared], two[: 50 - shared]])
    for test, pack in ((ends, begins), (begins, ends)):
        expected = [(0, "similar recording", 1)] if leaks else []
        assert found(made(test, seed=1), made(random_frames(rng, 50), pack)) == expected
    long = np.concatenate([one, begins, two])
    whole = found(made(long, seed=1), made(begins))
    assert whole == [(0, "similar recording", 0)], "the shorter clip counts"


@pytest.mark.parametrize(
    "count, wrong, leaks",
    [(11, 0, False), (12, 0, True), (16, 6, True), (16, 7, False)]
    + [(100, 10, True), (100, 12, False)],
)
def test_how_many_bits_may_differ(count, wrong, leaks):
    """A third of the bits, and fewer in a short clip; 12 sub-fingerprints at least. Here `wrong` of
    32 bits differ in all sub-fingerprints but the first, by which the pair is found.
    """
    rng = np.random.default_rng(1)
    clip = random_frames(rng, count)
    flipped = clip.copy()
    places = [rng.permutation(32)[:wrong] for _ in range(count - 1)]
    flipped[1:] ^= np.array([sum(1 << int(b) for b in row) for row in places], np.uint32)
    [share] = [wrong * (count - 1) / (32 * count)]
    result = audit(made(flipped, seed=1), {"pack": made(clip)})
    assert [leak.kind for leak in result] == ["similar recording"] * leaks
    if leaks:
        assert result[0].similarity == pytest.approx(1 - share)


def test_silence_is_compared_with_nothing():
    rng = np.random.default_rng(2)
    sound, silence = random_frames(rng, 20), np.zeros(20, np.uint32)
    assert found(made(silence, seed=1), made(silence)) == []
    gaps = np.where(np.arange(20) % 2, sound, 0)
    assert found(made(gaps, seed=1), made(sound)) == [], "ten frames are too few"
    padded = np.concatenate([sound, silence[:10]])
    assert found(made(padded, seed=1), made(sound)) == [(0, "similar recording", 0)]


def test_a_stretch_of_a_recording_is_a_recording(speech, tmp_path):
    pack = written(tmp_path / "pack", speech[:3])
    soundfile.write(tmp_path / "long.flac", integers(np.concatenate(speech[:3])), 16_000)
    start = len(speech[0]) / 16_000
    stretch = Sound(tmp_path / "long.flac", start, start + len(speech[1]) / 16_000)
    assert found(fingerprint([(stretch, "", "en")]), pack) == [(0, "same recording", 1)]


def test_an_unreadable_file_keeps_its_sentence(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    clips = fingerprint([(Sound(tmp_path / "broken.wav"), TRAINED[0], "en")] * 2)
    assert not clips.audio.any() and not clips.frames.any()
    assert found(clips, clips) == [(0, "same sentence", 0), (1, "same sentence", 0)]


def test_saved_and_loaded(speech, tmp_path):
    before = written(tmp_path / "pack", speech)
    before.save(tmp_path / "it.safetensors")
    after = Fingerprints.load(tmp_path / "it.safetensors")
    assert all(np.array_equal(value, vars(after)[name]) for name, value in vars(before).items())
    assert len(after) == 6 and not list(tmp_path.glob(".it*"))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "it.safetensors"
    of(TRAINED).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(PackError, match="cannot be read"):
        Fingerprints.load(path)
    save_file({"sentence": np.zeros(3, np.uint64)}, path)
    with pytest.raises(PackError, match="not 'dualasr fingerprints"):
        Fingerprints.load(path)
    bad = replace(of(TRAINED), frames=np.full(4, 7, np.uint8))
    bad.save(path)
    with pytest.raises(PackError, match="damaged"):
        Fingerprints.load(path)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A pack that has learned twelve Kyrgyz clips by heart, and test clips: six of those, six that
    it never met.
    """
    pytest.importorskip("espeakng_loader")
    from dualasr.data.espeak import Speaker, Voice
    from dualasr.data.synthetic import sentences

    folder, rows = tmp_path_factory.mktemp("leaky"), []
    texts, splits = sentences("ky", "train")[:20], ["train"] * 12 + ["test"] * 6 + ["dev"] * 2
    with Speaker() as speaker:
        for i, (text, split) in enumerate(zip(texts, splits, strict=True)):
            samples = speaker.speak(text, "ky", Voice("f2", 190, 45, 50))
            soundfile.write(folder / f"{i}.flac", samples, 16_000)
            rows.append(
                Utterance(str(i), text, "ky", folder / f"{i}.flac", len(samples) / 16_000, split)
            )
    (folder / "corpus").mkdir()
    write_manifest(
        folder / "corpus" / "manifest.jsonl", [row for row in rows if row.split != "test"]
    )
    add_language(
        AddLanguageOptions(
            base="micro",
            generated_negatives=False,
            corpora=(folder / "corpus",),
            languages={"ky": "Kyrgyz"},
            out=folder / "pack",
            secondary=SecondaryOptions(decoder="ctc"),  # the quickest to learn by heart
            training=TrainingOptions(steps=60, batch=12, variants=1, learning_rate=1e-2),
        )
    )
    return load_model("micro", [folder / "pack"]), [
        replace(row, split="test") for row in rows[6:18]
    ]


def test_a_planted_leak_is_found_and_its_inflation_shown(leaky):
    model, rows = leaky
    report = evaluate(model, rows, QUICK).report
    found = report["contamination"]
    assert {leak["id"] for leak in found["leaks"]} == set("6789") | {"10", "11"}
    counts = {
        "known": True,
        "same recording": 6,
        "similar recording": 0,
        "same sentence": 6,
        "similar sentence": 0,
    }
    assert found["packs"] == {"pack": counts}
    everything, clean = (
        side["pipeline_aware"]["cer"] for side in (report["languages"]["ky"], found["clean"]["ky"])
    )
    assert found["clean"]["ky"]["n"] == 6
    assert clean > 1.5 * everything, "what was learned by heart flatters the score"
    leaked = evaluate(model, rows[:6], QUICK).report
    assert leaked["languages"]["ky"]["pipeline_aware"]["cer"] < 0.2
    assert leaked["contamination"]["clean"] == {
        "ky": {
            "n": 0,
            **{
                mode: {"wer": None, "cer": None}
                for mode in ("pipeline_aware", "group_aware", "agnostic")
            },
        }
    }


def test_without_the_leak_nothing_is_found(leaky):
    model, rows = leaky
    found = evaluate(model, rows[6:], QUICK).report["contamination"]
    assert found["leaks"] == [] and found["clean"] == {}


def test_a_pack_that_says_nothing_is_not_known(make_model, leaky):
    _, rows = leaky
    model = make_model(("north", "ky"))
    found = evaluate(model, rows, QUICK).report["contamination"]
    assert found["packs"]["north"]["known"] is False and found["leaks"] == []
    assert evaluate(make_model(), rows, QUICK).report["contamination"] is None
