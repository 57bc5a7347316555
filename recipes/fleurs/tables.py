r"""Make the paper's tables in miniature, with its own figures beside ours.

    python recipes/fleurs/tables.py ky_kg ga_ie or_in om_et --corpus data/generated \
        --out runs/tables --decoder las \
        --joint runs/joint --sequence runs/sequence --compare runs/compare

Table 1   Rank and fork: one pack of all languages for each cell, trained here; CER on test.
Figure 2  Parameters against CER, of the same packs and of the systems of --compare.
Table 2   The ways of adding languages, from a run of compare.py (--compare).
Table 3   tau and beta of the paper's selector, on the pack of a run of add_sequence.py with
          --grow joint (--joint).
Table 4   Each language zero-shot, group-aware and agnostic, of that run and of one with
          --grow pack (--sequence).

A table whose run is not named is left out. Finished cells (OUT/cells) are kept, so that a stopped
run goes on. OUT/tables.md, .json and .png are the result. The paper, arXiv 2406.07842, has
whisper-large-v2 on FLEURS' nineteen; the body of its Table 3 was not published.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from add_language import Setting, arguments_of, begin, configs_of, open_out, run, write_result
from alternatives import BATCH, fit_pack
from cells import MOST_NEW_TOKENS, cell, errors_of
from scipy.stats import spearmanr

from dualasr.audio.load import load_audio
from dualasr.errors import RunError
from dualasr.evaluation.continual import Matrix, read_finished
from dualasr.evaluation.markdown import markdown_table
from dualasr.evaluation.plots import new_figure, save_figure
from dualasr.evaluation.scoring import scores_of
from dualasr.languages import FleursLanguage
from dualasr.metrics import character_errors, comparable
from dualasr.model.dual_whisper import DecodeOptions, DualWhisper
from dualasr.model.search import Hypothesis
from dualasr.model.selector import PRIMARY, PackScore, SelectorOptions, rescore, select
from dualasr.model.whisper import Backbone
from dualasr.packs.load import load_model
from dualasr.training.options import AddLanguageOptions

# CER %, 19 languages: by rank, at forks 0, 8, 16, 24, 28 and 30 of 32 layers (Table 1); by system
# (Table 2)
PAPER_FORKS = (0, 8, 16, 24, 28, 30)
PAPER_RANKS = {
    128: (11.49, 11.46, 11.67, 12.97, 14.32, 15.24),
    256: (11.36, 11.38, 11.47, 12.55, 13.96, 15.11),
    512: (11.40, 11.25, 11.18, 12.34, 13.55, 15.09),
}
PAPER_SIZES = ((10.7, 15.09), (21.2, 12.79))  # millions of added parameters and CER % (Figure 2)
PAPER_SYSTEMS = {
    "zero-shot": 81.62,
    "decoder-only": 19.21,
    "supplementary layer": 14.88,
    "ours, las": 11.18,
}
PAPER_LANGUAGES = {  # zero-shot, group-aware, agnostic (Table 4)
    "ast": (13.3, 7.25, 7.25),
    "ceb": (17.1, 5.09, 5.09),
    "ff": (98.4, 17.43, 17.44),
    "lg": (48.8, 9.76, 9.76),
    "ig": (71.6, 13.56, 15.00),
    "ga": (61.8, 24.31, 24.31),
    "kea": (32.9, 5.48, 5.48),
    "kam": (88.2, 13.51, 15.22),
    "ky": (34.0, 5.91, 5.88),
    "luo": (74.7, 6.18, 6.32),
    "nso": (214, 8.58, 10.09),
    "ny": (87.3, 8.59, 8.99),
    "or": (67.8, 12.64, 12.64),
    "om": (120, 16.15, 16.15),
    "ckb": (77.8, 9.34, 9.98),
    "umb": (88.9, 18.47, 24.62),
    "wo": (179, 15.39, 16.77),
    "xh": (63.3, 7.74, 7.74),
    "zu": (63.3, 7.09, 7.10),
}
TAUS, BETAS = (0.0, 0.1, 0.5, 1.0, 3.0), (0.0, 0.15, 0.3, 0.6)


def grid_cell(
    setting: Setting, backbone: Backbone, languages: Sequence[FleursLanguage], rank: int, fork: int
) -> dict:
    """Train a pack of all languages, and measure its CER by language."""
    options = AddLanguageOptions(
        base=setting.base,
        generated_negatives=False,
        corpora=tuple(setting.folder(one.config) for one in languages),
        languages={one.code: one.name for one in languages},
        out=setting.out / "cells" / f"{rank}-{fork}",
        cache=setting.out / "trunk-cache",
        device=setting.device,
        training=setting.training,
        secondary=replace(setting.secondary, rank=rank, fork=fork),
    )
    pack = fit_pack(options, backbone).pack
    model, cers = DualWhisper(backbone).with_pack(pack), {}
    for one in languages:
        tables = errors_of(model, setting.read(one.config, "test").utterances, setting.beam)
        cers[one.code] = scores_of([tables], 0, 0)["cer"]
    return {"cer": cers, "parameters": sum(p.numel() for _, p in pack.secondary.own_tensors())}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the paper's selector knows of a clip, and the hypotheses of both pipelines."""

    language: str
    ref: str
    seconds: float
    best_tag: float
    score: PackScore
    primary: Hypothesis
    secondary: Hypothesis

    def routed(self, options: SelectorOptions) -> tuple[str, bool]:
        """Return the transcript, and whether both pipelines had to decode."""
        first = select(self.best_tag, [self.score], options)
        last = first
        if not first.final:
            last, _ = rescore(
                first, self.score, self.primary, self.secondary, self.seconds, options
            )
        return (self.primary if last.route == PRIMARY else self.secondary).text, not first.final


