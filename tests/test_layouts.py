"""Tables, Common Voice, Kaldi, datasets and segment manifests: every row asked for is an utterance
or a skipped row.
"""

import csv
import io
import json
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualasr.audio.load import audio_duration, load_audio
from dualasr.data.corpus import Columns, Utterance, load_corpus, write_manifest
from dualasr.data.huggingface import is_hub_id
from dualasr.errors import CorpusError
from dualasr.text import one_form

DATA = Path(__file__).parents[2] / "shared" / "data"
RAMP = np.arange(-16_000, 16_000) / 40_000  # 2 s; every sample tells where it is


def wav(path: Path, samples=RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def table(path: Path, content: str | bytes) -> Path:
    """A table in a folder with a.wav, b.wav and audio/c.wav."""
    for name in ("a.wav", "b.wav", "audio/c.wav"):
        wav(path.parent / name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, split="train", language="ky", **how):
    return load_corpus(path, split, default_language=language, **how)


def brief(corpus) -> list[tuple[str, str]]:
    return [(u.id, u.text) for u in corpus.utterances]


@pytest.mark.parametrize(
    "content",
    [
        'path,sentence\na.wav,Кар жаады\nb.wav,"Ат, ""суу"""\n',
        '\ufeffpath,sentence\r\na.wav,Кар жаады\r\n\r\nb.wav,"Ат, ""суу"""\r\n',
        'File;Transcript\na.wav;Кар жаады\nb.wav;Ат, "суу"\n',
        'sentence|path\nКар жаады|a.wav\nАт, "суу"|b.wav',
        'wav\ttext\na.wav\tКар жаады\nb.wav\t"Ат, ""суу"""\n',
        'wav\ttext\na.wav\tКар жаады\nb.wav\tАт, "суу"\n',
    ],
)
def test_a_table_whatever_its_delimiter_and_quotes(tmp_path, content):
    corpus = read(table(tmp_path / "data.csv", content))
    assert brief(corpus) == [("a.wav", "Кар жаады"), ("b.wav", 'Ат, "суу"')] and not corpus.skipped
    assert corpus.layout == "table" and corpus.languages == ("ky",) and corpus.splits == ()
    assert len(corpus.notes) == 1 and "guessed the columns audio=" in corpus.notes[0]
    # the folder's only table; rows of every split
    assert read(tmp_path, "test").utterances[0].split == "test"


TWO = 'file;text;start;end\na.wav;"Guten Tag";0,5;1,25\naudio\\c.wav;schöne Grüße;;\n'


@pytest.mark.parametrize(
    "content, guess",
    [
        (TWO, ""),
        ("sep=;\n" + TWO, ""),
        ("\ufeffsep=;\r\n" + TWO.replace("\n", "\r\n"), ""),
        ('"sep=;"\n' + TWO, ""),
        (("sep=;\n" + TWO).replace(";", "\t"), ""),
        (("sep=;\n" + TWO).replace(";", "^"), ""),
        ("sep=,\n" + TWO, ""),  # what the line says gives one column
        (TWO.replace("\n", "\r"), ""),
        (TWO.replace("\n", "\r\r\n"), ""),
        (TWO.encode("utf-16"), ""),
        (TWO.encode("utf-16-le"), ""),
        (("sep=;\n" + TWO).encode("utf-16-be"), ""),
        (TWO.encode("utf-8-sig"), ""),
        (TWO.encode("cp1252"), "cp1252"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, content, guess):
    corpus = read(table(tmp_path / "x.csv", content), language="de")
    assert [(u.id, u.text, u.start, u.end) for u in corpus.utterances] == [
        ("a.wav", "Guten Tag", 0.5, 1.25),
        ("audio/c.wav", "schöne Grüße", None, None),
    ]
    assert corpus.utterances[1].audio == tmp_path / "audio" / "c.wav"
    assert not corpus.skipped
    assert any("which is a guess: x.csv" in note for note in corpus.notes) == bool(guess)


def test_a_row_may_have_several_lines_and_an_open_quote_costs_one(tmp_path):
    many = 'file,text\na.wav,"one\ntwo"\nb.wav,"never closed\n' + "".join(
        f"{i}.wav,text {i}\n" for i in range(30)
    )
    for i in range(30):
        wav(tmp_path / f"{i}.wav")
    corpus = read(table(tmp_path / "x.csv", many))
    assert corpus.utterances[0].text == "one\ntwo" and len(corpus.utterances) == 31
    assert [(row.source.rpartition(":")[2], row.reason[:12]) for row in corpus.skipped] == [
        ("4", "is no row of")
    ]
    # in a TSV a quote is a character
    literal = 'file\ttext\na.wav\t"He said" so\nb.wav\t"never closed\n'
    assert brief(read(table(tmp_path / "y.tsv", literal))) == [
        ("a.wav", '"He said" so'),
        ("b.wav", '"never closed'),
    ]


def test_columns_named_by_the_caller(tmp_path):
    path = table(
        tmp_path / "x.csv",
        "name,text,shown,who,code,from,to,part,nr\n"
        "a.wav,raw,Shown,Ana,ky,0.5,1.5,valid,1\nb.wav,raw,Other,,ga,,,test,2\naudio/c.wav,raw,Third,Bo,ky,,,train,3\n",
    )
    columns = Columns("name", "shown", "code", "part", "who", "nr", "from", "to")
    assert read(path, "dev", columns=columns).utterances == (
        Utterance("1", "Shown", "ky", tmp_path / "a.wav", 1.0, "dev", "Ana", None, 0.5, 1.5),
    )
    assert read(path, "test", columns=columns).utterances[0].speaker is None
    assert read(path, None, columns=columns, languages=["ky"]).splits == ("test", "train", "valid")
    assert [u.split for u in read(path, None, columns=columns).utterances] == [
        "valid",
        "test",
        "train",
    ]
    assert read(path, "train", columns=columns).notes == ()


def test_tables_named_by_split(tmp_path):
    table(tmp_path / "train.csv", "audio,text,lang\nc.wav,one,en\nx.wav,no sound,en\n")
    table(tmp_path / "validation.csv", "audio,text,lang\nc.wav,two,en\n")
    wav(tmp_path / "audio" / "validation" / "d.wav")
    (tmp_path / "notes.csv").write_text("this,is,no\nsplit,of,it\n")
    train, dev = read(tmp_path, "train"), read(tmp_path, "dev")
    assert brief(train) == [("train/c.wav", "one")] and train.splits == ("train", "validation")
    assert [row.reason for row in train.skipped] == [f"audio file {tmp_path / 'x.wav'} is missing"]
    assert dev.utterances[0].audio == tmp_path / "audio" / "c.wav" and brief(dev) == brief(
        read(tmp_path, "valid")
    )
    with pytest.raises(
        CorpusError, match="split 'test' has no usable rows; splits found: train, validation"
    ):
        read(tmp_path, "test")


@pytest.mark.parametrize(
    "content, columns, sentence",
    [
        (
            "audoi,text\na.wav,x\n",
            {},
            "guessed to be audio; columns found: audoi, text; the nearest is 'audoi'",
        ),
        (
            "audio,comment\na.wav,x\n",
            {},
            "guessed to be text; columns found: audio, comment.*--column text=NAME",
        ),
        (
            "audio,sentense\na.wav,x\n",
            {"text": "sentence"},
            "no column 'sentence' for text; .*the nearest is 'sentense'",
        ),
        (
            "audio/text\na.wav/x\n",
            {},
            "has one column, 'audio/text', when cut at commas; wanted columns for audio and text",
        ),
        ("", {}, "is empty; wanted a header"),
        (
            b"file,t\x81\x8d\xffxt\na.wav,\x90\x9d\xff\n",
            {},
            "no row of a table in UTF-8, or in another",
        ),
        (b"sep=;\naudio;txt\na.wav;x\n", {}, "no column that can be guessed to be text"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, content, columns, sentence):
    with pytest.raises(CorpusError, match=sentence) as caught:
        read(table(tmp_path / "x.csv", content), columns=Columns(**columns))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row, reason",
    [
        (b"b.wav,\xff,,", "is not UTF-8"),
        (b"b.wav,x,", "has 3 columns, the header has 4"),
        (b",x,,", "has no audio path"),
        (b"../b.wav,x,,", "climbs out"),
        (b"audio/../../b.wav,x,,", "climbs out"),
        (b"/nowhere/b.wav,x,,", "/nowhere/b.wav is missing"),
        (b"none.wav,x,,", "none.wav is missing"),
        (b"b.wav, ,,", "has no text"),
        (b"b.wav,x,late,2", "start is 'late', not seconds"),
        (b"b.wav,x,nan,2", "start is 'nan', not seconds"),
        (b"b.wav,x,-1,2", "start is -1.0, not seconds"),
        (b"b.wav,x,1.5,1", "its end, 1 s, is not after its start, 1.5 s"),
        (b"b.wav,x,1,2.2", "1 to 2.2 s is beyond the recording's 2.00 s"),
        (b"b.wav,x,2,", "beyond the recording's 2.00 s"),
        (b"broken.wav,x,0,1", "cannot be read as audio"),
        (b"..\\b.wav,x,,", "climbs out"),
        (
            b"C:\\clips\\b.wav,x,,",
            "C:/clips/b.wav is one of a Windows machine; wanted a path inside",
        ),
        (b"C:/clips/b.wav,x,,", "is one of a Windows machine"),
        (b"\\\\server\\b.wav,x,,", "is one of a Windows machine"),
        (b"a.wav,x,,", "id 'a.wav' was used before"),
    ],
)
def test_a_bad_row_of_a_table(tmp_path, row, reason):
    path = table(
        tmp_path / "x.csv",
        "file,text,start,end\na.wav,ё,,\n".encode() + row + b"\n" + b"audio/c.wav,y,1,2.05\n",
    )
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    corpus = read(path)
    # 0.05 s beyond is clipped
    assert len(corpus.utterances) == 2 and corpus.utterances[1].end == 2.0
    (skipped,) = corpus.skipped
    assert skipped.source == f"{path}:3" and reason in skipped.reason
    with pytest.raises(CorpusError, match=r"x.csv:3: "):
        read(path, strict=True)


def test_absolute_paths_archives_and_several_tables(tmp_path):
    table(tmp_path / "one" / "x.csv", f"file,text\n{tmp_path / 'one' / 'b.wav'},x\n")
    assert read(tmp_path / "one").utterances[0].audio == tmp_path / "one" / "b.wav"
    (tmp_path / "one" / "y.csv").write_text("file,text\n")
    with pytest.raises(CorpusError, match="holds 2 tables, x.csv, y.csv; name one of them"):
        read(tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "x.tsv").write_text("file\ttext\ta\na.wav\tx\t1\n")
    for member, works in (("../../a.wav", False), ("audio/a.wav", True)):
        with tarfile.open(tmp_path / "two" / "audio.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(member)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"sound"))
        if works:
            assert (
                read(tmp_path / "two").utterances[0].audio == tmp_path / "two" / "audio" / "a.wav"
            )
        else:
            with pytest.raises(CorpusError, match="audio.tar.gz: cannot be unpacked"):
                read(tmp_path / "two")
            assert not (tmp_path / "a.wav").exists()


def common_voice(folder: Path, **tables: list[str]) -> Path:
    for name in ("a.mp3", "b.mp3"):
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        (folder / "clips" / name).write_bytes(b"sound")
    for split, rows in tables.items():
        header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale"
        (folder / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_common_voice(tmp_path):
    rows = [
        'c1\ta.mp3\ts\t"Кар" жаады\t2\tky',
        'c2\tb.mp3\ts\t"Ат\t2\tky',
        "c2\tx.mp3\ts\tжок\t2\tky",
        "c2\t../b.mp3\ts\tжок\t2\tky",
        "c2\tb.mp3\tshort",
        "c1\ta.mp3\ts\tкайра\t2\tky",
    ]
    common_voice(
        tmp_path, train=rows, dev=rows[:1], validated=rows[:2], other=["c9\tb.mp3\ts\tбашка\t0\tky"]
    )
    corpus = read(tmp_path, "train", language=None)
    assert corpus.layout == "common-voice" and corpus.splits == (
        "dev",
        "other",
        "train",
        "validated",
    )
    assert corpus.utterances[0] == Utterance(
        "a.mp3", '"Кар" жаады', "ky", tmp_path / "clips" / "a.mp3", None, "train", "c1"
    )
    assert corpus.utterances[1].text == '"Ат'
    reasons = [row.reason for row in corpus.skipped]
    assert (
        len(corpus.utterances) + len(reasons) == len(rows)
        and "climbs out" in reasons[1]
        and "has 3 columns" in reasons[2]
    )
    assert "missing" in reasons[0] and "used before" in reasons[3]
    assert (
        len(read(tmp_path, "validation").utterances) == 1
        and len(read(tmp_path, "validated").utterances) == 2
    )
    # no clip of other.tsv
    assert {u.text for u in read(tmp_path, None).utterances} == {'"Кар" жаады', '"Ат'}
    assert read(tmp_path / "dev.tsv", "dev").layout == "common-voice"
    with pytest.raises(
        CorpusError,
        match="split 'test' has no usable rows; splits found: dev, other, train, validated",
    ):
        read(tmp_path, "test")
    alone = common_voice(tmp_path / "cv" / "small", validated=rows[:2])
    assert len(read(alone, "test").utterances) == 2
    common_voice(tmp_path / "cv" / "ga", test=["c1\ta.mp3\ts\tSneachta\t2\tga"])
    both = read(tmp_path / "cv", "test", language=None)  # a release with a folder for each language
    assert both.languages == ("ga", "ky") and len(both.utterances) + len(both.skipped) == 3


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content, encoding="utf-8")
    return folder


def test_kaldi_splits_segments_and_commands(tmp_path):
    wav(tmp_path / "data" / "sound" / "r1.wav")
    kaldi(
        tmp_path / "data" / "train",
        wav_scp=f"r1 sound/r1.wav\nr2 sox {tmp_path}/x.wav -t wav - |\nr3 ../../x.wav\n",
        segments=(
            "u3 r1 1.0 -1\nu1 r1 0.0 1.0\nu2 r2 0 1\nu4 r1 1 9\nu5 r9 0 1\nu6 r1 0\nu7 r3 0 1\nu1"
            " r1 1 2\nu8 r1 0 1\n"
        ),
        text="u1 Кар  жаады\nu2 x\nu3 тоо\nu4 x\nu5 x\nu6 x\nu7 x\nu9 no segment\n",
        utt2spk="u1 ana\n",
    )
    kaldi(
        tmp_path / "data" / "test",
        wav_scp=f"t1 {tmp_path}/data/sound/r1.wav\n",
        text="t1 суу\n",
        utt2lang="t1 ga\n",
    )
    corpus = read(tmp_path / "data")
    audio = tmp_path / "data" / "sound" / "r1.wav"
    assert corpus.layout == "kaldi" and corpus.splits == ("test", "train")
    assert corpus.utterances == (
        Utterance("u3", "тоо", "ky", audio, 1.0, "train", None, None, 1.0, 2.0),
        Utterance("u1", "Кар  жаады", "ky", audio, 1.0, "train", "ana", None, 0.0, 1.0),
    )
    reasons = "\n".join(row.reason for row in corpus.skipped)
    for part in (
        "a command, which is never run: sox",
        "climbs out",
        "beyond the recording's",
        "'r9' is not in wav.scp",
        "has 3 columns",
        "'u1' was used before",
        "has no text",
        "'u9' is in text and not in segments",
    ):
        assert part in reasons, part
    assert len(corpus.skipped) == 8
    assert read(tmp_path, "test").languages == ("ga",)  # below data/
    one = read(tmp_path / "data" / "test", "test")
    assert brief(one) == [("t1", "суу")] and one.utterances[0].start is None
    with pytest.raises(CorpusError, match="splits found: test"):
        read(tmp_path / "data" / "test", "train")


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    sound = wav(tmp_path / "a.flac").read_bytes()
    features = datasets.Features(
        {
            "audio": datasets.Audio(),
            "sentence": datasets.Value("string"),
            "locale": datasets.ClassLabel(names=["ga", "ky"]),
        }
    )

    def make(*rows):
        columns = (
            [{"bytes": data, "path": path} for data, path, _ in rows],
            [text for *_, text in rows],
        )
        plain = features | {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        }
        made = datasets.Dataset.from_dict(
            {"audio": columns[0], "sentence": columns[1], "locale": [1] * len(rows)},
            features=datasets.Features(plain),
        )
        return made.cast(features)

    parts = {
        "train": make((sound, "x/a.flac", "Кар"), (sound, None, "тоо"), (sound, "c.flac", " ")),
        "validation": make((sound, "b.flac", "суу")),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    parts["train"].save_to_disk(str(tmp_path / "single"))
    corpus = read(tmp_path / "saved", language=None)
    assert (
        corpus.layout == "datasets"
        and corpus.splits == ("train", "validation")
        and corpus.languages == ("ky",)
    )
    assert [text for _, text in brief(corpus)] == ["Кар", "тоо"] and [
        row.reason for row in corpus.skipped
    ] == ["has no text"]
    assert corpus.utterances[0].audio.is_relative_to(tmp_path / "saved.audio")
    assert load_audio(corpus.utterances[0].sound).shape == (32_000,)
    written = corpus.utterances[0].audio.stat()
    # written once
    assert read(tmp_path / "saved").utterances[0].audio.stat().st_mtime_ns == written.st_mtime_ns
    assert [text for _, text in brief(read(tmp_path / "saved", "dev"))] == ["суу"]
    assert len(read(tmp_path / "single", "test").utterances) == 2  # no split: of every split
    paths = {"file": ["a.flac", "gone.flac", "../a.flac", None], "text": ["x", "y", "z", "w"]}
    datasets.Dataset.from_dict(paths).save_to_disk(str(tmp_path / "paths"))
    plain = read(tmp_path / "paths")
    assert brief(plain) == [("a.flac", "x")] and plain.notes == (
        "guessed the columns audio=file, text=text",
    )
    assert [row.reason.split()[-1] for row in plain.skipped] == ["missing", "folder", "path"]
    (tmp_path / "single" / "dataset_info.json").write_text("{")
    with pytest.raises(CorpusError, match="`datasets` cannot load it"):
        read(tmp_path / "single")


def test_saved_datasets_without_an_audio_feature(tmp_path):
    """What `map` leaves of an Audio column: arrays, with and without their rate."""
    datasets = pytest.importorskip("datasets")
    ramp = (RAMP[::16]).tolist()  # 2,000 samples
    sounds = [
        {"array": ramp, "sampling_rate": 1000, "path": "x/a.wav"},
        {"array": [ramp, ramp], "sampling_rate": 1000, "path": None},
    ]
    for name, sound in zip(("mono", "stereo"), sounds, strict=True):
        rows = {"audio": [sound, {**sound, "sampling_rate": 0}], "text": ["x", "y"]}
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / name))
        corpus = read(tmp_path / name)
        assert [u.text for u in corpus.utterances] == ["x"]
        assert [row.reason for row in corpus.skipped] == [
            "its sampling_rate is 0, not samples a second"
        ]
        heard = load_audio(corpus.utterances[0].sound)
        assert heard.shape == (32_000,) and abs(heard[16_000]) < 0.01
        assert heard[30_000] == pytest.approx(RAMP[30_000], abs=0.01)
    counts = (np.array([0, 16_384, -32_768, 100] * 250, np.int16)).tolist()
    rows = {"audio": [{"array": counts, "sampling_rate": 16_000}], "text": ["x"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "counts"))
    heard = load_audio(read(tmp_path / "counts").utterances[0].sound)
    assert heard[:3].tolist() == [0.0, 0.5, -1.0]
    plain = datasets.Dataset.from_dict({"audio": [ramp], "text": ["x"]})
    plain.save_to_disk(str(tmp_path / "plain"))
    with pytest.raises(
        CorpusError, match="its column 'audio' holds List.*no sound; wanted"
    ) as caught:
        read(tmp_path / "plain")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    other = datasets.Dataset.from_dict(
        {"audio": [1], "speech": [{"bytes": b"x", "path": "a.wav"}], "text": ["x"]}
    ).cast_column("speech", datasets.Audio())
    other.save_to_disk(str(tmp_path / "other"))
    with pytest.raises(CorpusError, match="0 rows were skipped$|no usable rows"):
        read(tmp_path / "other", strict=False, language=None)
    assert len(read(tmp_path / "other").utterances) == 1


def test_parquet_shards(tmp_path):
    datasets = pytest.importorskip("datasets")
    sound = wav(tmp_path / "a.flac").read_bytes()
    for split, texts in {"train": ["one", "two", "three"], "validation": ["four"]}.items():
        rows = {"audio": [{"bytes": sound, "path": "a.flac"}] * len(texts), "sentence": texts}
        made = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
        for i in range(shards := min(2, len(texts))):
            path = tmp_path / "hub" / "data" / f"{split}-{i:05}-of-{shards:05}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            made.shard(shards, i, contiguous=True).to_parquet(str(path))
    corpus = read(tmp_path / "hub")
    assert corpus.layout == "parquet" and corpus.splits == ("dev", "train")
    assert sorted(u.text for u in corpus.utterances) == ["one", "three", "two"]
    assert [u.text for u in read(tmp_path / "hub", "validation").utterances] == ["four"]
    assert load_audio(corpus.utterances[0].sound).shape == (32_000,)
    assert corpus.utterances[0].audio.is_relative_to(tmp_path / "hub.audio")
    alone = read(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", None)
    assert [u.text for u in alone.utterances] == ["four"]
    # plain structs and bytes, as other programs write them
    import pyarrow
    import pyarrow.parquet

    for name, cell in {"struct": {"bytes": sound, "path": None}, "raw": sound}.items():
        (tmp_path / name).mkdir()
        rows = pyarrow.table({"audio": [cell], "text": ["x"]})
        pyarrow.parquet.write_table(rows, tmp_path / name / "part.parquet")
        assert load_audio(read(tmp_path / name).utterances[0].sound).shape == (32_000,)
    (tmp_path / "raw" / "part.parquet").write_bytes(b"PAR1 is no parquet")
    with pytest.raises(CorpusError, match="part.parquet: cannot be read as parquet"):
        read(tmp_path / "raw")


ROWS = [("one.wav", "eins"), ("two.wav", "zwei")]


def metadata(folder: Path, kind: str, rows) -> None:
    """Write a metadata file in one of AudioFolder's three kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "transcription": text}) for name, text in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    elif kind == "csv":
        lines = [f"{name},{text}" for name, text in [("file_name", "transcription"), *rows]]
        (folder / "metadata.csv").write_text("\n".join(lines))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        names, texts = zip(*rows, strict=True)
        made = pyarrow.table({"file_name": list(names), "transcription": list(texts)})
        parquet.write_table(made, folder / "metadata.parquet")
    for name, _ in rows:
        wav(folder / name)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_audiofolders(tmp_path, kind):
    metadata(tmp_path / "plain", kind, ROWS)
    corpus = read(tmp_path / "plain")
    assert corpus.layout == "audiofolder" and brief(corpus) == ROWS and corpus.splits == ()
    assert brief(read(tmp_path / "plain" / f"metadata.{kind}", "test")) == ROWS
    for at in ("a", "b/data"):  # a metadata file for each split
        metadata(tmp_path / at / "train", kind, ROWS)
        metadata(tmp_path / at / "validation", kind, [("three.wav", "drei")])
        folder = tmp_path / at.split("/")[0]
        assert [u.text for u in read(folder).utterances] == ["eins", "zwei"]
        assert [u.text for u in read(folder, "dev").utterances] == ["drei"]
        assert read(folder).splits == ("dev", "train")
    metadata(tmp_path / "c", kind, [("data/train/one.wav", "eins"), ("data/test/one.wav", "zwei")])
    metadata(tmp_path / "d", kind, [("train-01.wav", "eins"), ("test-01.wav", "zwei")])
    for name in "cd":
        assert [u.text for u in read(tmp_path / name, "test").utterances] == ["zwei"]
        assert len(read(tmp_path / name, None).utterances) == 2
    metadata(tmp_path / "e", kind, [("train.wav", "eins"), ("a.wav", "zwei")])
    assert len(read(tmp_path / "e").utterances) == 2, "only some are called so: no splits"


def test_bad_rows_of_an_audiofolder(tmp_path):
    metadata(tmp_path, "jsonl", ROWS)
    more = [
        "{",
        "[1]",
        '{"file_name": "gone.wav", "transcription": "x"}',
        '{"file_name": "one.wav"}',
        '{"file_name": ["one.wav"], "transcription": "x"}',
        '{"file_name": "one.wav", "transcription": 5}',
        '{"file_name": "../one.wav", "transcription": "x"}',
    ]
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write("\n" + "\n".join(more))
    corpus = read(tmp_path)
    assert brief(corpus) == ROWS
    assert [row.source.rpartition(":")[2] for row in corpus.skipped] == list("3456789")
    reasons = [
        "is not JSON",
        "is not a JSON object",
        "is missing",
        "has no text",
        "file_name is no text or number",
        "was used before",
        "climbs out",
    ]
    assert all(r in s.reason for r, s in zip(reasons, corpus.skipped, strict=True))


def test_kaldis_channels(tmp_path):
    wav(tmp_path / "mono.wav")
    soundfile.write(tmp_path / "two.wav", np.stack([RAMP, -RAMP], 1), 16_000)
    (tmp_path / "wav.scp").write_text("m mono.wav\ns two.wav\nc sox x.wav - |\n")
    (tmp_path / "text").write_text("".join(f"u{i} text {i}\n" for i in range(6)))
    (tmp_path / "segments").write_text(
        "u0 m 0 1 0\nu1 m 0.5 -1\nu2 m 0 1 1\nu3 s 0 1 1\nu4 s 0 1\nu5 c 0 1 0\n"
    )
    corpus = read(tmp_path)
    assert [(u.id, u.start, u.end) for u in corpus.utterances] == [
        ("u0", 0, 1),
        ("u1", 0.5, 2),
        ("u4", 0, 1),
    ]
    reasons = [row.reason for row in corpus.skipped]
    assert reasons[0] == "its channel is '1'; the recording has 1, counted from 0"
    assert "names channel 1 of 2" in reasons[1] and "is a command, which is never run" in reasons[2]
    (tmp_path / "reco2file_and_channel").write_text("m mono A\ns two B\n")
    corpus = read(tmp_path)
    assert [u.id for u in corpus.utterances] == ["u0", "u1"]
    assert "names channel B of 2" in corpus.skipped[2].reason


REPORTS = DATA / "public_reports" / "corpora"


@pytest.mark.skipif(not REPORTS.is_dir(), reason="shared/data/public_reports is not there")
@pytest.mark.parametrize(
    "name, expected",
    [
        ("csv_sep", [("a.wav", "Hallo Welt", 0, 2), ("b.wav", "Guten; Tag", 0, 2)]),
        (
            "audiofolder_jsonl",
            [("data/a.wav", "hello world", 0, 2), ("data/b.wav", "good day", 0, 2)],
        ),
        ("kaldi_chan", [("u1", "hello world", 0.5, 2), ("u2", "good day", 2.5, 6)]),
        ("ds_array", [("0:a.wav", "hello world", 0, 0.1)]),
        (
            "norm",
            [
                ("0.wav", "Bà ấy đi chợ mỗi sáng", 0, 2),
                ("1.wav", "Cô ấy nấu cơm rất ngon", 0, 2),
                ("2.wav", "cooperative work here", 0, 2),
                ("3.wav", "plain word مرحبا", 0, 2),
            ],
        ),
    ],
)
def test_corpora_of_public_reports(tmp_path, name, expected):
    if name == "ds_array":
        pytest.importorskip("datasets")
    shutil.copytree(REPORTS / name, tmp_path / name)
    corpus = read(tmp_path / name)
    assert [
        (u.id, u.text, u.start or 0, u.end or pytest.approx(audio_duration(u.audio)))
        for u in corpus.utterances
    ] == expected
    assert not corpus.skipped


@pytest.mark.parametrize(
    "id, is_one",
    [
        ("datasets:owner/name", True),
        ("hf://datasets/owner/name:ky", True),
        ("owner/name", False),
        ("datasets", False),
    ],
)
def test_hub_ids_are_told_from_paths(id, is_one):
    assert is_hub_id(id) == is_hub_id(Path(id)) == is_one  # Path makes one slash of two


def test_segments_in_a_manifest_are_kept_and_cut(tmp_path):
    wav(tmp_path / "long.wav")
    rows = [
        {"id": "late", "start": 1.5, "end": 2.08},
        {"id": "nemo", "offset": 0.25, "duration": 0.5},
        {"id": "tail", "start": 1.75},
        {"id": "head", "end": 0.5},
        {"id": "over", "start": 1, "end": 2.2},
        {"id": "back", "start": 1, "end": 1},
        {"id": "odd", "start": True, "end": 1},
    ]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        "\n".join(
            json.dumps({"audio": "long.wav", "text": "x", "split": "val"} | row) for row in rows
        )
    )
    corpus = read(tmp_path, "dev")
    assert [(u.id, u.start, u.end, u.duration) for u in corpus.utterances] == [
        ("late", 1.5, 2.0, 0.5),
        ("nemo", 0.25, 0.75, 0.5),
        ("tail", 1.75, 2.0, 0.25),
        ("head", 0.0, 0.5, 0.5),
    ]
    assert len(corpus.skipped) == 3 and corpus.hours == 1.75 / 3600
    for u in corpus.utterances:
        cut = RAMP[round(u.start * 16_000) : round(u.end * 16_000)]
        np.testing.assert_array_equal(load_audio(u.sound), cut.astype(np.float32))
        assert audio_duration(u.sound) == pytest.approx(u.duration)
    write_manifest(tmp_path / "new" / "manifest.jsonl", corpus.utterances)
    assert read(tmp_path / "new", "dev", strict=True).utterances == corpus.utterances


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_many_rows_take_little_memory(tmp_path, form):
    wav(tmp_path / "a.wav")
    path = tmp_path / ("x.csv" if form == "csv" else "x.jsonl")
    with path.open("w") as file:
        if form == "csv":
            file.write("id,file,text\n")
        for i in range(20_000):
            row = {"id": str(i), "audio": "a.wav", "text": f"сөз {i}", "start": 0.5, "end": 1}
            file.write(f"{i},a.wav,сөз {i}\n" if form == "csv" else json.dumps(row) + "\n")
    tracemalloc.start()
    corpus = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(corpus.utterances) == 20_000 and not corpus.skipped and peak < 60e6  # 3 kB a row


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=20)
TEXTS = WORDS.map(lambda text: one_form(text).strip()).filter(bool)
FOUND = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FOUND
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=6),
    speaker=st.none() | WORDS,
    span=st.none() | st.tuples(st.floats(0, 0.9), st.floats(1, 2)),
)
def test_a_written_manifest_reads_back_whatever_it_says(tmp_path, texts, speaker, span):
    audio = tmp_path / "a.wav"
    if not audio.exists():
        wav(audio)
    start, end = span or (None, None)
    rows = tuple(
        Utterance(
            str(i), text, "ky", audio, span and end - start, "train", speaker, None, start, end
        )
        for i, text in enumerate(texts)
    )
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert load_corpus(tmp_path / "manifest.jsonl", "train").utterances == rows


@FOUND
@given(
    rows=st.lists(TEXTS, min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
)
def test_a_table_by_the_csv_module_reads_back(tmp_path, rows, delimiter):
    if not (tmp_path / "a.wav").exists():
        wav(tmp_path / "a.wav")
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(
            [["id", "file", "text"], *([i, "a.wav", text] for i, text in enumerate(rows))]
        )
    assert [u.text for u in read(tmp_path / "x.csv").utterances] == rows


GARBAGE = st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")) | WORDS.map(
    lambda s: s.replace("\n", "").encode()
)


@FOUND
@given(
    lines=st.lists(GARBAGE, min_size=1, max_size=8),
    kind=st.sampled_from(["x.jsonl", "x.tsv", "train.tsv", "wav.scp"]),
)
def test_arbitrary_lines_raise_nothing_but_corpus_errors_and_are_counted(tmp_path, lines, kind):
    """One good row goes first, so that something can be counted."""
    folder = tmp_path / kind
    if not folder.exists():
        wav(folder / "a.wav")
        wav(folder / "clips" / "a.wav")
    good = {
        "x.jsonl": b'{"audio": "a.wav", "text": "x"}',
        "x.tsv": b"file\ttext\na.wav\tx",
        "train.tsv": b"client_id\tpath\tsentence\nc\ta.wav\tx",
        "wav.scp": b"a a.wav",
    }[kind]
    (folder / kind).write_bytes(b"\n".join([good, *lines]))
    (folder / "text").write_text("a x\n")
    try:
        corpus = read(folder if kind in ("train.tsv", "wav.scp") else folder / kind)
    except CorpusError as error:
        assert "not UTF-8" in str(error)
        return
    rows = sum(bool(line.strip()) for line in lines) + 1
    counted = len(corpus.utterances) + len(corpus.skipped)
    assert corpus.utterances[0].text == "x" and (
        counted == rows or (kind == "x.tsv" and counted < rows)
    )
    if kind == "x.tsv":  # a row of several lines: from a cell that opens a quote to a later quote
        quoted = [i for i, line in enumerate(lines) if b'"' in line]
        opened = [i for i in quoted if lines[i].startswith(b'"') or b'\t"' in lines[i]]
        assert rows - counted <= sum(quoted[-1] - i for i in opened)


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not there")
def test_real_recordings_as_a_table(tmp_path):
    corpus = load_corpus(DATA / "kichwa", "dev")
    with (tmp_path / "dev.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows(
            [
                ["path", "sentence", "locale", "client_id", "id"],
                *(
                    [u.audio.absolute(), u.text, u.language, u.speaker, u.id]
                    for u in corpus.utterances
                ),
            ]
        )
    back = read(tmp_path, "dev", language=None)
    keep = [(u.id, u.text, u.language, u.audio.absolute(), u.speaker) for u in corpus.utterances]
    assert [
        (u.id, u.text, u.language, u.audio, u.speaker) for u in back.utterances
    ] == keep and not back.skipped
