"""Markdown of a page -> the tables in it, HTML and pipe ones, as rows of cells.

HTML is read by lxml, so cut-off and unclosed tables have what a browser would show. Knows nothing
of scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import html

MAX_PLACES = 100_000  # of a grid; spans that claim more are taken as 1
_TABLE = re.compile(r"<table\b[^<>]*>.*?(?:</table\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_RULE = re.compile(r"[\s|:-]*-[\s|:-]*")
_PARSER = html.HTMLParser(remove_comments=True, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says and how far it reaches. is_heading: a th, or in a thead."""

    text: str
    rowspan: int = 1
    colspan: int = 1
    is_heading: bool = False


Rows = list[list[Cell]]


def html_parts(text: str) -> Iterator[tuple[int, int]]:
    """Where each `<table>...</table>` begins and ends."""
    yield from (match.span() for match in _TABLE.finditer(text))


def html_tables(text: str) -> list[Rows]:
    """Every HTML table with a cell in it."""
    tables = (rows_of(parse_html(text[start:end])) for start, end in html_parts(text))
    return [rows for rows in tables if any(rows)]


def parse_html(table: str) -> html.HtmlElement | None:
    """The `table` element of such a part; None where there is none."""
    root = html.document_fromstring(table.encode("utf-8", "replace"), parser=_PARSER)
    return next(root.iter("table"), None)


def rows_of(table: html.HtmlElement | None) -> Rows:
    """Rows of cells as written; a cell stands once, where it begins."""
    if table is None:
        return []
    for line_break in table.iter("br"):
        line_break.tail = "\n" + (line_break.tail or "")
    rows = list(table.iter("tr"))
    left = len(rows)
    return [[_cell(cell, left - i) for cell in row.iterchildren("td", "th")] for i, row in
            enumerate(rows)]  # fmt: skip


def _cell(cell: html.HtmlElement, rows_left: int) -> Cell:
    down = rows_left if cell.get("rowspan", "").strip() == "0" else _span(cell.get("rowspan"))
    heading = cell.tag == "th" or next(cell.iterancestors("thead"), None) is not None
    return Cell(cell.text_content().strip(), down, _span(cell.get("colspan")), heading)


def _span(value: str | None) -> int:
    number = (value or "").strip()
    return max(1, int(number)) if number.isascii() and number.isdecimal() and len(number) < 5 else 1


def pipe_tables(text: str) -> list[Rows]:
    """Tables of lines with `|`; first row and first column are headings."""
    found: list[Rows] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if "|" in line:
            lines.append(line)
            continue
        if len(lines) > 1:
            found.append(pipe_rows(lines))
        lines = []
    return [rows for rows in found if any(rows)]


def pipe_rows(lines: list[str]) -> Rows:
    """Rows of such lines, the one of dashes left out."""
    rows = [_split(line) for line in lines if not _RULE.fullmatch(line)]
    return [
        [Cell(text, is_heading=not (r and c)) for c, text in enumerate(row)]
        for r, row in enumerate(row for row in rows if row)
    ]


def _split(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("|")]
    return cells[not cells[0] : len(cells) - (not cells[-1])]


def grid_of(rows: Rows) -> dict[tuple[int, int], Cell]:
    """(row, column) -> the cell that covers it; a place nothing covers is left out."""
    grid: dict[tuple[int, int], Cell] = {}
    for r, row in enumerate(rows):
        c = 0
        for cell in row:
            while (r, c) in grid:
                c += 1
            down, right = min(cell.rowspan, len(rows) - r), cell.colspan
            if len(grid) + down * right > MAX_PLACES:
                down = right = 1
            grid.update({(r + i, c + j): cell for i in range(down) for j in range(right)})
            c += right
    return grid
