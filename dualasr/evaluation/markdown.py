"""Markdown tables and the numbers in them."""

from collections.abc import Sequence


def percent(rate: float | None, interval: Sequence[float] | None = None) -> str:
    """Write a fraction in percent, with two digits after the point.

    Args:
        rate: The fraction; None gives "–".
        interval: Its low and high end, as fractions, written with one digit after the point; None
            for no interval.

    Returns:
        "12.34 (11.0 to 13.9)", without the sign %.
    """
    if rate is None:
        return "–"
    return f"{100 * rate:.2f}" + (
        f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a Markdown table.

    Args:
        head: Titles of the columns.
        rows: Cells of each row, which may hold any text.

    Returns:
        Its lines, and an empty line.
    """
    rule = ["---", *("---:" for _ in head[1:])]
    cells = [[cell(text) for text in row] for row in rows]
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *cells)), ""]


def cell(text: str) -> str:
    """Return a text as one line that can stand in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