def evidence_of(setting: Setting, pack: Path, configs: Sequence[str], limit: int) -> list[Evidence]:
    """Decode every clip by both pipelines, once."""
    model = load_model(
        setting.base, [pack], device=setting.device, selector=SelectorOptions.paper()
    )
    (name,), found = model.packs, []
    options = DecodeOptions(beam=setting.beam, generate={"max_new_tokens": MOST_NEW_TOKENS})
    for config in configs:
        clips = setting.read(config, "test").utterances[:limit]
        for first in range(0, len(clips), BATCH):
            group = clips[first : first + BATCH]
            audio = model.encode_audio(
                [load_audio(u.sound)[: model.backbone.window_samples] for u in group]
            )
            pack_scores, _ = model.score_packs(audio)
            both = [model.decode(audio, route, options=options)[0] for route in (PRIMARY, name)]
            best = audio.language_log_probs.max(-1).values.tolist()
            found += [
                Evidence(
                    language=u.language,
                    ref=u.text,
                    seconds=audio.seconds[i],
                    best_tag=best[i],
                    score=pack_scores[i][0],
                    primary=both[0][i],
                    secondary=both[1][i],
                )
                for i, u in enumerate(group)
            ]
    return found


def sweep(found: Sequence[Evidence], new: Sequence[str]) -> list[dict]:
    """Measure CER at every tau and beta: the means over the new and over the old languages."""
    rows, codes = [], sorted({clip.language for clip in found})
    for tau in TAUS:
        for beta in BETAS:
            routed = [
                clip.routed(SelectorOptions(rule="paper", tau=tau, beta=beta, max_candidates=None))
                for clip in found
            ]
            cers = {}
            for code in codes:
                mine = [
                    (clip, text)
                    for clip, (text, _) in zip(found, routed, strict=True)
                    if clip.language == code
                ]
                refs, hyps = (
                    comparable(side, code, "marks")[1]
                    for side in ([c.ref for c, _ in mine], [t for _, t in mine])
                )
                cers[code] = character_errors(refs, hyps).rate
            rows.append(
                {
                    "tau": tau,
                    "beta": beta,
                    "new": float(np.mean([cers[code] for code in codes if code in new])),
                    "old": float(np.mean([cers[code] for code in codes if code not in new])),
                    "twice": float(np.mean([twice for _, twice in routed])),
                }
            )
    return rows


