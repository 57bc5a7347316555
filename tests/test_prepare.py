"""FLEURS made ready: languages linked or fetched whole, what is wrong with them counted, planted
leaks found.
"""

import importlib.util
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualasr.data.corpus import load_corpus
from dualasr.data.synthetic import GenerateOptions
from dualasr.errors import RunError
from dualasr.languages import NINETEEN

spec = importlib.util.spec_from_file_location(
    "prepare", Path(__file__).parents[1] / "recipes" / "fleurs" / "prepare.py"
)
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)

SENTENCES = {
    "ky_kg": {
        "train": ["Тоодо кар жаады.", "Апам таңда нан бышырды.", "Балдар мектепке барды."],
        "dev": ["Ат суудан кечип өттү."],
        "test": ["Жылдыздар түнкүсүн жаркырайт.", "Кечинде жамгыр токтоду."],
    },
    "ga_ie": {
        "train": ["Tá an ghrian ag taitneamh inniu.", "Chuaigh sí go dtí an siopa."],
        "dev": ["Ól do chuid bainne."],
        "test": ["Bhí an mhuir ciúin aréir."],
    },
}


def sound(*seed: int) -> np.ndarray:
    """Two seconds of noise of its own."""
    return (0.1 * np.random.default_rng(seed).standard_normal(32_000)).astype(np.float32)


@pytest.fixture
def fleurs(tmp_path):
    """A FLEURS folder of two languages, 2 s a clip, all sentences and sounds different."""
    root = tmp_path / "fleurs"
    for i, (config, splits) in enumerate(SENTENCES.items()):
        for j, (split, texts) in enumerate(splits.items()):
            (root / "data" / config / "audio" / split).mkdir(parents=True)
            for k, text in enumerate(texts):
                write(root, config, split, f"{k}.wav", text, sound(i, j, k))
    return root


def write(
    root: Path, config: str, split: str, name: str, text: str, samples: np.ndarray | None
) -> None:
    """One more row, and its sound unless that is None."""
    folder = root / "data" / config
    if samples is not None:
        soundfile.write(folder / "audio" / split / name, samples, 16_000)
    with (folder / f"{split}.tsv").open("a", encoding="utf-8") as table:
        table.write(f"7\t{name}\t{text}\t{text.lower()}\tx\t32000\tFEMALE\n")


def run(out: Path, *arguments) -> tuple[int, dict]:
    code = recipe.main(["--out", str(out), *map(str, arguments)])
    record = out / "prepare.json"
    return code, json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


def states(folder: Path) -> dict[str, int]:
    return {
        str(path): path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if path.name != "prepare.json"
    }


def test_a_clean_folder(fleurs, tmp_path, capsys):
    out = tmp_path / "out"
    code, report = run(out, "--folder", fleurs, "ky_kg", "ga")
    assert code == 0 and report["leaks"] == [] and list(report["configs"]) == ["ky_kg", "ga_ie"]
    for config, splits in SENTENCES.items():
        for split, texts in splits.items():
            found = report["configs"][config]["splits"][split]
            assert found["clips"] == len(texts) and found["hours"] == pytest.approx(
                len(texts) * 2 / 3600
            )
            assert (
                found["audio_missing"] == 0 and found["audio_unreadable"] == found["skipped"] == []
            )
            assert [u.text for u in load_corpus(out / "data" / config, split).utterances] == texts
    assert report["configs"]["ky_kg"]["name"] == "Kyrgyz" and report["command"].endswith("ky_kg ga")
    screen = capsys.readouterr().out
    assert "| ky_kg train | Kyrgyz | 3 | 0.00 | 0 | 0 | 0 |" in screen and "None: no clip" in screen


def test_what_cannot_be_used_is_counted(fleurs, tmp_path, capsys):
    write(fleurs, "ky_kg", "train", "gone.wav", "Бул жок.", None)
    write(fleurs, "ky_kg", "train", "9.wav", "", sound(9))
    write(fleurs, "ky_kg", "train", "broken.wav", "Бул бузулган.", None)
    (fleurs / "data" / "ky_kg" / "audio" / "train" / "broken.wav").write_bytes(b"no sound")
    code, report = run(tmp_path / "out", "--folder", fleurs, "ky_kg")
    found = report["configs"]["ky_kg"]["splits"]["train"]
    assert code == 0 and found["clips"] == 4 and found["audio_missing"] == 1
    assert [row["source"].split(":")[-1] for row in found["skipped"]] == ["4", "5"]
    assert found["skipped"][1]["reason"] == "has no text"
    assert found["audio_unreadable"] == ["ky_kg/train/broken"]
    screen = capsys.readouterr().out
    assert (
        "| ky_kg train | Kyrgyz | 4 | 0.00 | 2 | 1 | 1 |" in screen
        and "train.tsv:5: has no text" in screen
    )


