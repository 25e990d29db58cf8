"""LaTeX -> MathML, which browsers draw without any script; what fails stays as its source."""

from __future__ import annotations

from html import escape, unescape

from latex2mathml.converter import convert

from vllm_dsocr.document.inline import without_inline_tags
from vllm_dsocr.render.text.math import Formula, split_math

LONGEST = 4000  # characters; a formula is not longer, and the converter's time grows faster


def formula_html(latex: str, is_display: bool) -> str:
    """HTML of a formula given without delimiters."""
    display = "block" if is_display else "inline"
    try:
        if len(latex) <= LONGEST:
            return convert(latex, display=display)
    except Exception:  # it raises many kinds for what is no LaTeX
        pass
    opens, closes = ("\\[", "\\]") if is_display else ("\\(", "\\)")
    return f'<span class="math">{escape(opens + latex + closes, quote=False)}</span>'


def with_formulas(html: str) -> str:
    """Escaped text of a cell with the formulas in it drawn."""
    return "".join(
        formula_html(unescape(without_inline_tags(piece.latex)), piece.is_display)
        if isinstance(piece, Formula)
        else piece
        if isinstance(piece, str)
        else piece.written
        for piece in split_math(html)
    )
