"""What the page shows of an answer, as HTML. Numbers and texts in, a string out; every text is
escaped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from urllib.parse import quote

from dualasr.model.selector import PRIMARY
from dualasr.transcription.transcript import Segment, Transcription, Word

from .explanation import explain
from .routes import Decoder, by_decoder, heading_of, language_name, title_of

COLOURS = 8  # route-0 is the primary; packs take route-1 to route-7 in turn (page.css)
MOST_LANGUAGES = 3  # bars of a decoder


@dataclass(frozen=True)
class Shown:
    """What an answer is shown with: the decoders that were there, and the sound's address for the
    player.
    """

    decoders: Sequence[Decoder]
    source: str | None = None

    def colour(self, route: str) -> str:
        names = [decoder.name for decoder in self.decoders]
        place = names.index(route) if route in names else 0
        return "route-0" if route == PRIMARY else f"route-{1 + (place - 1) % (COLOURS - 1)}"


def address(path: str) -> str:
    """Where the page finds a file that gradio holds, relative to itself: behind a proxy it may lie
    anywhere.
    """
    return f"gradio_api/file={quote(path)}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 1:02:03."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float) -> str:
    """A share in whole percent, a small one as "<1 %", and never 100 % of what is not all."""
    if 0 < share < 0.01:
        return "&lt;1&nbsp;%"
    if 0.995 <= share < 0.9995:
        return "&gt;99&nbsp;%"
    return f"{100 * share:.0f}&nbsp;%"


def chip_html(text: str, tag: str = "span") -> str:
    """A name with a dot in its route's colour."""
    return f'<{tag} class="chip">{escape(text)}</{tag}>'


def bar_html(name: str, share: float, value: str) -> str:
    """An item with a bar: what, how much of the whole, and that as text (HTML)."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return (
        f'<li><span class="bar-name">{escape(name)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width:{width}"></i></span><span class="bar-value">{value}</span></li>'
    )


def note_html(text: str, kind: str = "note") -> str:
    """A sentence in a box of its own: a "note", an "error", or "busy" while something is under way."""
    role = "alert" if kind == "error" else "status"
    dots = (
        '<span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>'
        if kind == "busy"
        else ""
    )
    return f'<p class="box {escape(kind)}" role="{role}">{dots}{escape(text)}</p>'


def answer_html(result: Transcription, shown: Shown, busy: str = "") -> str:
    """A transcript with its evidence; while it is `busy` it is one that grows, and that text says
    so.
    """
    parts = [list(group) for _, group in groupby(result.segments, key=_window)]
    if busy:
        head = note_html(busy, "busy")
    elif parts:
        head = _verdict(result, parts, shown)
    else:
        head = note_html(_nothing(result))
    player = _player(shown.source, len(result.segments)) if shown.source and not busy else ""
    lone = len(parts) == 1
    items = "".join(_part(part, shown, with_evidence=not lone) for part in parts)
    transcript = f'<ol class="parts" aria-label="Transcript">{items}</ol>' if parts else ""
    return f'<div class="answer">{head}{player}{transcript}</div>'


def bars_html(probs: Mapping[str, float], shown: Shown) -> str:
    """The likeliest languages of every decoder, with how much of the whole is each decoder's."""
    groups = "".join(
        _group(decoder, mine, shown) for decoder, mine in by_decoder(probs, shown.decoders)
    )
    return f'<div class="bars">{groups}</div>' if groups else ""


def comparison_html(
    answers: Sequence[tuple[str, Transcription | None]], above: str, shown: Shown
) -> str:
    """What each pipeline makes of the sound, side by side; None for one that is still at it.
    `above` is the text it got.
    """
    cards = []
    for route, result in answers:
        same = result is not None and above and result.text == above
        mark = '<span class="mark">the transcript above</span>' if same else ""
        if result is None:
            body = note_html("listening", "busy")
        else:
            code = result.language
            name = (
                f'<span class="quiet">as {escape(language_name(code, shown.decoders))}</span>'
                if code
                else ""
            )
            text = result.text.strip()
            body = (
                f'{name}<p{_lang(code)} dir="auto">{escape(text)}</p>'
                if text
                else '<p class="quiet">(no text)</p>'
            )
        head = f"<header>{chip_html(heading_of(route), 'h4')}{mark}</header>"
        cards.append(f'<article class="card {shown.colour(route)}">{head}{body}</article>')
    return f'<div class="comparison">{"".join(cards)}</div>'


def _window(segment: Segment) -> tuple:
    """The same for segments of one window, which share its evidence."""
    return (
        segment.route,
        segment.language,
        segment.reason,
        segment.avg_logprob,
        tuple(segment.language_probs.items()),
    )


def _lang(code: str | None) -> str:
    return f' lang="{escape(code)}"' if code else ""


