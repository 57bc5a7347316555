r"""Compare ours with every other way of adding languages, on the same clips, steps and seeds.

    python recipes/fleurs/compare.py ky_kg ga_ie or_in om_et --corpus data/generated \
        --out runs/compare

The systems are:
- the base, zero-shot;
- full fine-tuning of the Whisper;
- the usual recipe for it: LoRA of rank 32 on q and v, learning rate 1e-3 (only where it is named,
  as --systems "LoRA, q and v"; "..., a tenth of the steps" takes about a pack's time);
- LoRA on its encoder and decoder;
- full fine-tuning with replay: a tenth of the corpus's clips of the base's languages;
- the paper's two baselines: decoder-only, and a supplementary encoder layer;
- ours with each decoder, and (where it is named) ours with the base's own vocabulary.

All systems that add parameters add as many. Those that change the Whisper learn the languages one
after the other; a pack learns its own alone. Learning rates are chosen from one grid on dev of the
first language, with the first seed.

Transcription is compared, not routing: a pack is given its clips (pipeline-aware), a changed
Whisper predicts the tag itself. The base's languages are measured again after the last language.
Finished cells (OUT/cells) are kept, so that a stopped run goes on. OUT/compare.md, .json and .png
are the result.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from add_language import arguments_of, begin, configs_of, open_out, run, say, write_result
from alternatives import (
    Make,
    Supplementary,
    parameters,
    rank_for,
    units_for,
    whole_rank,
)
from cells import (
    Comparison,
    Place,
    Shape,
    Whole,
    cell,
    fit_shape,
    fit_whole,
    load_shape,
    load_whole,
    on_test,
    tables_of,
)

from dualasr.errors import CorpusError, RunError
from dualasr.evaluation.markdown import markdown_table
from dualasr.evaluation.plots import new_figure, save_figure
from dualasr.evaluation.scoring import scores_of
from dualasr.languages import language_of
from dualasr.metrics import paired_bootstrap
from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.las_decoder import LASOptions
from dualasr.model.secondary import DECODERS, Secondary, SecondaryOptions
from dualasr.training.prepare import make_tokenizer, read_corpora

ZERO_SHOT = "zero-shot"
IF_NAMED = ("LoRA, q and v", "LoRA, q and v, a tenth of the steps", "ours, base's vocabulary")
USUAL = Whole(32, targets=("q_proj", "v_proj"), rates=(1e-3,))


def systems_of(comparison: Comparison, rank: int) -> dict[str, Whole | Shape]:
    """Make the systems by name.

    All LoRA and packs add as many parameters as ours with the base's decoder. The sizes are
    computed on the first language.
    """
    options = comparison.options(comparison.setting.out, comparison.languages[0], 1e-3, 1)
    backbone, train = comparison.backbone, read_corpora(options, comparison.backbone.window_s).train
    tokenizer = make_tokenizer(options, backbone, train)
    shape = SecondaryOptions(rank=rank, fork=comparison.setting.secondary.fork)
    wanted = parameters(Secondary, backbone, tokenizer, shape)

    def with_units(make: Make, shape: SecondaryOptions) -> SecondaryOptions:
        return replace(
            shape, las=LASOptions(units=units_for(make, backbone, tokenizer, shape, wanted))
        )

    las = SecondaryOptions(rank=0, fork=backbone.layers, decoder="las")
    ours = {
        "las": with_units(Secondary, replace(shape, decoder="las")),
        "whisper": shape,
        "ctc": replace(
            shape,
            rank=rank_for(backbone, tokenizer, replace(shape, decoder="ctc"), wanted),
            decoder="ctc",
        ),
    }
    return {
        "full fine-tuning": Whole(),
        "LoRA, encoder and decoder": Whole(whole_rank(backbone, wanted)),
        "full fine-tuning, replay": Whole(replay=0.1),
        "decoder-only": Shape(Secondary, with_units(Secondary, las)),
        "supplementary layer": Shape(Supplementary, with_units(Supplementary, las)),
        **{f"ours, {kind}": Shape(Secondary, ours[kind]) for kind in DECODERS},
        "LoRA, q and v": USUAL,
        "LoRA, q and v, a tenth of the steps": replace(USUAL, steps=0.1),
        "ours, base's vocabulary": Shape(Secondary, shape, "base"),
    }


def fill(
    comparison: Comparison, systems: dict, rates: Sequence[float], seeds: Sequence[int]
) -> dict[str, dict]:
    """Make all cells: each system's chosen rate, dev CER by rate, and cells by (seed, language).

    Test clips are used at the chosen rate alone.
    """
    found, first = {}, seeds[0]
    for name, system in systems.items():
        folder = comparison.setting.out / "cells" / name.replace(", ", "-").replace(" ", "-")
        fit, load = (
            (fit_whole, load_whole) if isinstance(system, Whole) else (fit_shape, load_shape)
        )

        def fitted(place: Place, fit=fit, system=system) -> dict:
            return cell(place.file(".json"), lambda: fit(comparison, system, place))

        def tested(place: Place, fitted=fitted, load=load, system=system) -> dict:
            made, timed = fitted(place), (place.seed, place.k) == (first, 0)
            return made | cell(
                place.file("-test.json"),
                lambda: on_test(
                    comparison, load(comparison, system, place, made), place.k, timed=timed
                ),
            )

        grid = system.rates or rates
        tuned = {rate: fitted(Place(folder, rate, first, 0))["dev_cer"] for rate in grid}
        best = min(tuned, key=tuned.get)
        say(
            f"{name}: dev CER "
            + ", ".join(f"{rate:g}: {100 * cer:.1f} %" for rate, cer in tuned.items())
        )
        places = [
            Place(folder, best, seed, k) for seed in seeds for k in range(len(comparison.languages))
        ]
        found[name] = {
            "rate": best,
            "tuned": tuned,
            "cells": {(place.seed, place.k): tested(place) for place in places},
        }
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
    return found


def summary(comparison: Comparison, base: dict, found: dict[str, dict], ours: str) -> list[dict]:
    """Make the table, a row for each system."""
    codes, old = (
        [one.code for one in comparison.languages],
        [language_of(config).code for config in comparison.setting.old],
    )

    def pooled(tables: Sequence[dict]) -> dict:
        """Add up each sentence's errors over several seeds."""
        return {
            m: {rate: sum(np.array(t[m][rate]) for t in tables) for rate in ("wer", "cer")}
            for m in ("marks", "whisper")
        }

    def rates_of(tables: list[dict]) -> dict:
        return scores_of(tables, 1000, 0)

    def new_tables(cells: dict) -> list[dict]:
        return [
            pooled([cell["tables"][code] for (_, k), cell in cells.items() if k == i])
            for i, code in enumerate(codes)
        ]

    zero = {code: pooled([base["tables"][code]]) for code in (*old, *codes)}
    rows = [{"system": ZERO_SHOT, "parameters": 0, **rates_of([zero[code] for code in codes])}]
    reference = np.concatenate([t["marks"]["cer"] for t in new_tables(found[ours]["cells"])])
    wer = {code: scores_of([zero[code]], 0, 0)["wer"] for code in old}
    for name, system in found.items():
        cells = system["cells"]
        tables = new_tables(cells)
        row = {
            "system": name,
            "rate": system["rate"],
            "tuned": system["tuned"],
            **rates_of(tables),
            "parameters": max(cell["parameters"] for cell in cells.values()),
            "by_language": {
                code: scores_of([t], 0, 0)["cer"] for code, t in zip(codes, tables, strict=True)
            },
            "dev_cer": statistics.mean(cell["dev_cer"] for cell in cells.values()),
            "seconds": statistics.median(cell["seconds"] for cell in cells.values()),
            "tokens_per_character": statistics.mean(
                cell["tokens_per_character"] for cell in cells.values()
            ),
            "cost": next(cell["cost"] for (_, k), cell in cells.items() if k == 0),
        }
        ends = [cell for (_, k), cell in cells.items() if k + 1 == len(codes)]
        row["base_change"], row["bwt"] = 0.0, 0.0
        if all(code in ends[0]["tables"] for code in old):
            after = {
                code: scores_of([pooled([end["tables"][code] for end in ends])], 0, 0)["wer"]
                for code in (*old, *codes)
            }
            row["base_change"] = float(np.mean([after[code] - wer[code] for code in old]))
            learnt = [scores_of([t], 0, 0)["wer"] for t in tables[:-1]]
            lost = [after[code] - rate for code, rate in zip(codes, learnt, strict=False)]
            row["bwt"] = -float(np.mean([row["base_change"], *lost]))
        if name != ours:
            theirs = np.concatenate([t["marks"]["cer"] for t in tables])
            row["ours_relative"] = paired_bootstrap(reference, theirs, samples=2000, relative=True)
        rows.append(row)
    return rows