def table_1(grid: dict[tuple[int, int], dict], layers: int) -> list[str]:
    ranks, forks = sorted({rank for rank, _ in grid if rank}), sorted({fork for _, fork in grid})
    rows = [("0", *[_pct(mean_cer(grid[0, layers])) if fork == layers else "" for fork in forks])]
    for rank in ranks:
        rows.append(
            (
                str(rank),
                *(
                    _pct(mean_cer(grid[rank, fork])) if (rank, fork) in grid else ""
                    for fork in forks
                ),
            )
        )
    theirs = [(str(rank), *(f"{cer:.2f}" for cer in row)) for rank, row in PAPER_RANKS.items()]
    lines = [
        "## Table 1: rank and fork",
        "",
        f"CER, %, the mean of the languages; {layers} encoder layers, LoRA from the fork on:",
        "",
        *markdown_table((r"rank \ fork", *map(str, forks)), rows),
        "The paper, 32 layers:",
        "",
        *markdown_table((r"rank \ fork", *map(str, PAPER_FORKS)), theirs),
    ]
    half, last = layers // 2, max((fork for fork in forks if fork < layers), default=0)
    if not ranks or not {0, half} <= set(forks):
        return [
            *lines,
            (
                "Forks 0 and half depth are not both here: whether the paper's trend holds is not"
                " said."
            ),
            "",
        ]
    ours = [np.mean([mean_cer(grid[rank, fork]) for rank in ranks]) for fork in (0, half, last)]
    paper = [
        np.mean([row[PAPER_FORKS.index(fork)] for row in PAPER_RANKS.values()])
        for fork in (0, 16, 30)
    ]
    change = [
        [100 * (late / early - 1) for early, late in ((side[0], side[1]), (side[1], side[2]))]
        for side in (ours, paper)
    ]
    holds = abs(change[0][0]) < 10 and change[0][1] > 5
    sentence = (
        f"From fork 0 to half depth CER changes by {change[0][0]:+.0f} % (paper:"
        f" {change[1][0]:+.0f} %), from there to the last fork by {change[0][1]:+.0f} % (paper:"
        f" {change[1][1]:+.0f} %): that half the layers can be shared for nothing"
        f" {'holds' if holds else 'does not hold'} here."
    )
    return [*lines, sentence, ""]


def mean_cer(found: dict) -> float:
    return float(np.mean(list(found["cer"].values())))


def _pct(rate: float) -> str:
    return "" if np.isnan(rate) else f"{100 * rate:.1f}"


def figure_2(grid: dict[tuple[int, int], dict]) -> list[str]:
    points = sorted(
        (found["parameters"], mean_cer(found)) for (rank, _), found in grid.items() if rank
    )
    lines = [
        "## Figure 2: what added parameters bring",
        "",
        "![](tables.png)",
        "",
        (
            "Circles: one pack of all languages; crosses: what one language adds, systems of"
            " --compare."
        ),
        "",
    ]
    if len(points) < 3:
        return lines
    order = float(spearmanr(*zip(*points, strict=True)).statistic)
    paper = "; ".join(f"{cer:.2f} % at {millions:g} M" for millions, cer in PAPER_SIZES)
    return [
        *lines,
        (
            f"Rank correlation of parameters and CER over {len(points)} packs: {order:+.2f}. In the"
            f" paper CER falls as they grow ({paper}): that"
            f" {'holds' if order < -0.3 else 'does not hold'} here."
        ),
        "",
    ]


