"""The FLEURS recipes on two-layer models: one language, many, and what is refused."""

import contextlib
import importlib
import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

from dualasr.evaluation.continual import read_matrix
from dualasr.model.selector import SelectorOptions
from dualasr.packs.load import load_model

RECIPES = Path(__file__).parents[1] / "recipes" / "fleurs"
SENTENCES = {
    "en_us": ["The dog is at home.", "We saw the moon.", "Bread is on the table.", "He runs."],
    "ky_kg": ["Тоодо кар жаады.", "Апам нан бышырды.", "Балдар мектепке барды.", "Ат суу ичти."],
    "ga_ie": [
        "Tá an ghrian ag taitneamh.",
        "Chuaigh sí go dtí an siopa.",
        "Ól do bhainne.",
        "Tá sé fuar.",
    ],
    "om_et": [
        "Bishaan bareedaa dha.",
        "Ijoolleen mana deeman.",
        "Aannan dhugi.",
        "Guyyaan gaarii dha.",
    ],
}
SMALL = ("--steps", 2, "--batch", 4, "--variants", 1, "--rank", 2, "--beam", 1, "--decoder", "ctc")


@pytest.fixture(scope="module")
def recipes():
    """The recipes as modules, imported from their folder as a script there imports them."""
    sys.path.insert(0, str(RECIPES))
    yield lambda name: importlib.import_module(name)
    sys.path.remove(str(RECIPES))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A FLEURS folder: chords, one for each language, with noise; 8 training, 3 dev and 3 test
    clips.
    """
    root, rng = tmp_path_factory.mktemp("fleurs"), np.random.default_rng(0)
    for number, (config, sentences) in enumerate(SENTENCES.items()):
        folder = root / "data" / config
        for split, count in (("train", 8), ("dev", 3), ("test", 3)):
            (folder / "audio" / split).mkdir(parents=True)
            with (folder / f"{split}.tsv").open("w", encoding="utf-8") as table:
                for i in range(count):
                    time = np.arange(int(rng.integers(14_000, 22_000))) / 16_000
                    samples = 0.2 * np.sin(
                        2 * np.pi * (200 + 150 * number) * time
                    ) + 0.05 * rng.standard_normal(len(time))
                    soundfile.write(folder / "audio" / split / f"{i}.wav", samples, 16_000)
                    text = f"{sentences[i % 4]} {split} {i}"
                    table.write(f"{i}\t{i}.wav\t{text}\t{text.lower()}\tx\t{len(time)}\tFEMALE\n")
    return root


@pytest.fixture(scope="module")
def one_language(recipes, corpus, tiny_folder, tmp_path_factory):
    """A call of add_language.py, the folder in which it added Kyrgyz, and what it printed there."""

    def run(*arguments) -> int:
        words = (*arguments, "--corpus", corpus, "--base", tiny_folder, *SMALL)
        return recipes("add_language").main([str(word) for word in words])

    out, printed = tmp_path_factory.mktemp("one") / "first", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run("ky", "--out", out) == 0
    return run, out, printed.getvalue()


def test_one_language_joins(one_language, tmp_path):
    run, first, printed = one_language
    pack = first / "packs" / "ky"
    reports = [
        json.loads((first / "reports" / f"{name}.json").read_text()) for name in ("before", "after")
    ]
    assert set(reports[1]["languages"]) == {"en", "ky"}  # what the base knows, and the new one
    old = [report["languages"]["en"]["pipeline_aware"] for report in reports]
    assert old[0] == old[1] and reports[1]["decoded"]["primary"] == 0
    assert (first / "reports" / "after.html").exists() and "| ky | new |" in printed
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    assert run("ky", "--out", first) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}

    assert run("ga", "--out", tmp_path / "second", "--pack", pack) == 0
    report = json.loads((tmp_path / "second" / "reports" / "after.json").read_text())
    assert set(report["languages"]) == {"en", "ky", "ga"} and [
        p["name"] for p in report["packs"]
    ] == ["ky", "ga"]


def test_a_corpus_of_another_layout(recipes, corpus, tiny_folder, tmp_path):
    """Its rows name no language; the command does."""
    rows = []
    for split in ("train", "dev", "test"):
        for i, line in enumerate(
            (corpus / "data" / "om_et" / f"{split}.tsv").read_text().splitlines()
        ):
            audio = corpus / "data" / "om_et" / "audio" / split / f"{i}.wav"
            rows.append(
                {
                    "id": f"{split}{i}",
                    "audio": str(audio),
                    "text": line.split("\t")[2],
                    "split": split,
                }
            )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    arguments = (
        f"om={tmp_path / 'mine'}",
        "--corpus",
        corpus,
        "--base",
        tiny_folder,
        "--out",
        tmp_path / "out",
        *SMALL,
    )
    assert recipes("add_language").main([str(a) for a in arguments]) == 0
    report = json.loads((tmp_path / "out" / "reports" / "after.json").read_text())
    assert set(report["languages"]) == {"en", "om"} and report["languages"]["om"]["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ky_kh",), "the nearest: ky_kg (Kyrgyz)"),
        (("en",), "has English already"),
        (("xh_za",), "has no xh_za; there is"),
        (("ky", "--old", "de_de"), "--old de_de"),
        (("ky", "--pack", "nowhere"), "no pack at nowhere"),
        (("qu-EC=nowhere",), "nowhere is no folder"),
        (("ky", "--fork", 99), "fork 99 is outside the encoder"),
        (("ky", "--rank", -1), "rank -1"),
        (("ky", "--batch", 0), "batch is 0; wanted 1 or more"),
        (("ky", "--steps", -5), "steps is -5"),
        (("ky", "--learning-rate", "nan"), "learning rate nan"),
        (("ky", "--processes", 0), "--processes 0: wanted 1"),
        (("ky", "--device", "cuda:99"), "--device cuda:99 is not available here"),
    ],
)
def test_what_one_language_is_refused(
    recipes, corpus, tiny_folder, tmp_path, capsys, arguments, says
):
    out = tmp_path / "out"
    code = recipes("add_language").main(
        [*map(str, (*arguments, "--corpus", corpus, "--base", tiny_folder, "--out", out))]
    )
    assert code == 1 and says in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_of_other_arguments_is_refused(one_language, tmp_path, capsys):
    run, out, _ = one_language
    before = (out / "arguments.json").read_bytes()
    assert run("ky", "--out", out, "--seed", 2) == 1
    assert "begun with other settings (seed: 1, now 2)" in capsys.readouterr().err
    assert (out / "arguments.json").read_bytes() == before
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".123-arguments.json").touch()  # killed while its first file was written
    assert run("ky", "--out", tmp_path / "killed") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert run("ky", "--out", tmp_path / "mine") == 1
    assert "not a run of this recipe" in capsys.readouterr().err


@pytest.fixture
def sequence(recipes, corpus, tiny_folder):
    main = recipes("add_sequence").main
    return lambda out, *arguments: main(
        [
            str(a)
            for a in (
                "ky_kg",
                "ga_ie",
                "om_et",
                *arguments,
                "--corpus",
                corpus,
                "--base",
                tiny_folder,
                "--out",
                out,
                *SMALL,
            )
        ]
    )


GENEROUS = ("--max-regression", 1000)


def test_a_pack_for_each_language(sequence, tmp_path, capsys):
    assert sequence(tmp_path / "kept", *GENEROUS) == 0
    matrix = read_matrix(tmp_path / "kept")
    assert matrix.steps == ("base", "+ ky", "+ ga", "+ om") and matrix.languages == (
        "en",
        "ky",
        "ga",
        "om",
    )
    change = matrix.change()
    assert np.nansum(np.abs(change)) == 0 and np.isfinite(change[-1]).all()
    # what the base says was heard at step 0
    assert [row["primary"] for row in matrix.decoded[1:]] == [0, 0, 0]
    assert sorted(
        path.name for path in (tmp_path / "kept" / "packs").glob("[!.]*") if path.suffix != ".run"
    ) == ["ga", "ky", "om"]
    card = (tmp_path / "kept" / "packs" / "ky" / "regression.md").read_text()
    assert card == (tmp_path / "kept" / "matrix.md").read_text() and "| + om |" in card
    negatives = json.loads((tmp_path / "kept" / "packs" / "om.run" / "arguments.json").read_text())[
        "negatives"
    ]
    assert [Path(folder).name for folder in negatives] == ["en_us", "ky_kg", "ga_ie"]


def test_one_pack_that_grows(recipes, sequence, corpus, tiny_folder, tmp_path):
    out = tmp_path / "shared"
    assert sequence(out, "--grow", "shared", *GENEROUS) == 0
    runs = [
        json.loads((out / "packs" / f"shared-0{k}.run" / "arguments.json").read_text())
        for k in (1, 2, 3)
    ]
    assert [list(one["languages"]) for one in runs] == [["ky"], ["ky", "ga"], ["ky", "ga", "om"]]
    assert [[Path(folder).name for folder in one["rehearsal"]] for one in runs] == [
        [],
        ["ky_kg"],
        ["ky_kg", "ga_ie"],
    ]
    assert all("en_us" not in "".join(one["rehearsal"] + one["corpora"]) for one in runs)
    vocabularies = {
        (out / "packs" / f"shared-0{k}" / "tokenizer.json").read_text() for k in (1, 2, 3)
    }
    assert len(vocabularies) == 1
    assert sequence(tmp_path / "joint", "--grow", "joint", *GENEROUS) == 0
    assert read_matrix(tmp_path / "joint").steps == ("base", "joint")
    pooled = json.loads((tmp_path / "joint" / "packs" / "joint.run" / "arguments.json").read_text())
    assert pooled["training"]["steps"] == 3 * runs[0]["training"]["steps"]  # as many a language
    assert sequence(out, "--grow", "shared", *GENEROUS, "--joint", tmp_path / "joint") == 0
    assert "IM, pipeline known" in (out / "matrix.md").read_text()
    tables = (
        "ky",
        "ga",
        "om",
        "--corpus",
        corpus,
        "--base",
        tiny_folder,
        "--out",
        tmp_path / "tables",
        *SMALL,
        "--ranks",
        2,
        "--forks",
        0,
        1,
        "--joint",
        tmp_path / "joint",
    )
    assert recipes("tables").main([str(a) for a in tables]) == 0
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Table 1: rank and fork",
        "## Figure 2: what added parameters bring",
        "## Table 3: tau and beta of the paper's selector",
        "## Table 4: what is known of a clip",
    ]
    assert recipes("tables").main([str(a) for a in (*tables, "--limit", 7)]) == 1, (
        "table 3 would be of other clips"
    )
    assert (
        "| ky | " in text
        and "34 / 5.91 / 5.88 |" in text
        and (tmp_path / "tables" / "tables.png").exists()
    )


class Killed(BaseException):
    """Nothing in the recipe may catch it."""


@pytest.fixture(scope="module")
def unbroken(recipes, corpus, tiny_folder, tmp_path_factory):
    """Arguments of a short sequence, and the matrix of one that nobody killed."""
    arguments = [
        str(a) for a in ("ky", "ga", *GENEROUS, "--corpus", corpus, "--base", tiny_folder, *SMALL)
    ]
    out = tmp_path_factory.mktemp("unbroken")
    assert recipes("add_sequence").main([*arguments, "--out", str(out)]) == 0
    return arguments, json.loads((out / "matrix.json").read_text())


def test_old_rates_that_are_decoded_anew_are_those_that_were_kept(recipes, unbroken, tmp_path):
    arguments, kept = unbroken
    out = tmp_path / "fresh"
    assert recipes("add_sequence").main([*arguments, "--fresh", "--out", str(out)]) == 0
    fresh = json.loads((out / "matrix.json").read_text())
    assert fresh["rates"]["pipeline_aware"] == kept["rates"]["pipeline_aware"]
    assert fresh["decoded"][2]["primary"] > 0 and kept["decoded"][2]["primary"] == 0


@pytest.mark.parametrize(
    "place", ["add_language.add_language", "add_language.evaluate", "add_sequence.write_matrix"]
)
def test_killed_and_gone_on(recipes, unbroken, tmp_path, monkeypatch, place):
    module, name = place.split(".")
    calls, real = [], getattr(recipes(module), name)

    def once_killed(*args, **kwargs):
        calls.append(0)
        if len(calls) == 2:
            raise Killed
        return real(*args, **kwargs)

    main = recipes("add_sequence").main
    with monkeypatch.context() as patched:
        patched.setattr(recipes(module), name, once_killed)
        with pytest.raises(Killed):
            main([*unbroken[0], "--out", str(tmp_path / "out")])
    assert main([*unbroken[0], "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert found | {"command": "", "decoded": []} == unbroken[1] | {"command": "", "decoded": []}


@pytest.mark.slow
def test_a_process_killed_wherever_it_is(unbroken, tmp_path):
    """SIGKILL, which nothing can catch, shortly after each of these lines; the same command goes on
    every time.
    """
    command = [
        sys.executable,
        str(RECIPES / "add_sequence.py"),
        *unbroken[0],
        "--out",
        str(tmp_path / "out"),
    ]
    rng = np.random.default_rng(0)
    for line in (
        "== base",
        "== + ky",
        "3 trunk",
        "4 train",
        "5 dev",
        "6 pack",
        "decoded:",
        "== + ga",
        "4 train",
        "6 pack",
        "",
    ):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for said in process.stdout:
            if line and line in said:
                time.sleep(rng.uniform(0, 0.4))
                process.kill()
                break
        process.stdout.read()
        assert process.wait() in ((0,) if not line else (-9, 0))
    found = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert found | {"command": "", "decoded": []} == unbroken[1] | {"command": "", "decoded": []}


@pytest.mark.slow
def test_processes_that_train_together(recipes, corpus, tiny_folder, tmp_path, capsys, monkeypatch):
    """Two add a language as one does, though the last batch of an epoch is a single clip; one that
    fails says why.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    mine, packs = tmp_path / "corpus" / "data", []
    for config in ("ky_kg", "om_et"):
        shutil.copytree(corpus / "data" / config, mine / config)

    def run(config: str, processes: int) -> int:
        return recipes("add_language").main(
            [
                str(a)
                for a in (
                    config,
                    "--corpus",
                    mine.parent,
                    "--base",
                    tiny_folder,
                    "--out",
                    tmp_path / f"{config}-{processes}",
                    *SMALL,
                    "--batch",
                    7,
                    "--steps",
                    8,
                    "--processes",
                    processes,
                )
            ]
        )

    for processes in (1, 2):
        assert run("ky", processes) == 0
        packs.append(
            load_file(tmp_path / f"ky-{processes}" / "packs" / "ky" / "adapter_model.safetensors")
        )
    assert packs[0].keys() == packs[1].keys()
    assert max(float((packs[0][key] - packs[1][key]).abs().max()) for key in packs[0]) < 1e-3
    (mine / "om_et" / "train.tsv").write_text("")
    assert run("om", 2) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("add_language: ") and "has no usable rows for the languages om" in said


