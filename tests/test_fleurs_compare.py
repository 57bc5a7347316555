"""The comparison's table: known answers for hand-made cells, and the published tables against the
committed cells.
"""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dualasr.evaluation.scoring import scores_of

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "fleurs"
RESULTS = RECIPES / "results" / "compare"
OURS = "ours, whisper"


@pytest.fixture(scope="module")
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        yield importlib.import_module("compare")


def table(cer, wer):
    """Errors and lengths of sentences; by Whisper's normaliser each has one error more."""

    def more(rows):
        return [[errors + 1, length] for errors, length in rows]

    return {"marks": {"cer": cer, "wer": wer}, "whisper": {"cer": more(cer), "wer": more(wer)}}


def one(errors, length, words):
    """A table of two sentences: half of the errors each; words of 10 are wrong in the first."""
    return table([[errors, length], [errors, length]], [[words, 10], [0, 10]])


def made(tables, *, parameters=7, seconds=1.0, dev_cer=0.5, cost=9.0, tokens=1.0):
    return {
        "tables": tables,
        "parameters": parameters,
        "seconds": seconds,
        "dev_cer": dev_cer,
        "cost": cost,
        "tokens_per_character": tokens,
    }


@pytest.fixture
def comparison():
    """Two new languages beside English and German."""
    languages = tuple(SimpleNamespace(code=code) for code in ("ky", "ga"))
    return SimpleNamespace(languages=languages, setting=SimpleNamespace(old=("en_us", "de_de")))


BASE = {
    "tables": {
        "en": one(1, 100, 2),  # WER 10 %
        "de": one(2, 100, 4),  # 20 %
        "ky": one(90, 100, 10),
        "ga": one(70, 100, 10),
    }
}
# a pack: its cells hold the new language alone. CER of ky 10 and 20 %, of ga 30 and 40 %
PACK = {
    "rate": 0.004,
    "tuned": {0.001: 0.3, 0.004: 0.2},
    "cells": {
        (1, 0): made({"ky": one(10, 100, 2)}, parameters=7, seconds=1.0, dev_cer=0.1, cost=0.5),
        (1, 1): made({"ga": one(30, 100, 4)}, parameters=9, seconds=2.0, dev_cer=0.2, cost=0.9),
        (2, 0): made({"ky": one(20, 100, 4)}, parameters=8, seconds=4.0, dev_cer=0.4, cost=0.7),
        (2, 1): made({"ga": one(40, 100, 6)}, parameters=7, seconds=16.0, dev_cer=0.9, tokens=3.0),
    },
}
AFTER = {"ky": one(60, 100, 12), "ga": one(60, 100, 6)}
# a changed Whisper: after the last language it is tested on all. WER of ky 20, then 60 %
WHOLE = {
    "rate": 0.001,
    "tuned": {0.001: 0.2, 0.004: 0.25},
    "cells": {
        (1, 0): made({"ky": one(40, 100, 4)}),
        (1, 1): made(AFTER | {"en": one(1, 100, 6), "de": one(2, 100, 4)}),
        (2, 0): made({"ky": one(40, 100, 4)}),
        (2, 1): made(AFTER | {"en": one(1, 100, 10), "de": one(2, 100, 8)}),
    },
}


@pytest.fixture
def rows(recipe, comparison):
    found = {"full fine-tuning": WHOLE, OURS: PACK}
    return {row["system"]: row for row in recipe.summary(comparison, BASE, found, OURS)}


def test_the_base_alone_comes_first(recipe, rows):
    """Of the new languages: (90 + 70) / 2 % of the characters, half of the words."""
    first = rows[recipe.ZERO_SHOT]
    assert list(rows) == ["zero-shot", "full fine-tuning", OURS]
    assert (first["cer"], first["wer"], first["parameters"]) == pytest.approx((0.8, 0.5, 0))
    assert first["whisper"] == pytest.approx({"cer": 0.81, "wer": 0.6})
    assert not first.keys() & {"rate", "seconds", "bwt", "base_change"}


