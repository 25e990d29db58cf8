"""The model's text -> Markdown that readers show as it stands on the page. Standard library only.

Formulas get the delimiters that are wished, `$` of prices and `<` of what is no tag are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape

from vllm_dsocr.document.inline import INLINE_TAG, INLINE_TAGS
from vllm_dsocr.document.tables import Cell, Table, table_html
from vllm_dsocr.render.finished import MathStyle
from vllm_dsocr.render.text.math import Code, Formula, dollars, split_math

_OPENS_TAG = re.compile(rf"<(?!/?(?:{'|'.join(INLINE_TAGS)}|br)/?>)(?=[a-zA-Z/!?])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_CELL_MARKS = re.compile(r"[*`]")


def prose(text: str, math: MathStyle = "dollar") -> str:
    """A paragraph, heading or item."""
    return _mapped(text, math, escape_tags)


def dollar_math(text: str, escape: bool = True) -> str:
    """The text with its formulas between dollars; `escape`: other dollars are escaped."""
    return _mapped(text, "dollar", (lambda words: words) if escape else None, is_strict=False)


def escape_tags(words: str) -> str:
    """Text in which `<` begins only tags that mean something within a line."""
    return _OPENS_TAG.sub(r"\\<", words)


def table_text(table: Table, math: MathStyle = "dollar") -> str:
    """The table as HTML, its formulas delimited as wished."""
    return table_html(table, lambda cell: _mapped(cell.html, math, None))


def pipe_table(table: Table, math: MathStyle = "dollar") -> str:
    """A pipe table, first row as its head; a spanning cell is in every place it covers."""
    rows = [[_cell(cell, math) for cell in row] for row in table.filled()]
    if not rows:
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def alt_text(text: str) -> str:
    """A caption, short enough and plain enough to stand in the brackets of an image."""
    words = " ".join(re.sub(r"[\[\]!<>`*\\]|\$\$?", "", text).split())
    return words if len(words) <= _LONGEST_ALT else words[:_LONGEST_ALT].rsplit(" ", 1)[0] + " ..."


_LONGEST_ALT = 300


def _cell(cell: Cell | None, math: MathStyle) -> str:
    """What was unescaped is escaped for where it now stands."""
    if cell is None:
        return ""
    source = cell.source if cell.source is not None else cell.text
    pieces: list[str] = []
    start = 0
    for tag in INLINE_TAG.finditer(source):
        pieces += [_cell_words(source[start : tag.start()], math), tag[0]]
        start = tag.end()
    pieces.append(_cell_words(source[start:], math))
    return "".join(pieces).replace("|", "\\|").replace("\n", "<br>")


def _cell_words(source: str, math: MathStyle) -> str:
    def escaped(words: str) -> str:
        words = _ENTITY.sub("&amp;", words.replace("\\|", "|"))
        return _CELL_MARKS.sub(r"\\\g<0>", re.sub(r"<(?=[a-zA-Z/!?])", r"\\<", words))

    return _mapped(unescape(source), math, escaped)


def _mapped(
    text: str, math: MathStyle, words: Callable[[str], str] | None, is_strict: bool = True
) -> str:
    """Formulas by style; `words` is applied to what is neither formula nor code, None: nothing.

    is_strict: whether a digit behind a formula needs something between.
    """
    pieces = list(split_math(text))
    done: list[str] = []
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=bool(pieces)):
        if isinstance(piece, Code):
            done.append(piece.written)
        elif isinstance(piece, Formula):
            after = following if is_strict and isinstance(following, str) else ""
            done.append(dollars(piece, after) if math == "dollar" else piece.written)
        elif words is None:
            done.append(piece)
        else:
            piece = words(piece)
            done.append(_DOLLAR.sub(r"\\$", piece) if math == "dollar" else piece)
    return "".join(done)