def table_2(rows: list[dict]) -> list[str]:
    cers = {row["system"]: 100 * row["cer"] for row in rows}
    named = [
        (name, f"{cer:.1f}", f"{PAPER_SYSTEMS[name]:.2f}" if name in PAPER_SYSTEMS else "")
        for name, cer in cers.items()
    ]
    lines = [
        "## Table 2: systems",
        "",
        *markdown_table(("system", "CER, %", "paper"), named),
        (
            "Ours add equally many parameters. The paper's differ: decoder-only adds 10.0 M, the"
            " supplementary layer 28.7 M, the dual pipeline about 199 M (rank 512); at 21.2 M it"
            " has 12.79 %."
        ),
        "",
    ]
    pair = [cers.get(name) for name in ("ours, las", "supplementary layer", "decoder-only")]
    if all(pair):
        holds = pair[0] < pair[1] < pair[2]
        lines += [
            (
                "The paper's order, dual pipeline before supplementary layer before decoder-only, "
                f"{'holds' if holds else 'does not hold'} here."
            ),
            "",
        ]
    return lines


def table_3(rows: list[dict]) -> list[str]:
    lines = ["## Table 3: tau and beta of the paper's selector", ""]
    for key, words in (("new", "new languages"), ("old", "old languages")):
        cells = [
            (
                f"{tau:g}",
                *(
                    _pct(next(r[key] for r in rows if (r["tau"], r["beta"]) == (tau, beta)))
                    for beta in BETAS
                ),
            )
            for tau in TAUS
        ]
        lines += [
            f"CER, %, {words}, by tau (rows) and beta:",
            "",
            *markdown_table(("tau", *map(str, BETAS)), cells),
        ]
    twice = [
        (f"{tau:g}", f"{100 * next(r['twice'] for r in rows if r['tau'] == tau):.1f} %")
        for tau in TAUS
    ]
    lines += ["Clips that both pipelines decode:", "", *markdown_table(("tau", "share"), twice)]
    best = min(rows, key=lambda row: row["new"] + row["old"])
    return [
        *lines,
        (
            f"Lowest over both: tau {best['tau']:g}, beta {best['beta']:g}; the paper chose tau 0.5"
            " and beta 0.15 or 0.3."
        ),
        "",
    ]


def table_4(runs: dict[str, Matrix], new: Sequence[str]) -> list[str]:
    head = ["language"]
    for name in runs:
        head += [f"{name}: zero-shot", "group-aware", "agnostic"]
    rows, lost = [], {name: [] for name in runs}
    for code in new:
        cells = [code]
        for name, matrix in runs.items():
            i = matrix.languages.index(code)
            found = [
                matrix.table("pipeline_aware")[0, i],
                matrix.table("group_aware")[-1, i],
                matrix.table("agnostic")[-1, i],
            ]
            cells += [_pct(rate) for rate in found]
            lost[name].append(100 * (found[2] - found[1]))
        rows.append((*cells, " / ".join(f"{cer:g}" for cer in PAPER_LANGUAGES.get(code, ()))))
    return [
        "## Table 4: what is known of a clip",
        "",
        "CER, %:",
        "",
        *markdown_table((*head, "paper"), rows),
        "Going agnostic costs "
        + ", ".join(f"{np.mean(points):+.2f} points ({name})" for name, points in lost.items())
        + " on average. The paper, of one pack: +0.71; that it costs less than a point "
        + ("holds" if max(map(np.mean, lost.values())) < 1 else "does not hold")
        + " here.",
        "",
    ]


