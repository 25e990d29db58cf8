"""Format `txt`: the words alone, pages apart by form feeds. Standard library only.

Table cells are set apart by tabs, formulas are LaTeX without delimiters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vllm_dsocr.document.inline import without_inline_tags
from vllm_dsocr.document.parts import Part
from vllm_dsocr.document.tables import Table
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.text.joining import PageParts, joined, parts_of
from vllm_dsocr.render.text.math import Formula, split_math

_BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The text of every page; a page that could not be read is an empty one."""
    options = document.options
    pages: Iterable[PageParts] = parts_of(document.pages(), options.furniture)
    separator = ""
    for page in joined(pages) if options.join_pages else pages:
        yield f"{separator}{parts_text(page.parts)}\n"
        separator = "\f"


def parts_text(parts: Iterable[Part]) -> str:
    """The text of all parts, with an empty line between all but lines that belong together."""
    text, before = "", None
    for part in parts:
        if written := part_text(part):
            text += ("\n" if part.kind == before == "line" else "\n\n") if text else ""
            text += written
            before = part.kind
    return text


def part_text(part: Part) -> str:
    """The words of a part; those of a figure are in its caption, which is a part of its own."""
    if part.table is not None:
        return table_text(part.table)
    return part.text if part.kind == "code" else words(part.text)


def table_text(table: Table) -> str:
    """A row a line, cells apart by tabs."""
    rows = ["\t".join(words(cell.text).replace("\n", " ") for cell in row) for row in table.rows]
    return "\n".join([words(table.caption.text), *rows] if table.caption else rows)


def words(text: str) -> str:
    """Text without marks of Markdown, HTML and LaTeX delimiters."""
    return "".join(
        piece.latex
        if isinstance(piece, Formula)
        else _BOLD.sub(r"\1", without_inline_tags(piece)).replace("\\$", "$")
        if isinstance(piece, str)
        else piece.written.strip("`")
        for piece in split_math(text)
    ).strip()