def test_a_pack_by_hand(rows):
    """Both seeds, each language weighing the same; and costs: mean, median, largest, the first."""
    row = rows[OURS]
    assert row["by_language"] == pytest.approx({"ky": 0.15, "ga": 0.35})
    assert row["cer"] == pytest.approx(0.25) and row["cer_interval"] == pytest.approx([0.25, 0.25])
    assert row["wer"] == pytest.approx((6 / 40 + 10 / 40) / 2)
    low, high = row["wer_interval"]
    assert low < row["wer"] < high
    assert row["whisper"]["cer"] == pytest.approx(0.26)
    assert (row["rate"], row["tuned"]) == (0.004, {0.001: 0.3, 0.004: 0.2})
    assert row["parameters"] == 9 and row["dev_cer"] == pytest.approx(0.4)
    assert row["seconds"] == pytest.approx(3.0), "the median"
    assert row["tokens_per_character"] == pytest.approx(1.5)
    assert row["cost"] == 0.5, "of the first language with the first seed, the one that was timed"
    assert row["base_change"] == row["bwt"] == 0.0 and "ours_relative" not in row


def test_intervals_are_those_of_1000_resamples_with_seed_0(recipe, comparison):
    """Of sentences that differ, so that no two draws give the same."""
    errors = np.random.default_rng(1).integers(0, 100, (2, 30))
    tables = [table(*[[[n, 100] for n in row.tolist()]] * 2) for row in errors]
    base = {"tables": BASE["tables"] | dict(zip(("ky", "ga"), tables, strict=True))}
    row = recipe.summary(comparison, base, {OURS: PACK}, OURS)[0]
    arrays = [{m: {rate: np.array(rows) for rate, rows in t[m].items()} for m in t} for t in tables]
    assert row["cer"] == pytest.approx(errors.mean() / 100)
    assert row["cer_interval"] == scores_of(arrays, 1000, 0)["cer_interval"]
    assert row["cer_interval"] != scores_of(arrays, 1000, 1)["cer_interval"]


def test_what_a_changed_whisper_forgets(rows):
    """English from 10 to 40 %, German from 20 to 30 %; Kyrgyz from 20 to 60 % of the words."""
    row = rows["full fine-tuning"]
    assert row["by_language"] == pytest.approx({"ky": 0.4, "ga": 0.6})
    assert row["cer"] == pytest.approx(0.5), "of each language right after it was learnt"
    assert row["base_change"] == pytest.approx((0.3 + 0.1) / 2)
    assert row["bwt"] == pytest.approx(-(0.2 + 0.4) / 2), "negative: forgotten"


def test_ours_against_it_is_in_its_errors(rows):
    """100 errors of ours on 400 characters against 200: half of them fewer, in every resample."""
    assert rows["full fine-tuning"]["ours_relative"][0] == pytest.approx(-0.5)
    low, high = rows["full fine-tuning"]["ours_relative"][1:]
    assert low <= -0.5 <= high < 0, "below 0: ours makes fewer"


@pytest.mark.parametrize("gain", [1, -1])
def test_a_language_that_is_remembered_better(recipe, comparison, gain):
    """The sign of BWT: a gain is positive."""
    end = {"ky": one(4, 100, 4 - 2 * gain), "ga": one(4, 100, 2)}
    old = {"en": one(1, 100, 2 - gain), "de": one(2, 100, 4 - gain)}
    cells = {(1, 0): made({"ky": one(4, 100, 4)}), (1, 1): made(end | old)}
    system = {"rate": 1.0, "tuned": {1.0: 0.0}, "cells": cells}
    ours = {place: cell for place, cell in PACK["cells"].items() if place[0] == 1}
    found = {"whole": system, OURS: PACK | {"cells": ours}}
    row = recipe.summary(comparison, BASE, found, OURS)[1]
    assert row["base_change"] == pytest.approx(-0.05 * gain)
    assert row["bwt"] == pytest.approx(gain * (0.05 + 0.1) / 2)