def draw(grid: dict[tuple[int, int], dict], rows: list[dict], path: Path) -> None:
    """Plot figure 2: added parameters against CER, a line for each fork.

    Crosses are the systems of the comparison.
    """
    from matplotlib import ticker

    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    for k, fork in enumerate(sorted({fork for rank, fork in grid if rank})):
        points = sorted(
            (found["parameters"] / 1e6, 100 * mean_cer(found))
            for (rank, at), found in grid.items()
            if at == fork and rank
        )
        axes.plot(
            *zip(*points, strict=True), "o-", color=f"C{k}", markersize=4, label=f"fork {fork}"
        )
    (alone,) = [found for (rank, _), found in grid.items() if not rank]
    axes.plot(alone["parameters"] / 1e6, 100 * mean_cer(alone), "ks", markersize=5, label="rank 0")
    for row in rows:
        if row["parameters"]:
            axes.plot(row["parameters"] / 1e6, 100 * row["cer"], "x", color="0.4")
            axes.annotate(
                row["system"],
                (row["parameters"] / 1e6, 100 * row["cer"]),
                fontsize=7,
                color="0.4",
                textcoords="offset points",
                xytext=(4, 3),
            )
    axes.plot(
        *zip(*PAPER_SIZES, strict=True),
        "+--",
        color="0.7",
        markersize=6,
        linewidth=0.8,
        label="paper",
    )
    axes.set(
        xscale="log",
        xlabel="added parameters, millions",
        ylabel="CER, %",
        title="What added parameters bring",
    )
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def tables(args: argparse.Namespace) -> int:
    languages, setting, backbone = begin(args, args.configs)
    codes = [one.code for one in languages]
    runs = {
        name: read_finished(folder, grow, codes)
        for name, folder, grow in (
            ("joint", args.joint, "joint"),
            ("a pack each", args.sequence, "pack"),
        )
        if folder
    }
    if args.joint and not setting.old:
        raise RunError(
            f"Table 3 is of old and new languages; {args.corpus} holds no language of the base."
        )
    systems = read_rows(args.compare) if args.compare else []
    layers = backbone.layers
    others = {
        "limit": args.limit,
        "joint": args.joint,
        "sequence": args.sequence,
        "compare": args.compare,
    }
    open_out(args.out, asdict(setting) | {"configs": [one.config for one in languages]} | others)
    wanted = [
        (0, layers),
        *((rank, fork) for rank in args.ranks if rank for fork in args.forks or range(layers)),
    ]
    cells, grid = args.out / "cells", {}
    for rank, fork in wanted:
        grid[rank, fork] = cell(
            cells / f"{rank}-{fork}.json",
            lambda one=(rank, fork): grid_cell(setting, backbone, languages, *one),
        )
    lines = ["# The paper's tables in miniature", ""]
    found = {"grid": [{"rank": rank, "fork": fork, **row} for (rank, fork), row in grid.items()]}
    lines += table_1(grid, layers) + figure_2(grid)
    if systems:
        lines += table_2(systems)
    if args.joint:
        configs = [*setting.old, *(one.config for one in languages)]
        pack = args.joint / "packs" / "joint"
        found["tau_beta"] = cell(
            cells / "tau-beta.json",
            lambda: sweep(evidence_of(setting, pack, configs, args.limit), codes),
        )
        lines += table_3(found["tau_beta"])
    if runs:
        lines += table_4(runs, codes)
    draw(grid, systems, args.out / "tables.png")
    write_result(
        args.out / "tables",
        {"command": args.command, **found},
        "\n".join([*lines, f"Made by `{args.command}`.", ""]),
    )
    return 0


def read_rows(folder: Path) -> list[dict]:
    """Read the rows of a compare.py run. Raises RunError."""
    try:
        return json.loads((folder / "compare.json").read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder} is no finished run of compare.py ({error}).") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tables.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configs_of(parser)
    arguments_of(parser, without=("--negatives", "--rank", "--fork", "--processes", "--fresh"))
    parser.set_defaults(steps=400)
    g = parser.add_argument_group("tables")
    g.add_argument(
        "--ranks", type=int, nargs="+", default=[4, 16, 64], help="beside 0 (%(default)s)"
    )
    g.add_argument("--forks", type=int, nargs="+", default=None, help="(every layer)")
    g.add_argument(
        "--limit", type=int, default=100, help="test clips a language for table 3 (%(default)s)"
    )
    g.add_argument("--joint", type=Path, metavar="RUN", help="of add_sequence.py --grow joint")
    g.add_argument("--sequence", type=Path, metavar="RUN", help="of add_sequence.py --grow pack")
    g.add_argument("--compare", type=Path, metavar="RUN", help="of compare.py")
    return run(tables, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