def test_planted_leaks_are_found(fleurs, tmp_path, capsys):
    quieter = 0.5 * sound(0, 2, 0) + 0.001 * sound(5)  # a Kyrgyz test clip, told as Irish
    write(fleurs, "ga_ie", "train", "copy.wav", "Rud éigin eile ar fad.", quieter)
    # in train, by another speaker
    write(fleurs, "ky_kg", "test", "said.wav", "тоодо КАР жаады", sound(6))
    # a train clip
    write(fleurs, "ky_kg", "dev", "same.wav", "Таптакыр башка сүйлөм.", sound(0, 0, 1))
    write(fleurs, "ga_ie", "test", "dev.wav", "Ól do chuid bainne!", sound(8))
    write(fleurs, "ga_ie", "test", "far.wav", "Abairt nár dúradh fós.", sound(0, 0, 2))
    code, report = run(tmp_path / "out", "--folder", fleurs, "ky_kg", "ga_ie")
    assert code == 0
    assert [(leak["clip"], leak["match"], leak["kind"]) for leak in report["leaks"]] == [
        ("ga_ie/test/dev", "ga_ie/dev/0", "same sentence"),
        ("ga_ie/test/far", "ky_kg/train/2", "same recording"),
        ("ky_kg/dev/same", "ky_kg/train/1", "same recording"),
        ("ky_kg/test/0", "ga_ie/train/copy", "similar recording"),
        ("ky_kg/test/said", "ky_kg/train/0", "same sentence"),
    ]
    screen = capsys.readouterr().out
    assert "| ky_kg test | ga_ie train | similar recording | 1 |" in screen
    assert "- ky_kg/test/said = ky_kg/train/0: same sentence, similarity 1.00, 3 words" in screen


def test_a_second_run_does_nothing_anew_and_a_further_language_only_itself(fleurs, tmp_path):
    out = tmp_path / "out"
    _, first = run(out, "--folder", fleurs, "ky_kg")
    before = states(out)
    _, second = run(out, "--folder", fleurs, "ky_kg")
    assert second == first and states(out) == before
    _, third = run(out, "--folder", fleurs, "ky_kg", "ga_ie")
    assert third["configs"]["ky_kg"] == first["configs"]["ky_kg"] and len(third["configs"]) == 2
    after = states(out)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {str(out / "data"), str(out / "fingerprints")}  # which hold more

    soundfile.write(fleurs / "data" / "ky_kg" / "audio" / "test" / "0.wav", sound(0, 0, 0), 16_000)
    _, fourth = run(out, "--folder", fleurs, "ky_kg", "ga_ie")
    assert [leak["kind"] for leak in fourth["leaks"]] == ["same recording"], (
        "a changed file is read again"
    )
    assert len(list((out / "fingerprints").iterdir())) == 6


def test_a_folder_is_only_read_even_where_archives_are_unpacked(fleurs, tmp_path):
    folder = fleurs / "data" / "ky_kg" / "audio" / "train"
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as tar:
        tar.add(folder, "train")
    for path in (*folder.iterdir(), folder):
        path.unlink() if path.is_file() else path.rmdir()
    before, out = states(fleurs), tmp_path / "out"
    code, report = run(out, "--folder", fleurs, "ky_kg")
    assert code == 0 and report["configs"]["ky_kg"]["splits"]["train"]["clips"] == 3
    assert (
        states(fleurs) == before
        and (out / "data" / "ky_kg" / "audio" / "train" / "0.wav").is_file()
    )


def test_in_place(fleurs, capsys):
    code, report = run(fleurs, "--folder", fleurs, "ky_kg")
    assert code == 0 and report["configs"]["ky_kg"]["splits"]["test"]["clips"] == 2
    assert not any(path.is_symlink() for path in fleurs.rglob("*"))


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["ky_kz"], r"'ky_kz' is no language of FLEURS; the nearest: ky_kg (Kyrgyz)"),
        (["ky_kg", "ga_ie", "ky"], "ky_kg: named more than once; name each language once."),
        (["or_in"], "has no or_in; there is ga_ie, ky_kg"),
        ([], "has no ast_es; there is ga_ie, ky_kg"),  # the nineteen
    ],
)
def test_languages_that_cannot_be_had(fleurs, tmp_path, capsys, languages, message):
    assert NINETEEN[0] == "ast_es"
    assert run(tmp_path / "out", "--folder", fleurs, *languages)[0] == 1
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not list((tmp_path / "out").glob("data/*"))


