"""Markdown tables and the numbers in them."""

from collections.abc import Sequence


def percent(rate: float | None, interval: Sequence[float] | None = None) -> str:
    """A fraction in percent, "–" for none; an interval to one place."""
    if rate is None:
        return "–"
    return f"{100 * rate:.2f}" + (
        f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, an empty one after it; cells may hold anything."""
    rule = ["---", *("---:" for _ in head[1:])]
    cells = [[cell(text) for text in row] for row in rows]
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *cells)), ""]


def cell(text: str) -> str:
    """Text of any kind as one line that breaks no Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
