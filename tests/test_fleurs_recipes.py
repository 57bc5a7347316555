"""The FLEURS recipes on two-layer models: one language, many, and what is refused."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

RECIPES = Path(__file__).parents[1] / "recipes" / "fleurs"
SENTENCES = {
    "en_us": ["The dog is at home.", "We saw the moon.", "Bread is on the table.", "He runs."],
    "ky_kg": ["Тоодо кар жаады.", "Апам нан бышырды.", "Балдар мектепке барды.", "Ат суу ичти."],
    "ga_ie": ["Tá an ghrian ag taitneamh.", "Chuaigh sí go dtí an siopa.", "Ól do bhainne.", "Tá sé fuar."],
    "om_et": ["Bishaan bareedaa dha.", "Ijoolleen mana deeman.", "Aannan dhugi.", "Guyyaan gaarii dha."],
}  # fmt: skip
SMALL = ("--steps", 2, "--batch", 4, "--variants", 1, "--rank", 2, "--beam", 1, "--decoder", "ctc")


@pytest.fixture(scope="module")
def recipes():
    """The recipes as modules, imported from their folder as a script there imports them."""
    sys.path.insert(0, str(RECIPES))
    yield lambda name: importlib.import_module(name)
    sys.path.remove(str(RECIPES))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A FLEURS folder: chords, one for each language, with noise; 8 training, 3 dev and 3 test clips."""
    root, rng = tmp_path_factory.mktemp("fleurs"), np.random.default_rng(0)
    for number, (config, sentences) in enumerate(SENTENCES.items()):
        folder = root / "data" / config
        for split, count in (("train", 8), ("dev", 3), ("test", 3)):
            (folder / "audio" / split).mkdir(parents=True)
            with (folder / f"{split}.tsv").open("w", encoding="utf-8") as table:
                for i in range(count):
                    time = np.arange(int(rng.integers(14_000, 22_000))) / 16_000
                    samples = 0.2 * np.sin(2 * np.pi * (200 + 150 * number) * time) + 0.05 * rng.standard_normal(len(time))
                    soundfile.write(folder / "audio" / split / f"{i}.wav", samples, 16_000)
                    text = f"{sentences[i % 4]} {split} {i}"
                    table.write(f"{i}\t{i}.wav\t{text}\t{text.lower()}\tx\t{len(time)}\tFEMALE\n")
    return root


def test_one_language_joins(recipes, corpus, tiny_folder, tmp_path, capsys):
    main = recipes("add_language").main

    def run(*arguments) -> int:
        return main([str(a) for a in (*arguments, "--corpus", corpus, "--base", tiny_folder, *SMALL)])

    first = tmp_path / "first"
    assert run("ky", "--out", first) == 0
    pack = first / "packs" / "ky_kg"
    reports = [json.loads((first / "reports" / f"{name}.json").read_text()) for name in ("before", "after")]
    assert set(reports[1]["languages"]) == {"en", "ky"}  # what the base knows, and the new one
    old = [report["languages"]["en"]["pipeline_aware"] for report in reports]
    assert old[0] == old[1] and reports[1]["decoded"]["primary"] == 0
    assert (first / "reports" / "after.html").exists() and "| ky | new |" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    assert run("ky", "--out", first) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

    assert run("ga", "--out", tmp_path / "second", "--pack", pack) == 0
    report = json.loads((tmp_path / "second" / "reports" / "after.json").read_text())
    assert set(report["languages"]) == {"en", "ky", "ga"} and [p["name"] for p in report["packs"]] == ["ky_kg", "ga_ie"]


@pytest.mark.parametrize(("arguments", "says"), [
    (("ky_kh",), "the nearest: ky_kg (Kyrgyz)"),
    (("en",), "has English already"),
    (("xh_za",), "has no xh_za; there is"),
    (("ky", "--old", "de_de"), "--old de_de"),
    (("ky", "--pack", "nowhere"), "no pack at nowhere"),
])  # fmt: skip
def test_what_one_language_is_refused(recipes, corpus, tiny_folder, tmp_path, capsys, arguments, says):
    out = tmp_path / "out"
    code = recipes("add_language").main([*map(str, (*arguments, "--corpus", corpus, "--base", tiny_folder, "--out", out))])
    assert code == 1 and says in capsys.readouterr().err
    assert not (out / "packs").exists()


def test_a_folder_of_other_arguments_is_refused(recipes, corpus, tiny_folder, tmp_path, capsys):
    main, out = recipes("add_language").main, tmp_path / "out"
    arguments = ["ky", "--corpus", corpus, "--base", tiny_folder, "--out", out, *SMALL]
    assert main([*map(str, arguments)]) == 0
    before = (out / "arguments.json").read_bytes()
    assert main([*map(str, [*arguments, "--seed", 2])]) == 1
    assert "begun with other settings (training)" in capsys.readouterr().err
    assert (out / "arguments.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert main([*map(str, [*arguments[:5], "--out", tmp_path / "mine"])]) == 1
    assert "not a run of this recipe" in capsys.readouterr().err