def test_the_rate_of_the_best_dev_cer_is_taken(recipe, comparison, tmp_path, monkeypatch):
    """Every rate with the first seed and language, all cells with the best; test at that alone."""
    comparison.setting.out, places = tmp_path, []
    dev = {0.1: 0.4, 0.2: 0.2, 0.3: 0.3}

    def fit(comparison, system, place):
        places.append(("fit", system, place.rate, place.seed, place.k))
        place.weights.parent.mkdir(parents=True, exist_ok=True)
        place.weights.write_text("weights")
        return made({}, dev_cer=dev[place.rate]) | {"ctc_weight": 0.5}

    def on_test(comparison, model, k, *, timed):
        places.append(("test", *model, k, timed))
        return {"tables": {"k": k}, "cost": 1.0 if timed else None}

    def load(comparison, system, place, found):
        assert found["dev_cer"] == dev[place.rate]
        return system, place.rate, place.seed, place.k

    for kind in ("shape", "whole"):
        monkeypatch.setattr(recipe, f"fit_{kind}", fit)
        monkeypatch.setattr(recipe, f"load_{kind}", load)
    monkeypatch.setattr(recipe, "on_test", on_test)
    systems = {"ours, a": recipe.Shape(None, None), "whole b": recipe.Whole(3)}
    found = recipe.fill(comparison, systems, [0.1, 0.2, 0.3], [5, 6])
    for name, system in systems.items():
        assert found[name]["rate"] == 0.2 and found[name]["tuned"] == dev
        assert list(found[name]["cells"]) == [(5, 0), (5, 1), (6, 0), (6, 1)]
        for (_, k), cell in found[name]["cells"].items():
            assert cell["tables"] == {"k": k} and cell["dev_cer"] == 0.2
        fits = [place[2:] for place in places if place[:2] == ("fit", system)]
        assert fits[:3] == [(0.1, 5, 0), (0.2, 5, 0), (0.3, 5, 0)]
        assert fits[3:] == [(0.2, 5, 1), (0.2, 6, 0), (0.2, 6, 1)]
        tests = [place[2:] for place in places if place[:2] == ("test", system)]
        assert tests == [
            (0.2, 5, 0, 0, True),
            (0.2, 5, 1, 1, False),
            (0.2, 6, 0, 0, False),
            (0.2, 6, 1, 1, False),
        ]
    cells = tmp_path / "cells"
    assert sorted(path.name for path in cells.iterdir()) == ["ours-a", "whole-b"]
    assert not list(cells.rglob("*.safetensors")), "weights go when a system is done"
    again = len(places)
    assert recipe.fill(comparison, systems, [0.1, 0.2, 0.3], [5, 6]) == found
    assert len(places) == again, "all cells are kept"


PAGE = """\
# Ways of adding languages

| system | added parameters | learning rate | tokens a character | dev CER | CER | WER |\
 ours, whisper against it, CER | base's WER | BWT | training, s a language | inference, base = 1 |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| zero-shot | 0 |  |  |  | 80.0 [75.0, 85.0] | 50.0 |  |  |  |  |  |
| full fine-tuning | 7,000 | 0.001 | 1.00 | 50.0 | 50.0 [50.0, 50.0] | 25.0 |\
 -50.0 % [-62.5, -37.5] | +20.0 | -30.0 | 1 | 9.00 |
| ours, whisper | 9 | 0.004 | 1.50 | 40.0 | 25.0 [25.0, 25.0] | 20.0 |  | +0.0 | +0.0 | 3 | 0.50 |

(what they are)

## CER by language

| system | ky | ga |
| --- | ---: | ---: |
| full fine-tuning | 40.0 | 60.0 |
| ours, whisper | 15.0 | 35.0 |

## Dev CER of the first language by learning rate

| system | 0.001 | 0.004 |
| --- | ---: | ---: |
| full fine-tuning | 20.0 | 25.0 |
| ours, whisper | 30.0 | 20.0 |

![](compare.png)

Made by `python recipes/fleurs/compare.py ky`.
"""


def test_the_page_says_what_the_rows_hold(recipe, rows):
    rows["zero-shot"]["cer_interval"] = (0.75, 0.85)
    rows["full fine-tuning"] |= {"ours_relative": (-0.5, -0.625, -0.375), "parameters": 7_000}
    text = recipe.to_markdown(list(rows.values()), OURS, 62, "python recipes/fleurs/compare.py ky")
    [about] = [line for line in text.splitlines() if line.startswith("CER and WER are")]
    assert "on 62 test clips a language" in about
    assert text.replace(about, "(what they are)") == PAGE


@pytest.fixture(scope="module")
def committed():
    """The rows of compare.json by system, and the committed cells."""
    rows = json.loads((RESULTS / "compare.json").read_text())["rows"]
    cells = {}
    for path in sorted((RESULTS / "cells").rglob("*-test.json")):
        place = path.name.removesuffix("-test.json")
        rate, seed, k = re.fullmatch(r"(.+)-(\d+)-(\d+)", place).groups()
        fitted = json.loads(path.with_name(f"{place}.json").read_text())
        key = (float(rate), int(seed), int(k))
        cells.setdefault(path.parent.name, {})[key] = fitted | json.loads(path.read_text())
    return {row["system"]: row for row in rows}, cells


