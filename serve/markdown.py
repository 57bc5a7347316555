"""The Markdown of model cards as HTML.

A card comes with its pack and cannot be trusted. So HTML in it is shown as text, images are
dropped, and only links to http and https are kept.
"""

from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

# a box that scrolls sideways, also with the keyboard
WIDE = '<div class="wide" tabindex="0" role="region" aria-label="Table">'


def markdown_html(text: str, level: int = 4) -> str:
    """Return a Markdown text as HTML.

    Args:
        text: The Markdown.
        level: Level of its first headings, which must be below those of the page.
    """
    parser = _parser()
    tokens = [_changed(token, level) for token in parser.parse(text)]
    return parser.renderer.render(tokens, parser.options, {})


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # markdown-it would show refused links as Markdown; `_changed` checks them instead
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # as its manual says
    parser.add_render_rule("image", lambda self, *_: "")
    parser.add_render_rule("table_open", lambda self, *_: f"{WIDE}<table>\n")
    parser.add_render_rule("table_close", lambda self, *_: "</table></div>\n")
    return parser


def _changed(token: Token, level: int) -> Token:
    """Lower a heading; make a link open a new window, or remove its address if it is unsafe."""
    if token.type.startswith("heading_"):
        token.tag = f"h{min(6, level + int(token.tag[1]) - 1)}"
    for child in token.children or ():
        if child.type == "link_open":
            url = str(child.attrs.pop("href", ""))
            if url.lower().startswith(("http://", "https://")):
                child.attrs |= {"href": url, "rel": "noopener noreferrer", "target": "_blank"}
    return token