def test_folders_that_cannot_be_used(fleurs, tmp_path, capsys):
    out = tmp_path / "out"
    for source, message in (
        (tmp_path / "nothing", "does not exist; wanted JSONL"),
        (out, "is no corpus; wanted JSONL"),
    ):
        assert run(out, "--folder", source, "ky_kg")[0] == 1
        said = capsys.readouterr().err
        assert message in said and "or a FLEURS folder (data/{config}" in said
    assert run(out, "--folder", fleurs, "ky_kg")[0] == 0, (
        "a source that gave nothing does not stand in the way"
    )
    assert run(out, "--hub", "google/fleurs", "ky_kg")[0] == 1
    assert f"was made from the folder {fleurs}; choose another --out" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file", "--folder", fleurs, "ky_kg")[0] == 1
    assert f"prepare: {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_hub_out_of_reach_is_one_sentence(tmp_path, capsys, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run(tmp_path / "out", "--hub", "google/fleurs", "ky_kg")[0] == 1
    said = capsys.readouterr().err
    assert (
        said.startswith("prepare: google/fleurs: ky_kg cannot be fetched") and said.count("\n") == 1
    )
    assert "run this on a machine that reaches it, copy its OUT folder here" in said
    assert not list((tmp_path / "out").glob("data/*"))


def test_parquet_of_the_hubs_columns_becomes_a_fleurs_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    soundfile.write(tmp_path / "1.wav", sound(1), 16_000)
    columns = {
        "id": [1675],
        "num_samples": [32_000],
        "path": ["/cache/1.wav"],
        "raw_transcription": ['"Тоодо"\tкар\nжаады.'],
        "audio": [{"path": "1.wav", "bytes": (tmp_path / "1.wav").read_bytes()}],
        "transcription": ["тоодо кар"],
        "gender": [1],
    }
    audio = {"path": datasets.Value("string"), "bytes": datasets.Value("binary")}
    table = datasets.Dataset.from_dict(
        columns,
        features=datasets.Features(
            {
                "id": datasets.Value("int32"),
                "num_samples": datasets.Value("int32"),
                "path": datasets.Value("string"),
                "raw_transcription": datasets.Value("string"),
                "audio": audio,
                "transcription": datasets.Value("string"),
                "gender": datasets.ClassLabel(names=["male", "female", "other"]),
            }
        ),
    ).cast_column("audio", datasets.Audio(16_000, decode=False))
    table.to_parquet(tmp_path / "0000.parquet")
    part = tmp_path / "data" / "ky_kg"
    part.mkdir(parents=True)
    recipe.write_parquet({"test": str(tmp_path / "*.parquet")}, part)
    assert (part / "test.tsv").read_text(
        encoding="utf-8"
    ) == '1675\t1.wav\t"Тоодо" кар жаады.\tтоодо кар\tт о о д о | к а р\t32000\tFEMALE\n'
    found = load_corpus(part, "test").utterances
    assert [(u.id, u.text, u.duration) for u in found] == [
        ("ky_kg/test/1", '"Тоодо" кар жаады.', 2.0)
    ]
    assert np.allclose(soundfile.read(found[0].audio)[0], sound(1), atol=1e-4)


def test_generated(tmp_path):
    pytest.importorskip("espeakng_loader")
    out, spoken = tmp_path / "out", GenerateOptions(limit=3)
    report = recipe.prepare(out, ["ky", "en"], spoken=spoken)
    assert {
        split: found["clips"] for split, found in report["configs"]["ky_kg"]["splits"].items()
    } == {"train": 9, "dev": 3, "test": 3}
    assert report["source"].startswith("speech synthesis") and report["leaks"] == []
    with pytest.raises(RunError, match="choose another --out"):
        recipe.prepare(out, ["ky", "en"], spoken=GenerateOptions(limit=4))


def test_a_corpus_of_another_layout_is_laid_out_as_fleurs(tmp_path):
    """Recordings are linked, a stretch is cut out, a language that is not there is an error that
    names it.
    """
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", sound(1), 16_000)
    soundfile.write(source / "b.wav", sound(2), 8_000)
    rows = [
        {"audio": "a.wav", "text": "Тоодо  кар жаады.", "lang": "ky", "split": "train"},
        {
            "audio": "b.wav",
            "text": "Ат суудан кечип өттү.",
            "lang": "ky",
            "split": "test",
            "start": 1.0,
            "end": 2.5,
        },
        {
            "audio": "b.wav",
            "text": "Tá sé fuar.",
            "lang": "ga",
            "split": "test",
            "start": 3.0,
            "end": 4.0,
        },
    ]
    (source / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, report = run(tmp_path / "out", "--folder", source, "ky_kg", "ga_ie")
    assert code == 0 and set(report["configs"]["ga_ie"]["splits"]) == {"test"}
    (train,), (test,) = (
        load_corpus(tmp_path / "out", split, languages=["ky"]).utterances
        for split in ("train", "test")
    )
    assert (train.text, train.duration) == (
        "Тоодо кар жаады.",
        2.0,
    ) and train.audio.resolve() == source / "a.wav"
    assert (test.text, test.duration) == ("Ат суудан кечип өттү.", 1.5)
    assert soundfile.info(test.audio).duration == pytest.approx(1.5, abs=1e-3)
    assert run(tmp_path / "other", "--folder", source, "or_in")[0] == 1