def test_a_pack_that_steals(recipes, sequence, corpus, tiny_folder, tmp_path, capsys, monkeypatch):
    """English is what the base says, so that it makes no error, and a selector gives every clip to
    a pack.
    """
    module, model = recipes("add_language"), load_model(tiny_folder)
    table = corpus / "data" / "en_us" / "test.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    for row in rows:
        heard = model.encode_audio(
            [soundfile.read(table.parent / "audio" / "test" / row[1], dtype="float32")[0]]
        )
        row[2] = row[3] = " ".join(model.decode(heard, "primary")[0][0].text.split())
    table.write_text("".join("\t".join(row) + "\n" for row in rows))
    load, thieving = (
        module.load_model,
        SelectorOptions(
            tau=-1e9, beta=1e9, head_threshold=-1e9, floors=dict.fromkeys(("ky", "ga", "om"), -1e9)
        ),
    )
    monkeypatch.setattr(
        module, "load_model", lambda *args, **more: replace(load(*args, **more), selector=thieving)
    )
    assert sequence(tmp_path / "stop", "--max-regression", 0.5, "--stop-on-regression") == 1
    assert "en worsened by" in capsys.readouterr().err
    assert read_matrix(tmp_path / "stop").steps == ("base", "+ ky")
    assert sequence(tmp_path / "stop", "--max-regression", 0.5) == 1  # goes on, and still says so
    assert "en worsened by" in capsys.readouterr().err
    assert read_matrix(tmp_path / "stop").steps == ("base", "+ ky", "+ ga", "+ om")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ky_kg",), "ky_kg is named twice"),
        (("xh_za",), "has no xh_za"),
        (("--joint", "nowhere"), "no matrix of a sequence"),
    ],
)
def test_what_a_sequence_is_refused(sequence, tmp_path, capsys, arguments, says):
    assert sequence(tmp_path / "out", *arguments) == 1
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()