def _verdict(result: Transcription, parts: Sequence[Sequence[Segment]], shown: Shown) -> str:
    """The language in large, who wrote it, and why."""
    name = escape(language_name(result.language, shown.decoders))
    if len(parts) == 1:
        why = explain(parts[0][0].reason, result.route)
    else:
        why = _tally(parts, shown.decoders)
    languages = {part[0].language for part in parts}
    mostly = "Mostly " if len(languages) > 1 else ""
    bars = bars_html(result.language_probs, shown)
    return (
        f'<section class="verdict {shown.colour(result.route)}" aria-label="Language and'
        f' route"><h3><span class="language">{mostly}{name}</span>'
        f' {chip_html(heading_of(result.route))}</h3><p class="why"'
        f' role="status">{escape(why)}</p><h4 class="quiet">How likely the languages of each'
        f" decoder are</h4>{bars}</section>"
    )


def _tally(parts: Sequence[Sequence[Segment]], decoders: Sequence[Decoder]) -> str:
    """How many parts went where, most first: "3 of 4 parts went to Whisper (English), 1 to pack ky
    (Kyrgyz).".
    """
    counts: dict[str, list[Segment]] = {}
    for part in parts:
        counts.setdefault(part[0].route, []).append(part[0])
    told = []
    for route, segments in sorted(counts.items(), key=lambda item: -len(item[1])):
        names = ", ".join(
            dict.fromkeys(language_name(segment.language, decoders) for segment in segments)
        )
        told.append(f"{len(segments)} to {title_of(route)} ({names})")
    if len(told) == 1:
        return f"All {len(parts)} parts of the sound went {told[0].partition(' ')[2]}."
    first, rest = (
        told[0].replace(" to ", " went to ", 1),
        "".join(f", {other}" for other in told[1:-1]),
    )
    return f"Of {len(parts)} parts of the sound, {first}{rest} and {told[-1]}."


def _nothing(result: Transcription) -> str:
    windows = result.scores.get("windows", {})
    if not result.duration:
        return "The file holds no sound."
    if windows.get("silent") and not windows.get("no_speech") and not windows.get("empty"):
        return "There is only silence in it: check the microphone, and record again."
    return "No speech was heard in it."


def _player(source: str, lines: int) -> str:
    """A player; where the transcript is long its current line is shown below the player, too
    (page.js).
    """
    caption = '<p class="caption" dir="auto" aria-hidden="true"></p>' if lines > 3 else ""
    return (
        f'<div class="player"><audio controls preload="metadata" src="{escape(source)}" '
        f'aria-label="The sound that was transcribed"></audio>{caption}</div>'
    )


def _part(part: Sequence[Segment], shown: Shown, *, with_evidence: bool) -> str:
    first, last = part[0], part[-1]
    name, title = language_name(first.language, shown.decoders), title_of(first.route)
    evidence = ""
    if with_evidence:
        why = escape(explain(first.reason, first.route))
        bars = bars_html(first.language_probs, shown)
        evidence = (
            f"<details><summary>Why {escape(title)}?</summary><p"
            f' class="why">{why}</p>{bars}</details>'
        )
    return (
        f'<li class="part {shown.colour(first.route)}"><div'
        f' class="part-head">{chip_html(f"{name} · {title}")}<span'
        f' class="quiet">{clock(first.start)} – {clock(last.end)}</span></div><ol'
        f' class="lines">{"".join(map(_line, part))}</ol>{evidence}</li>'
    )


def _line(segment: Segment) -> str:
    """A segment: a button that plays from its start, and its text, each word with its time where it
    is known.
    """

    def times(item: Segment | Word) -> str:
        return f'data-start="{item.start:.2f}" data-end="{item.end:.2f}"'

    at, text = clock(segment.start), escape(segment.text)
    if segment.words:
        text = "".join(
            f'{" " * word.word.startswith(" ")}<span class="word"'
            f" {times(word)}>{escape(word.word.strip())}</span>"
            for word in segment.words
        )
    return (
        f'<li class="line" {times(segment)}><button type="button" class="at"'
        f' data-at="{segment.start:.2f}" aria-label="Play from'
        f' {at}">{at}</button><p{_lang(segment.language)} dir="auto">{text}</p></li>'
    )


def _group(decoder: Decoder, probs: Mapping[str, float], shown: Shown) -> str:
    rows = "".join(
        bar_html(decoder.languages[code], prob, percent(prob))
        for code, prob in [*probs.items()][:MOST_LANGUAGES]
    )
    count = len(decoder.languages)
    total = (
        f'<span class="quiet">{count} languages: {percent(sum(probs.values()))}</span>'
        if count > 1
        else ""
    )
    head = f"<h5>{chip_html(decoder.heading)}{total}</h5>"
    return f'<div class="group {shown.colour(decoder.name)}">{head}<ul>{rows}</ul></div>'
