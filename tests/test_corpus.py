"""Corpora: every row is either an utterance or a skipped row with its line, in both layouts."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualasr.data.corpus import Corpus, Utterance, load_corpus, load_splits, write_manifest
from dualasr.errors import CorpusError

DATA = Path(__file__).parents[2] / "shared" / "data"
GOOD = {"id": "a", "text": "Hello", "lang": "en", "audio": "a.flac", "split": "test"}


def jsonl(folder: Path, *rows: dict | str | bytes) -> Path:
    """A manifest in `folder`, which holds a.flac and b.flac (the loader does not open them)."""
    for name in ("a.flac", "b.flac"):
        (folder / name).write_bytes(b"sound")
    lines = [
        (
            row
            if isinstance(row, bytes)
            else (row if isinstance(row, str) else json.dumps(row)).encode()
        )
        for row in rows
    ]
    (folder / "manifest.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "manifest.jsonl"


def fleurs(config: Path, rows: list[str], split="test", audio="folder") -> None:
    """A FLEURS config folder whose sound is in a folder, or in an archive, nested or flat."""
    config.mkdir(parents=True, exist_ok=True)
    (config / f"{split}.tsv").write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    (config / "audio").mkdir(exist_ok=True)
    if audio == "folder":
        (config / "audio" / split).mkdir()
        (config / "audio" / split / "x.wav").write_bytes(b"sound")
    elif audio is not None:
        with tarfile.open(config / "audio" / f"{split}.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo(audio)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"sound"))


def row(sentence="1", name="x.wav", text="Салам!", samples="32000"):
    return f"{sentence}\t{name}\t{text}\tсалам\tс а\t{samples}\tFEMALE"


def test_jsonl_fields_and_defaults(tmp_path):
    manifest = jsonl(
        tmp_path,
        "\ufeff" + json.dumps(GOOD | {"speaker": 3, "duration": 3600, "sentence": "s1"}),
        {"audio_filepath": "b.flac", "text": " naïve\u2028line ", "language": "fr"},
        "",
        {"id": 7, "audio": str(tmp_path / "a.flac"), "text": "kein lang"},
        GOOD | {"id": "other", "split": "train", "audio": "missing.flac"},
    )
    corpus = load_corpus(manifest, "test", default_language="de")
    assert corpus.utterances == (
        Utterance("a", "Hello", "en", tmp_path / "a.flac", 3600.0, "test", "3", "s1"),
        Utterance("b.flac", "naïve\u2028line", "fr", tmp_path / "b.flac", None, "test"),
        Utterance("7", "kein lang", "de", tmp_path / "a.flac", None, "test"),
    )
    assert corpus.skipped == () and corpus.layout == "jsonl" and corpus.path == manifest
    assert corpus.hours == 1.0 and corpus.languages == ("de", "en", "fr")
    assert load_corpus(tmp_path, "test", default_language="de").utterances == corpus.utterances
    assert load_corpus(
        tmp_path, "test", languages=["en", "x"], default_language="de", strict=True
    ).languages == ("en",)
    assert [skipped.reason[:11] for skipped in load_corpus(tmp_path, "test").skipped] == [
        "has no lang"
    ]


BAD_ROWS = [
    ("{not json", "is not JSON"),
    (b'{"id": "\xff"}', "is not JSON"),
    ("[1]", "is not a JSON object"),
    (GOOD | {"id": "b", "audio": None}, "has no audio path"),
    (GOOD | {"id": "b", "audio": ["a.flac"]}, "audio is ['a.flac'], not a string"),
    (GOOD | {"id": "b", "audio": "missing.flac"}, "missing.flac is missing"),
    (GOOD | {"id": "b", "audio": "x" * 5000}, "is missing"),
    (GOOD | {"id": "b", "audio": "."}, "is missing"),
    (GOOD | {"id": "b", "audio": "../a.flac"}, "climbs out"),
    (GOOD | {"id": "b", "audio": "x/../../a.flac"}, "climbs out"),
    (GOOD | {"id": "b", "text": "  "}, "has no text"),
    (GOOD | {"id": "b", "text": None}, "has no text"),
    (GOOD | {"id": "b", "text": 5}, "text is 5, not a string"),
    (GOOD | {"id": "b", "lang": None}, "has no lang"),
    (GOOD | {"id": "b", "split": 1}, "split is 1, not a string"),
    (GOOD | {"id": "b", "duration": "long"}, "duration is 'long'"),
    (
        '{"id": "b", "text": "x", "lang": "en", "audio": "a.flac", "duration": NaN}',
        "duration is nan",
    ),
    (GOOD | {"id": "b", "duration": True}, "duration is True"),
    (GOOD | {"id": "b", "duration": 10**400}, "duration is 1000"),
    (GOOD, "id 'a' was used before"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_listed_or_with_strict_raises(tmp_path, bad, reason):
    manifest = jsonl(tmp_path, GOOD, bad, GOOD | {"id": "c"})
    corpus = load_corpus(manifest, "test")
    assert [utterance.id for utterance in corpus.utterances] == ["a", "c"]
    (skipped,) = corpus.skipped
    assert skipped.source == f"{manifest}:2" and reason in skipped.reason
    with pytest.raises(CorpusError) as caught:
        load_corpus(manifest, "test", strict=True)
    assert str(caught.value).startswith(f"{manifest}:2: ") and reason in str(caught.value)


def test_text_is_not_always_needed(tmp_path):
    jsonl(tmp_path, {"audio": "a.flac", "lang": "en"})
    assert load_corpus(tmp_path, "test", require_text=False).utterances[0].text == ""


@pytest.mark.parametrize("place", ["data/ky_kg", "ky_kg"])
def test_fleurs_root(tmp_path, place):
    fleurs(tmp_path / place, rows=[row(), row("2", "missing.wav"), row("1", text="экинчи")])
    fleurs(
        tmp_path / place.replace("ky_kg", "cmn_hans_cn"),
        rows=['9\tx.wav\t"你" 好\t你好\t你\t16000\tMALE\r'],
    )
    corpus = load_corpus(tmp_path, "test")
    audio = tmp_path / place / "audio" / "test" / "x.wav"
    assert (
        corpus.layout == "fleurs" and corpus.languages == ("cmn", "ky") and corpus.hours == 3 / 3600
    )
    assert corpus.utterances[0].text == '"你" 好'
    assert corpus.utterances[1] == Utterance(
        "ky_kg/test/x", "Салам!", "ky", audio, 2.0, "test", None, "1"
    )
    assert [
        (skipped.source.rpartition("/")[2], skipped.reason.split()[-1])
        for skipped in corpus.skipped
    ] == [
        ("test.tsv:2", "missing"),
        ("test.tsv:3", "before"),
    ]
    for languages in (["ky"], {"ky_kg"}):
        assert load_corpus(tmp_path, "test", languages=languages).languages == ("ky",)


def test_fleurs_config_folder(tmp_path, monkeypatch):
    fleurs(tmp_path / "or_in", rows=["\ufeff" + row(text="ଓଡ଼ିଆ")])
    assert load_corpus(tmp_path / "or_in", "test").utterances[0].sentence == "1"
    monkeypatch.chdir(tmp_path / "or_in")
    assert load_corpus(".", "test").languages == ("or",)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("1\tx.wav\ttext", "has 3 columns, not FLEURS' 7"),
        (row() + "\textra", "has 8 columns"),
        (row(name=""), "has no audio path"),
        (row(name="../test/x.wav"), "climbs out"),
        (row(name="/etc/hosts"), "climbs out"),
        (row(name="missing.wav"), "missing.wav is missing"),
        (row(text=" "), "has no text"),
        (row(samples="many"), "num_samples is 'many'"),
        (row(samples="9" * 5000), "num_samples"),
    ],
)
def test_a_bad_fleurs_row_is_listed_or_with_strict_raises(tmp_path, bad, reason):
    fleurs(tmp_path / "ky_kg", rows=[bad, row()])
    corpus = load_corpus(tmp_path, "test")
    assert len(corpus.utterances) == 1
    assert (
        corpus.skipped[0].source == f"{tmp_path / 'ky_kg' / 'test.tsv'}:1"
        and reason in corpus.skipped[0].reason
    )
    with pytest.raises(CorpusError, match="test.tsv:1: "):
        load_corpus(tmp_path, "test", strict=True)


def test_bad_utf8_spoils_one_row_only(tmp_path):
    fleurs(tmp_path / "ky_kg", rows=[row()])
    with (tmp_path / "ky_kg" / "test.tsv").open("ab") as file:
        file.write(b"\xff\xfe\n")
    assert [skipped.reason for skipped in load_corpus(tmp_path, "test").skipped] == ["is not UTF-8"]


@pytest.mark.parametrize("member", ["test/x.wav", "x.wav", "./test/x.wav"])
def test_an_archive_is_unpacked_once(tmp_path, member):
    fleurs(tmp_path / "ky_kg", rows=[row()], audio=member)
    audio = load_corpus(tmp_path, "test").utterances[0].audio
    assert (
        audio == tmp_path / "ky_kg" / "audio" / "test" / "x.wav" and audio.read_bytes() == b"sound"
    )
    assert sorted(entry.name for entry in (tmp_path / "ky_kg" / "audio").iterdir()) == [
        "test",
        "test.tar.gz",
    ]
    (tmp_path / "ky_kg" / "audio" / "test.tar.gz").write_bytes(b"no archive any more")
    assert load_corpus(tmp_path, "test").utterances[0].audio == audio


@pytest.mark.parametrize("damage", ["climbs", "cut", "garbage"])
def test_a_bad_archive_is_refused_and_leaves_nothing(tmp_path, damage):
    fleurs(
        tmp_path / "ky_kg",
        rows=[row()],
        audio="../../x.wav" if damage == "climbs" else "test/x.wav",
    )
    archive = tmp_path / "ky_kg" / "audio" / "test.tar.gz"
    if damage != "climbs":
        archive.write_bytes(archive.read_bytes()[:60] if damage == "cut" else b"garbage" * 99)
    with pytest.raises(CorpusError, match=r"test\.tar\.gz: cannot be unpacked") as caught:
        load_corpus(tmp_path, "test")
    assert damage != "climbs" or "outside the destination" in str(caught.value)
    assert [entry.name for entry in archive.parent.iterdir()] == ["test.tar.gz"] and not list(
        tmp_path.rglob("x.wav")
    )


def test_a_split_without_usable_rows_names_what_is_there(tmp_path):
    manifest = jsonl(tmp_path, GOOD, GOOD | {"split": "dev", "audio": "missing.flac"}, "{")
    with pytest.raises(
        CorpusError,
        match=r"split 'train' .* splits found: dev, test; 1 rows were skipped, .*jsonl:3: is",
    ):
        load_corpus(manifest, "train")
    with pytest.raises(
        CorpusError,
        match=r"split 'dev' .* 2 rows were skipped, the first one at .*jsonl:2: audio file",
    ):
        load_corpus(manifest, "dev")
    with pytest.raises(CorpusError, match=r"for the languages fr, xx; splits found: dev, test"):
        load_corpus(manifest, "test", languages=["xx", "fr"])
    fleurs(tmp_path / "f" / "ky_kg", rows=[row()])
    with pytest.raises(
        CorpusError, match=r"split 'dev' .* splits found: test; 0 rows were skipped$"
    ):
        load_corpus(tmp_path / "f", "dev")


@pytest.mark.parametrize(
    ("name", "found"), [("", "is no corpus"), ("a.txt", "is no corpus"), ("x", "does not exist")]
)
def test_neither_layout(tmp_path, name, found):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=rf"{found}; wanted JSONL .* or a FLEURS folder"):
        load_corpus(tmp_path / name, "test")


def test_a_written_manifest_reads_back_and_moves(tmp_path):
    jsonl(tmp_path, GOOD)
    fleurs(tmp_path / "ky_kg", rows=[row()])
    corpus = load_corpus(tmp_path / "ky_kg", "test")
    new = tmp_path / "new"
    utterances = (
        *corpus.utterances,
        Utterance("n", "néw\n", "fr", new / "n.wav", None, "test", "me"),
    )
    write_manifest(new / "manifest.jsonl", utterances)
    (new / "n.wav").write_bytes(b"sound")
    back = load_corpus(new, "test", strict=True)
    assert back.utterances == (
        corpus.utterances[0],
        Utterance("n", "néw", "fr", new / "n.wav", None, "test", "me"),
    )
    moved = new.rename(tmp_path / "moved")
    assert load_corpus(moved, "test", strict=True).utterances[1].audio == moved / "n.wav"


def test_a_failed_write_leaves_the_old_manifest(tmp_path):
    manifest = jsonl(tmp_path, GOOD)
    before = manifest.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_manifest(manifest, [Utterance("a", "\ud800", "en", tmp_path / "a.flac", 1.0, "test")])
    assert manifest.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "a.flac",
        "b.flac",
        "manifest.jsonl",
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not there")
@pytest.mark.parametrize(
    ("name", "split"), [("fleurs_mini", "test"), ("kichwa", "dev"), ("fsdd", "test")]
)
def test_real_manifests(name, split):
    corpus = load_corpus(DATA / name, split)
    assert isinstance(corpus, Corpus) and corpus.hours > 0.01 and not corpus.skipped
    lines = (DATA / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(corpus.utterances) == sum(json.loads(line)["split"] == split for line in lines)


def test_segments_of_a_recording_need_no_ids(tmp_path):
    soundfile.write(tmp_path / "long.wav", [0.1] * 48_000, 16_000)
    rows = [
        {"audio": "long.wav", "text": "Кар", "lang": "ky", "start": start, "end": end}
        for start, end in ((0.0, 1.0), (1.0, 2.5), (2.5, None), (1.0, 2.5))
    ]
    corpus = load_corpus(jsonl(tmp_path, *rows), "")
    assert [u.id for u in corpus.utterances] == [
        "long.wav#t=0.000,1.000",
        "long.wav#t=1.000,2.500",
        "long.wav#t=2.500",
    ]
    assert [skipped.reason for skipped in corpus.skipped] == [
        "id 'long.wav#t=1.000,2.500' was used before"
    ]


def test_splits_that_are_read_at_once_are_those_that_are_read_alone(tmp_path):
    """Rows of their own split, rows of every split, one id in two splits, and rows without use."""
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 16_000)
    rows = [
        {"id": "1", "audio": "a.wav", "text": "one", "split": "train"},
        {"id": "1", "audio": "b.wav", "text": "two", "split": "valid"},
        {"id": "2", "audio": "c.wav", "text": "three"},
        {"id": "2", "audio": "a.wav", "text": "again", "split": "train"},
        {"id": "3", "audio": "no.wav", "text": "gone", "split": "dev"},
        {"id": "4", "audio": "a.wav", "text": "secret", "split": "test"},
    ]
    lines = [json.dumps(row | {"lang": "ky"}) for row in rows]
    (tmp_path / "manifest.jsonl").write_text("\n".join([*lines, "no JSON"]) + "\n")
    splits = load_splits(tmp_path, ("train", "dev", "other"))
    assert splits.names == ("dev", "test", "train", "valid")
    for name in ("train", "dev"):
        alone = load_corpus(tmp_path, name)
        assert splits.split(name) == alone and {u.split for u in alone.utterances} == {name}
    assert [u.text for u in splits.split("train").utterances] == ["one", "three"]
    assert [u.text for u in splits.split("dev").utterances] == ["two", "three"]
    assert [u.text for u in splits.split("other").utterances] == ["three"]  # of every split
    assert len(splits.split("dev").skipped) == 2 and len(splits.split("train").skipped) == 2
    strict = load_splits(tmp_path, ("train", "dev"), strict=True)
    with pytest.raises(CorpusError, match="used before"):
        strict.split("train")
