"""A part of a page (Markdown, LaTeX, a table) -> HTML in which nothing the model wrote is active.

Markdown by markdown-it-py, formulas as MathML, everything through nh3 at the end. Links and
pictures the model writes are text. Knows nothing of pages.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from html import escape
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

from vllm_dsocr.document.inline import INLINE_TAG, INLINE_TAGS, paired_tags
from vllm_dsocr.document.parts import Part
from vllm_dsocr.document.tables import table_html
from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.render.html.mathml import formula_html, with_formulas
from vllm_dsocr.render.text.math import bare_latex
from vllm_dsocr.render.text.prose import dollar_math

# Rules whose output would be a link or a picture, would vanish, or would take indented or
# underlined words of a page for code and headings.
_OFF = ("link", "image", "autolink", "reference", "html_block", "html_inline", "code", "lheading")
_MATHML = {
    "math", "menclose", "mfenced", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover",
    "mpadded", "mphantom", "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle",
    "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover", "none",
}  # fmt: skip
_HTML = {
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "pre", "blockquote",
    "div", "span", "table", "caption", "thead", "tbody", "tr", "td", "th",
}  # fmt: skip
_MATHML_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form",
    "separator", "accent", "lspace", "rspace", "minsize", "maxsize", "width", "height", "depth",
    "linethickness", "columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines",
    "notation", "movablelimits", "symmetric", "largeop",
}  # fmt: skip
_STYLED = ("caption", "footnote", "furniture", "line")


def part_html(part: Part) -> str:
    """HTML for a part that is no figure."""
    if part.table is not None:
        table = table_html(part.table, lambda cell: with_formulas(cell.html))
        return _clean(f'<div class="scroll">{table}</div>')
    if part.kind == "formula":
        return _clean(f"<p>{formula_html(bare_latex(part.text), is_display=True)}</p>")
    if part.kind == "heading":
        level = min(part.level, 6)
        return _clean(f"<h{level}>{_markdown().renderInline(dollar_math(part.text))}</h{level}>")
    if part.kind == "code" and not part.text.startswith(("```", "~~~")):
        return _clean(f"<pre>{escape(part.text)}</pre>")
    text = _clean(_markdown().render(dollar_math(part.text)))
    return f'<div class="{part.kind}">{text}</div>' if part.kind in _STYLED else text


def content_html(text: str) -> str:
    """HTML for Markdown without tables of HTML in it."""
    return part_html(Part("text", 0, text))


def _clean(html: str) -> str:
    return nh3.clean(
        utf8(html).decode(),
        tags=_HTML | _MATHML | set(INLINE_TAGS),
        attributes={
            "td": {"rowspan", "colspan"},
            "th": {"rowspan", "colspan"},
            "ol": {"start"},
            "span": {"class"},
            "div": {"class"},
            **dict.fromkeys(_MATHML, _MATHML_ATTRIBUTES),
        },
        url_schemes=set(),
        link_rel=None,
    ).strip()


@functools.cache
def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable(_OFF)
    parser.use(
        dollarmath_plugin,
        double_inline=True,
        allow_blank_lines=False,
        renderer=lambda latex, options: formula_html(latex.strip(), options["display_mode"]),
    )
    parser.inline.ruler.before("html_inline", "inline_tag", _inline_tag)
    parser.add_render_rule("inline_tag", _render_inline_tag)
    return parser


def _inline_tag(state: StateInline, silent: bool) -> bool:
    """<sup> and its like, in pairs."""
    tag = INLINE_TAG.match(state.src, state.pos)
    if tag is None or state.pos not in _pairs(state.src):
        return False
    if not silent:
        state.push("inline_tag", "", 0).content = tag[0]
    state.pos = tag.end()
    return True


@functools.lru_cache(maxsize=1)
def _pairs(text: str) -> frozenset[int]:
    return frozenset(paired_tags(text))


def _render_inline_tag(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any
) -> str:
    return tokens[index].content