def to_markdown(rows: list[dict], ours: str, limit: int, command: str) -> str:
    head = (
        "system",
        "added parameters",
        "learning rate",
        "tokens a character",
        "dev CER",
        "CER",
        "WER",
        f"{ours} against it, CER",
        "base's WER",
        "BWT",
        "training, s a language",
        "inference, base = 1",
    )
    table = []
    for row in rows:
        low, high = row["cer_interval"]
        cells = dict.fromkeys(head, "") | {
            "system": row["system"],
            "added parameters": f"{row['parameters']:,}",
            "CER": f"{100 * row['cer']:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
            "WER": f"{100 * row['wer']:.1f}",
        }
        if "rate" in row:
            cells |= {
                "learning rate": f"{row['rate']:g}",
                "tokens a character": f"{row['tokens_per_character']:.2f}",
                "dev CER": f"{100 * row['dev_cer']:.1f}",
                "base's WER": f"{100 * row['base_change']:+.1f}",
                "BWT": f"{100 * row['bwt']:+.1f}",
                "training, s a language": f"{row['seconds']:.0f}",
                "inference, base = 1": f"{row['cost']:.2f}",
            }
        if gain := row.get("ours_relative"):
            cells[f"{ours} against it, CER"] = (
                f"{100 * gain[0]:+.1f} % [{100 * gain[1]:+.1f}, {100 * gain[2]:+.1f}]"
            )
        table.append(tuple(cells.values()))
    codes = list(rows[1]["by_language"])
    by_language = [
        (row["system"], *(f"{100 * row['by_language'][code]:.1f}" for code in codes))
        for row in rows[1:]
    ]
    grid = sorted({rate for row in rows[1:] for rate in row["tuned"]}, key=float)
    tuned = [
        (
            row["system"],
            *(f"{100 * row['tuned'][r]:.1f}" if r in row["tuned"] else "" for r in grid),
        )
        for row in rows[1:]
    ]
    return "\n".join(
        [
            "# Ways of adding languages",
            "",
            *markdown_table(head, table),
            (
                "CER and WER are the mean over the new languages, mark-safe, with the 95 %"
                " interval over sentences; the base's WER its change in points after the last"
                f" language, on {limit} test clips a language, BWT likewise (negative: forgotten; 0"
                " for packs by construction). A Whisper that is trained as a whole adds no"
                " parameters and changes all. Training: seconds of the steps alone, on a CPU those"
                " of its cores; the trunk activations of a pack are computed once and kept. A pack"
                " is given its own clips, and is trained with CTC, whose candidates are searched"
                " beside the decoder's; a changed Whisper predicts the tag itself and has its"
                " decoder alone, on dev with a beam of 1. Replay uses a tenth of the corpus's"
                " training clips of the base's languages."
            ),
            "",
            "## CER by language",
            "",
            *markdown_table(("system", *codes), by_language),
            "## Dev CER of the first language by learning rate",
            "",
            *markdown_table(("system", *(f"{float(rate):g}" for rate in grid)), tuned),
            "![](compare.png)",
            "",
            f"Made by `{command}`.",
            "",
        ]
    )


