"""The Markdown of model cards as HTML: headings, paragraphs, lists, tables, code, bold. All else stays text.

A card comes with its pack and may hold anything, so there are no images, no HTML, and links only to http and https.
"""

import re
from html import escape

_CELL = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^\s)&quot;]+)\)")


def markdown_html(text: str, level: int = 4) -> str:
    """HTML of a text; its first headings are of this level, so that they stand below the page's own."""
    out: list[str] = []
    lines = [line.rstrip() for line in text.expandtabs(4).splitlines()]
    while lines:
        line = lines.pop(0)
        if not line:
            continue
        if line.startswith("```"):
            out.append(_code(_taken(lines, lambda line: not line.startswith("```"))))
            del lines[:1]
        elif line.startswith("    "):
            block = [line, *_taken(lines, lambda line: line.startswith("    "))]
            out.append(_code([line[4:] for line in block]))
        elif match := re.match(r"(#{1,6})\s+(.*)", line):
            size = min(6, level + len(match[1]) - 1)
            out.append(f"<h{size}>{_inline(match[2])}</h{size}>")
        elif "|" in line and lines and "-" in lines[0] and _RULE.fullmatch(lines[0]):
            lines.pop(0)
            out.append(_table(line, _taken(lines, lambda line: "|" in line)))
        elif re.match(r"[-*] ", line):
            items = [line, *_taken(lines, lambda line: re.match(r"[-*] ", line))]
            out.append("<ul>" + "".join(f"<li>{_inline(item[2:])}</li>" for item in items) + "</ul>")
        else:
            rest = _taken(lines, lambda line: line and not re.match(r"#|```|[-*] ", line) and "|" not in line)
            out.append(f"<p>{_inline(' '.join([line, *rest]))}</p>")
    return "".join(out)


def _taken(lines: list[str], wanted) -> list[str]:
    """The first lines that are wanted, taken away."""
    count = next((i for i, line in enumerate(lines) if not wanted(line)), len(lines))
    taken = lines[:count]
    del lines[:count]
    return taken


def _code(lines: list[str]) -> str:
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def _table(head: str, rows: list[str]) -> str:
    """A table that scrolls by itself where it is wider than the screen, by keyboard, too."""

    def cells(line: str, tag: str) -> str:
        inner = re.sub(r"^\s*\||(?<!\\)\|\s*$", "", line)
        return "".join(f"<{tag}>{_inline(cell.strip())}</{tag}>" for cell in _CELL.split(inner))

    titles = cells(head, "th")
    header = f"<thead><tr>{titles}</tr></thead>" if re.sub("<[^>]*>", "", titles) else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table"><table>{header}<tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    """Code, bold and links of a line; what stands in code is left as it is."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"<code>{escape(piece[1:-1])}</code>" if len(piece) > 2 and piece[0] == piece[-1] == "`" else _styled(piece)
        for piece in pieces
    )


def _styled(text: str) -> str:
    text = _LINK.sub(r'<a href="\2" rel="noopener noreferrer" target="_blank">\1</a>', escape(text.replace("\\|", "|")))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
