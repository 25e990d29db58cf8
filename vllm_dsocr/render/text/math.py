r"""LaTeX in running text: where it is, and how it is delimited.

The model writes `\( ... \)` in a line and `\[ ... \]` by itself. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Bodies end at the next opening delimiter, so that each is looked at once; `\\[2pt]` opens nothing.
_INLINE = r"\\\((?P<inline>(?:\\\\|[^\\]|\\(?![\\()]))++)\\\)"
_DISPLAY = r"\\\[(?P<display>(?:\\\\|[^\\]|\\(?![\\\[\]]))++)\\\]"
_DOLLARS = r"\$\$(?P<dollars>(?:\\[\s\S]|[^$\\])++)\$\$"
_DOLLAR = r"\$(?P<dollar>(?=[^\s$])(?:\\[^\n]|[^$\\\n]){1,1000}+(?<!\s))\$(?![0-9])"
_CODE = r"(?P<code>`[^`\n]+`)"
_TOKEN = re.compile("|".join((_CODE, _INLINE, _DISPLAY, _DOLLARS, _DOLLAR, r"(?P<escape>\\\\)")))
_LATEX = re.compile(r"[\\^_{}]|\A[a-zA-Z]\Z")


@dataclass(frozen=True, slots=True)
class Formula:
    """LaTeX without delimiters; written: with them, as it stood."""

    latex: str
    is_display: bool
    written: str


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of code in a line, with its marks."""

    written: str


def split_math(text: str) -> Iterator[str | Formula | Code]:
    """The text in order, formulas and code apart from words.

    Single dollars are taken for a formula only around something that is LaTeX: prices are words.
    """
    start = 0
    for token in _TOKEN.finditer(text):
        part = _part(token)
        if part is None:
            continue
        if token.start() > start:
            yield text[start : token.start()]
        yield part
        start = token.end()
    if start < len(text):
        yield text[start:]


def bare_latex(text: str) -> str:
    """The LaTeX of a text that is one formula, without its delimiters; other text as it is."""
    parts = list(split_math(text.strip()))
    if len(parts) == 1 and isinstance(parts[0], Formula):
        return parts[0].latex
    return text.strip()


def dollars(formula: Formula, following: str = "") -> str:
    """The formula between dollars, so that common readers of Markdown see it."""
    latex = re.sub(r"\n\s*\n", "\n", formula.latex)
    if "$" in latex.replace("\\$", ""):
        return formula.written
    if formula.is_display:
        return f"$${latex}$$"
    # A digit right behind the closing dollar would make it a price.
    return f"${latex}$" + ("<!-- -->" if following[:1].isdigit() else "")


def _part(token: re.Match[str]) -> Formula | Code | None:
    kind = token.lastgroup or ""
    if kind == "escape":
        return None
    if kind == "code":
        return Code(token[0])
    latex = token[kind].strip()
    if not latex or (kind == "dollar" and not _LATEX.search(latex)):
        return None
    return Formula(latex, kind in ("display", "dollars"), token[0])