def folder_of(system):
    return system.replace(", ", "-").replace(" ", "-")


CODES = ("ky", "ga", "or", "om")


def test_the_committed_table_is_that_of_its_cells(committed):
    """Recomputed here by plain sums, without the project's code."""
    rows, cells = committed
    assert len(rows) == 9 and len(cells) == 8
    for system, row in rows.items():
        if system == "zero-shot":
            continue
        mine = cells[folder_of(system)]
        assert {key[0] for key in mine} == {row["rate"]} and len(mine) == 8
        by_language = {}
        for k, code in enumerate(CODES):
            sums = sum(
                np.array(cell["tables"][code]["marks"]["cer"]).sum(0)
                for (_, _, place), cell in mine.items()
                if place == k
            )
            by_language[code] = sums[0] / sums[1]
        assert row["by_language"] == pytest.approx(by_language)
        assert row["cer"] == pytest.approx(np.mean(list(by_language.values())))
        assert row["seconds"] == pytest.approx(np.median([c["seconds"] for c in mine.values()]))
        assert row["rate"] == min((cer, float(rate)) for rate, cer in row["tuned"].items())[1]
        clips = {len(cell["tables"][CODES[k]]["marks"]["cer"]) for (_, _, k), cell in mine.items()}
        assert max(clips) <= 320


def cells_of(path, first):
    """The table of a page whose rows begin with this cell."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return [row for row in rows if row[0] == first]


PUBLISHED = {
    "full fine-tuning": "full fine-tuning",
    "full fine-tuning, a tenth of the old audio replayed": "full fine-tuning, replay",
    "LoRA on encoder and decoder": "LoRA, encoder and decoder",
    "decoder-only": "decoder-only",
    "supplementary encoder layer and decoder": "supplementary layer",
    "a pack with `--decoder las`, the paper's": "ours, las",
    "a pack with `--decoder ctc`": "ours, ctc",
    "a pack with `--decoder whisper`, the default": "ours, whisper",
}


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_published_numbers_are_the_committed_ones(committed, page):
    rows, cells = committed
    for title, system in PUBLISHED.items():
        [published], row = cells_of(ROOT / page, title), rows[system]
        size = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "all change"
        change = f"{100 * row['base_change']:+.1f}" if row["base_change"] else "0"
        shown = [size, f"{100 * row['cer']:.1f}", change, f"{row['seconds']:.0f}"]
        if page != "README.md":
            shown.append(f"{row['cost']:.2f}")
        assert [cell.strip("*") for cell in published[1:]] == shown, title
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    base = json.loads((RESULTS / "cells" / "zero-shot" / "0.json").read_text())["tables"]
    sums = [np.array(base[code]["marks"]["wer"]).sum(0) for code in ("bg", "de", "en", "es", "tr")]
    assert f"change from {100 * np.mean([e / n for e, n in sums]):.1f} %" in text
    las = [
        np.mean(
            [
                np.divide(*np.array(cell["tables"][CODES[k]]["marks"]["cer"]).sum(0))
                for (_, seed, k), cell in cells["ours-las"].items()
                if seed == wanted
            ]
        )
        for wanted in (1, 2)
    ]
    first, second = (f"{100 * cer:.1f}" for cer in las)
    assert re.search(rf"\b{first}\b.{{0,25}} {second}\b", text), "a mean of two unlike seeds"
    edge = [s for s, row in rows.items() if row.get("rate") == 0.004]
    assert len(edge) == 6, "docs/results.md and LOG.md say which lie at the edge of the grid"


def test_the_table_of_a_matrix_is_that_of_its_cells():
    """A sequence's AWER and BWT, recomputed from its committed rates."""
    for name in ("sequence", "shared", "joint"):
        found = json.loads((RECIPES / "results" / name / "matrix.json").read_text())
        assert found["command"].startswith("python recipes/fleurs/add_sequence.py"), name
        text = (RECIPES / "results" / name / "matrix.md").read_text(encoding="utf-8")
        assert f"Made by `{found['command']}`." in text
