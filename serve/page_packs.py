"""The loaded language packs as HTML: languages, structure, scores, model card and plots of each."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

from dualasr.model.dual_whisper import DualWhisper
from dualasr.model.pack import Pack
from dualasr.model.whisper import Backbone
from dualasr.packs.folder import pack_size
from dualasr.packs.format import REGRESSION, model_card

from .markdown import markdown_html
from .page_html import COLOURS, bar_html, chip_html
from .routes import base_name

DECODERS = {
    "whisper": "the base's own, with LoRA",
    "las": "LSTM with attention",
    "ctc": "only a CTC head",
}
MOST_PLOT_BYTES = 2_000_000
MOST_PLOTS = 6
_RATES = ("CER", "WER", "MER", "accuracy", "error")  # names of scores that are drawn as bars


def packs_html(model: DualWhisper) -> str:
    """Return the base, then a card for each pack."""
    backbone, count = model.backbone, len(model.packs)
    known = f"{len(backbone.languages) or 1} languages"
    loaded = (
        f"{count} language pack{'s' * (count != 1)} loaded" if count else "no language pack loaded"
    )
    head = (
        f'<p class="lead">Base: <strong>{escape(base_name(backbone))}</strong>, {known}; packs'
        f" do not change it; {loaded}.</p>"
    )
    if not count:
        head += (
            '<p class="box note">A pack adds a new language. Train one with <code>dualasr'
            " add-language</code>, and start the server with <code>--pack</code>.</p>"
        )
    cards = "".join(
        _card(pack, backbone, number) for number, pack in enumerate(model.packs.values())
    )
    return f'<div class="packs">{head}{cards}</div>'


def _card(pack: Pack, backbone: Backbone, number: int) -> str:
    info, options, folder = pack.info, pack.secondary.options, pack.folder
    names = "".join(
        f'<li>{escape(name)} <span class="quiet">{escape(code)}</span></li>'
        for code, name in info.languages.items()
    )
    parameters = sum(tensor.numel() for _, tensor in pack.secondary.own_tensors())
    facts = {
        "Decoder": DECODERS.get(options.decoder, options.decoder),
        "Own parameters": f"{parameters:,}",
    }
    if folder is not None and folder.is_dir():
        facts["Size"] = f"{pack_size(folder):.1f} MB"
    facts["Encoder"] = (
        f"shared up to layer {options.fork}, then LoRA of rank {options.rank}"
        if options.rank
        else "no LoRA"
    )
    facts |= {
        key.capitalize(): _as_text(info.training[key])
        for key in ("hours", "corpus", "licence")
        if key in info.training
    }
    if not info.calibration.negatives:
        facts["Warning"] = (
            "trained without audio in other languages, so it may also transcribe those"
        )
    rows = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items()
    )
    plots = "".join(_plots(folder)) if folder is not None else ""
    texts = {
        "Error rates before and after it was added": _text(folder, REGRESSION),
        "Model card": _text(folder, "README.md") or model_card(info, backbone, pack.secondary),
    }
    details = "".join(
        f"<details><summary>{title}</summary><div"
        f' class="markdown">{markdown_html(text)}</div></details>'
        for title, text in texts.items()
        if text
    )
    return (
        '<article class="card pack'
        f' route-{1 + number % (COLOURS - 1)}">{chip_html(pack.name, "h3")}'
        '<ul class="languages"'
        f' aria-label="Languages">{names}</ul><dl>{rows}</dl>{scores_html(info.scores)}{plots}'
        f"{details}</article>"
    )


def scores_html(scores: Mapping) -> str:
    """Return bars for the scores that are rates, and the other scores as text.

    A score inside others is named by its path, such as "after · CER · en".
    """
    bars, others = [], []
    for path, value in _flat(scores):
        title = " · ".join(path)
        if isinstance(value, int | float) and _is_rate(path, value):
            bars.append(bar_html(title, value, f"{100 * value:.1f}&nbsp;%"))
        else:
            others.append(f"<div><dt>{escape(title)}</dt><dd>{escape(_as_text(value))}</dd></div>")
    drawn = (
        f'<div class="group"><h4 class="quiet">Scores</h4><ul>{"".join(bars)}</ul></div>'
        if bars
        else ""
    )
    return drawn + (f"<dl>{''.join(others)}</dl>" if others else "")


def _flat(scores: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _is_rate(path: Iterable[str], value: float) -> bool:
    named = any(rate.lower() in " ".join(path).lower() for rate in _RATES)
    return named and not isinstance(value, bool) and 0 <= value <= 2


def _as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(folder: Path | None, name: str) -> str:
    """Read a text in a pack's folder; "" if there is none, as a pack needs no card."""
    try:
        return (
            "" if folder is None else (folder / name).read_text(encoding="utf-8", errors="replace")
        )
    except OSError:
        return ""


def _plots(folder: Path) -> Iterator[str]:
    """Yield the PNG files of a pack's folder as data inside the page. The folder is not served."""
    for path in sorted(folder.glob("*.png"))[:MOST_PLOTS]:
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if len(data) <= MOST_PLOT_BYTES and data.startswith(b"\x89PNG"):
            encoded = base64.b64encode(data).decode()
            title = escape(path.stem.replace("-", " ").replace("_", " "))
            yield (
                f'<figure><img src="data:image/png;base64,{encoded}"'
                f' alt="{title}"><figcaption>{title}</figcaption></figure>'
            )