def draw(rows: list[dict], path: Path) -> None:
    """Plot CER of the new languages by system, with what each costs the base's languages."""
    figure = new_figure(8, 0.42 * len(rows) + 1.4)
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    cers = np.array(
        [
            [100 * row["cer"], *(100 * abs(row["cer"] - end) for end in row["cer_interval"])]
            for row in rows
        ]
    )
    colours = ["C0" if row["system"].startswith("ours") else "0.6" for row in rows]
    axes.barh(
        places,
        cers[:, 0],
        xerr=cers[:, 1:].T,
        color=colours,
        height=0.65,
        error_kw={"elinewidth": 1},
    )
    for place, row, (cer, _, high) in zip(places, rows, cers, strict=True):
        note = f"{cer:.1f}" + (
            f"   base {100 * row['base_change']:+.1f} WER"
            if row.get("base_change") is not None
            else ""
        )
        axes.text(cer + high + 0.6, place, note, va="center", fontsize=8)
    axes.set_yticks(places, [row["system"] for row in rows])
    axes.set(xlabel="CER of the new languages, %, and what the base's languages lost")
    axes.set_xlim(right=1.25 * cers[:, 0].max())
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def compare(args: argparse.Namespace) -> int:
    languages, setting, backbone = begin(args, args.configs)
    if not setting.old:
        raise CorpusError(
            f"What adding a language costs the base is compared, too: {args.corpus} must hold a"
            " language of it."
        )
    about = {
        "configs": [one.config for one in languages],
        "rates": args.rates,
        "seeds": args.seeds,
        "limit": args.old_clips,
        "padded": args.padded,
    }
    tags = dict(pair.split("=", 1) for pair in args.tag)
    about |= {"tags": tags} if tags else {}
    open_out(args.out, asdict(setting) | about)
    comparison = Comparison(setting, backbone, languages, args.old_clips, args.padded, tags)
    systems, ours = systems_of(comparison, args.rank), f"ours, {args.decoder}"
    if args.systems:
        if unknown := set(args.systems) - set(systems):
            raise RunError(
                f"No system is named {' or '.join(sorted(unknown))}; there are:"
                f" {'; '.join(systems)}."
            )
    named = args.systems or [name for name in systems if name not in IF_NAMED]
    systems = {name: system for name, system in systems.items() if name in (*named, ours)}
    base = cell(
        args.out / "cells" / ZERO_SHOT / "0.json",
        lambda: {
            "tables": tables_of(comparison, DualWhisper(comparison.backbone), comparison.configs)
        },
    )
    found = fill(comparison, systems, args.rates, args.seeds)
    rows = summary(comparison, base, found, ours)
    draw(rows, args.out / "compare.png")
    write_result(
        args.out / "compare",
        {"command": args.command, "rows": rows},
        to_markdown(rows, ours, args.old_clips, args.command),
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configs_of(parser)
    arguments_of(
        parser, without=("--negatives", "--learning-rate", "--seed", "--processes", "--fresh")
    )
    parser.set_defaults(steps=200, rank=36)
    g = parser.add_argument_group("comparison")
    g.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[2e-4, 1e-3, 4e-3],
        help="learning rates (%(default)s)",
    )
    g.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="(%(default)s)")
    g.add_argument(
        "--old-clips",
        type=int,
        default=62,
        help="test clips of each language of the base (%(default)s)",
    )
    g.add_argument(
        "--padded",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of the batches that fill the whole window while a Whisper is trained (%(default)s)",
    )
    g.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="CODE=TAG",
        help="the base's tag that a changed Whisper learns to write for a new language",
    )
    g.add_argument(
        "--systems", nargs="+", metavar="NAME", help="some of them; ours is always there"
    )
    return run(compare, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
