"""The Markdown of model cards as HTML.

A card comes with its pack and may hold anything, so HTML in it stays text, and there are no images,
and links only to http and https.
"""

from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

# scrolls by itself, by keyboard, too
WIDE = '<div class="wide" tabindex="0" role="region" aria-label="Table">'


def markdown_html(text: str, level: int = 4) -> str:
    """HTML of a text; its first headings are of this level, so that they stand below the page's
    own.
    """
    parser = _parser()
    tokens = [_changed(token, level) for token in parser.parse(text)]
    return parser.renderer.render(tokens, parser.options, {})


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # else what is no link stays Markdown; `_changed` looks at them
    parser.validateLink = lambda url: True
    parser.add_render_rule("image", lambda self, *_: "")
    parser.add_render_rule("table_open", lambda self, *_: f"{WIDE}<table>\n")
    parser.add_render_rule("table_close", lambda self, *_: "</table></div>\n")
    return parser


def _changed(token: Token, level: int) -> Token:
    """A heading further down; a link that leads to a window of its own, or nowhere."""
    if token.type.startswith("heading_"):
        token.tag = f"h{min(6, level + int(token.tag[1]) - 1)}"
    for child in token.children or ():
        if child.type == "link_open":
            led = str(child.attrs.pop("href", ""))
            if led.lower().startswith(("http://", "https://")):
                child.attrs |= {"href": led, "rel": "noopener noreferrer", "target": "_blank"}
    return token
