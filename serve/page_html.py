"""Transcripts with their evidence as HTML for the page. Every text in it is escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from urllib.parse import quote

from dualasr.model.selector import PRIMARY
from dualasr.transcription.transcript import Segment, Transcription, Word

from .explanation import explain
from .routes import Route, by_route, heading_of, language_name, title_of

COLOURS = 8  # route-0 is the primary; packs take route-1 to route-7 in turn (page.css)
MOST_LANGUAGES = 3  # bars of a route


@dataclass(frozen=True)
class View:
    """The setting in which a transcript is shown.

    Attributes:
        routes: The routes that were loaded when it was made.
        source: URL of the sound for the player; None for no player.
    """

    routes: Sequence[Route]
    source: str | None = None

    def colour(self, route: str) -> str:
        """Return the CSS class with the colour of a route."""
        names = [known.name for known in self.routes]
        place = names.index(route) if route in names else 0
        return "route-0" if route == PRIMARY else f"route-{1 + (place - 1) % (COLOURS - 1)}"

    def why(self, segment: Segment, probs: Mapping[str, float]) -> str:
        """Explain why a segment took its route.

        Args:
            segment: The segment.
            probs: Probability of each language by code, as the bars beside the sentence show them.
        """
        shares = {route.name: sum(own.values()) for route, own in by_route(probs, self.routes)}
        packs = any(route.name != PRIMARY for route in self.routes)
        return explain(segment.reason, segment.route, shares or None, packs=packs)


def audio_url(path: str) -> str:
    """Return the URL of a file that gradio holds, relative to the page.

    An absolute URL would be wrong behind a proxy that serves the page under another path.
    """
    return f"gradio_api/file={quote(path)}"


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds, with hours if there are any: 0:07, 1:02:03."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def percent(share: float) -> str:
    """Write a share in whole percent as HTML: a small one as "<1 %", and 100 % only for all."""
    if 0 < share < 0.01:
        return "&lt;1&nbsp;%"
    if 0.995 <= share < 0.9995:
        return "&gt;99&nbsp;%"
    return f"{100 * share:.0f}&nbsp;%"


def chip_html(text: str, tag: str = "span") -> str:
    """Return a name with a dot in the colour of its route."""
    return f'<{tag} class="chip">{escape(text)}</{tag}>'


def bar_html(name: str, share: float, value: str) -> str:
    """Return a list item with a bar.

    Args:
        name: Text before the bar.
        share: Length of the bar, from 0 to 1.
        value: HTML after the bar.
    """
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return (
        f'<li><span class="bar-name">{escape(name)}</span><span class="bar" aria-hidden="true">'
        f'<i style="width:{width}"></i></span><span class="bar-value">{value}</span></li>'
    )


def note_html(text: str, kind: str = "note") -> str:
    """Return a sentence in a box; `kind` is "note", "error", or "busy" for work under way."""
    role = "alert" if kind == "error" else "status"
    dots = (
        '<span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>'
        if kind == "busy"
        else ""
    )
    return f'<p class="box {escape(kind)}" role="{role}">{dots}{escape(text)}</p>'


def transcript_html(result: Transcription, view: View, busy: str = "") -> str:
    """Return a transcript with its evidence.

    Args:
        result: The transcript.
        view: The routes, and the sound for the player.
        busy: Text that says that the transcript still grows; "" for a whole one.
    """
    parts = [list(group) for _, group in groupby(result.segments, key=_window)]
    if busy:
        head = note_html(busy, "busy")
    elif parts:
        head = _verdict(result, parts, view)
    else:
        head = note_html(_no_text(result))
    player = _player(view.source, len(result.segments)) if view.source and not busy else ""
    lone = len(parts) == 1
    items = "".join(_part(part, view, with_evidence=not lone) for part in parts)
    transcript = f'<ol class="parts" aria-label="Transcript">{items}</ol>' if parts else ""
    return f'<div class="answer">{head}{player}{transcript}</div>'


def bars_html(probs: Mapping[str, float], view: View) -> str:
    """Return bars for the most likely languages of each route, with the route's share of all.

    Args:
        probs: Probability of each language by code.
        view: The routes.
    """
    groups = "".join(_group(route, own, view) for route, own in by_route(probs, view.routes))
    return f'<div class="bars">{groups}</div>' if groups else ""


def comparison_html(
    results: Sequence[tuple[str, Transcription | None]], above: str, view: View
) -> str:
    """Return the transcripts of a sound by all routes, side by side.

    Args:
        results: Names of routes with their transcripts; None for one that is not done.
        above: Text of the transcript that the page shows above; a card with the same is marked.
        view: The routes.
    """
    cards = []
    for route, result in results:
        same = result is not None and above and result.text == above
        mark = '<span class="mark">the transcript above</span>' if same else ""
        if result is None:
            body = note_html("transcribing", "busy")
        else:
            code = result.language
            name = (
                f'<span class="quiet">as {escape(language_name(code, view.routes))}</span>'
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
        cards.append(f'<article class="card {view.colour(route)}">{head}{body}</article>')
    return f'<div class="comparison">{"".join(cards)}</div>'


def _window(segment: Segment) -> tuple:
    """Return the evidence of a segment, which all segments of a window share."""
    return (
        segment.route,
        segment.language,
        segment.reason,
        segment.avg_logprob,
        tuple(segment.language_probs.items()),
    )


def _lang(code: str | None) -> str:
    return f' lang="{escape(code)}"' if code else ""


def _verdict(result: Transcription, parts: Sequence[Sequence[Segment]], view: View) -> str:
    """Return the language in large letters, its routes, the reason, and bars."""
    if len(parts) == 1:
        why = view.why(parts[0][0], result.language_probs)
    else:
        why = _summary(parts, view.routes)
    title, routes = _headline(parts, view.routes)
    chips = " ".join(chip_html(heading_of(route)) for route in routes)
    bars = bars_html(result.language_probs, view)
    return (
        f'<section class="verdict {view.colour(routes[0])}" aria-label="Language and'
        f' route"><h3><span class="language">{escape(title)}</span>'
        f' {chips}</h3><p class="why"'
        f' role="status">{escape(why)}</p><h4 class="quiet">How likely each language'
        f" is</h4>{bars}</section>"
    )


def _headline(parts: Sequence[Sequence[Segment]], routes: Sequence[Route]) -> tuple[str, list[str]]:
    """Return what is spoken, and the routes that wrote it, those with most seconds first.

    For example "Irish", "Mostly Irish" for more than half of the seconds, or "Irish, English".
    """
    spoken: dict[str | None, Counter[str]] = {}
    for part in parts:
        seconds = max(part[-1].end - part[0].start, 0.001)
        spoken.setdefault(part[0].language, Counter())[part[0].route] += seconds
    order = sorted(spoken, key=lambda code: -spoken[code].total())
    first, total = spoken[order[0]].total(), sum(count.total() for count in spoken.values())
    named = order if first <= total / 2 else order[:1]
    mostly = "Mostly " if len(named) < len(order) else ""
    names = ", ".join(language_name(code, routes) for code in named)
    wrote: Counter[str] = sum((spoken[code] for code in named), Counter())
    return mostly + names, [route for route, _ in wrote.most_common()]


def _summary(parts: Sequence[Sequence[Segment]], routes: Sequence[Route]) -> str:
    """Say how many parts went to each route, the largest number first.

    For example "Of 4 parts of the sound, 3 went to Whisper (English) and 1 to pack ky (Kyrgyz).".
    """
    by_name: dict[str, list[Segment]] = {}
    for part in parts:
        by_name.setdefault(part[0].route, []).append(part[0])
    counts = []
    for route, segments in sorted(by_name.items(), key=lambda item: -len(item[1])):
        names = ", ".join(
            dict.fromkeys(language_name(segment.language, routes) for segment in segments)
        )
        counts.append(f"{len(segments)} to {title_of(route)} ({names})")
    if len(counts) == 1:
        return f"All {len(parts)} parts of the sound went {counts[0].partition(' ')[2]}."
    first = counts[0].replace(" to ", " went to ", 1)
    rest = "".join(f", {other}" for other in counts[1:-1])
    return f"Of {len(parts)} parts of the sound, {first}{rest} and {counts[-1]}."


def _no_text(result: Transcription) -> str:
    """Say why a transcript has no text."""
    windows = result.scores.get("windows", {})
    if not result.duration:
        return "The file contains no sound."
    if windows.get("silent") and not windows.get("no_speech") and not windows.get("empty"):
        return "The file contains only silence: check the microphone, and record again."
    return "No speech was found in the sound."


def _player(source: str, lines: int) -> str:
    """Return a player; below it, page.js shows the current line of a long transcript."""
    caption = '<p class="caption" dir="auto" aria-hidden="true"></p>' if lines > 3 else ""
    return (
        f'<div class="player"><audio controls preload="metadata" src="{escape(source)}" '
        f'aria-label="The sound that was transcribed"></audio>{caption}</div>'
    )


def _part(part: Sequence[Segment], view: View, *, with_evidence: bool) -> str:
    """Return the lines of a window with its language, route and time."""
    first, last = part[0], part[-1]
    name, title = language_name(first.language, view.routes), title_of(first.route)
    evidence = ""
    if with_evidence:
        why = escape(view.why(first, first.language_probs))
        bars = bars_html(first.language_probs, view)
        evidence = (
            f"<details><summary>Why {escape(title)}?</summary><p"
            f' class="why">{why}</p>{bars}</details>'
        )
    return (
        f'<li class="part {view.colour(first.route)}"><div'
        f' class="part-head">{chip_html(f"{name} · {title}")}<span'
        f' class="quiet">{clock(first.start)} – {clock(last.end)}</span></div><ol'
        f' class="lines">{"".join(map(_line, part))}</ol>{evidence}</li>'
    )


def _line(segment: Segment) -> str:
    """Return a segment: a button that plays from its start, and its text with times of words."""

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


def _group(route: Route, probs: Mapping[str, float], view: View) -> str:
    """Return the bars of one route, with the sum of its languages if it knows several."""
    rows = "".join(
        bar_html(route.languages[code], prob, percent(prob))
        for code, prob in [*probs.items()][:MOST_LANGUAGES]
    )
    count = len(route.languages)
    total = (
        f'<span class="quiet">{count} languages: {percent(sum(probs.values()))}</span>'
        if count > 1
        else ""
    )
    head = f"<h5>{chip_html(route.heading)}{total}</h5>"
    return f'<div class="group {view.colour(route.name)}">{head}<ul>{rows}</ul></div>'
