"""The HTML tables the model writes -> cells with their spans -> clean HTML.

Only the tags of tables, <br> and those of `inline` mean anything here; every other tag is text, so
nothing a model writes can become active markup. Cut-off tables keep what they have, and no text is
lost, which is why this is no parser of HTML: those drop what is not well formed, such as the end of
`<td>p <0.05</td>` or of a thousand nested tags. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html import escape, unescape
from itertools import product

from vllm_dsocr.document.inline import inline_html, without_inline_tags

MAX_PLACES = 10_000  # of a grid; spans that claim more are ignored
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>table|caption|thead|tbody|tfoot|tr|td|th|br)\b(?P<attributes>[^<>]*)>",
    re.IGNORECASE,
)
_SPAN = re.compile(r"\b(rowspan|colspan)\s*=\s*[\"']?([0-9]{1,4})\b", re.IGNORECASE)
# A table begins where something of a table follows, or nothing: prose may name the tag.
_EDGE = re.compile(
    r"<table\b[^<>]*>(?=\s*(?:<(?:caption|thead|tbody|tfoot|tr|td|th)\b|</table>|\Z))|</table>",
    re.IGNORECASE,
)
FENCE = re.compile(r"^(?P<fence>```+|~~~+)[^\n]*\n.*?(?:^(?P=fence)[ \t]*$|\Z)", re.DOTALL | re.M)


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell (line breaks as newlines) and how far it reaches.

    source: the text with its inline tags and entities, as written.
    """

    text: str
    rowspan: int = 1
    colspan: int = 1
    is_header: bool = False
    source: str | None = field(default=None, compare=False)

    @property
    def html(self) -> str:
        """The cell's content as HTML, inline tags kept."""
        return inline_html(escape(self.text) if self.source is None else self.source)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as written: a cell appears once, in its top left place."""

    rows: tuple[tuple[Cell, ...], ...]
    caption: Cell | None = None

    def grid(self) -> list[list[Cell | None]]:
        """Cells by (row, column), all rows equally long; places under a span are None."""
        return [[cell if is_corner else None for cell, is_corner in row] for row in self._places()]

    def filled(self) -> list[list[Cell | None]]:
        """The same with a spanning cell in every place it covers."""
        return [[cell for cell, _ in row] for row in self._places()]

    def _places(self) -> list[list[tuple[Cell | None, bool]]]:
        """Per row and column: the cell there, and whether this is its top left place."""
        placed: dict[tuple[int, int], tuple[Cell, bool]] = {}
        for row, cells in enumerate(self.rows):
            column = 0
            for cell in cells:
                while (row, column) in placed:
                    column += 1
                height, width = min(cell.rowspan, len(self.rows) - row), cell.colspan
                if len(placed) + height * width > MAX_PLACES:
                    height = width = 1
                for r, c in product(range(height), range(width)):
                    placed[row + r, column + c] = cell, r == c == 0
        width = 1 + max((column for _, column in placed), default=-1)
        nothing = None, False
        return [
            [placed.get((row, c), nothing) for c in range(width)] for row in range(len(self.rows))
        ]


def split_tables(text: str) -> Iterator[str | Table]:
    """The text in order, every `<table>` in it parsed; what is between tables stays as it is."""
    start = 0
    for begin, end in _spans(text):
        if begin > start:
            yield text[start:begin]
        yield parse_table(text[begin:end])
        start = end
    if start < len(text):
        yield text[start:]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every outermost table that is not in a fence of code."""
    fences = [fence.span() for fence in FENCE.finditer(text)]
    begin, depth = 0, 0
    for edge in _EDGE.finditer(text):
        while fences and fences[0][1] <= edge.start():
            fences.pop(0)
        if depth == 0 and fences and fences[0][0] <= edge.start():
            continue
        if not edge[0].startswith("</"):
            begin = begin if depth else edge.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                yield begin, edge.end()
    if depth:
        yield begin, len(text)


def parse_table(html: str) -> Table:
    """One `<table>...</table>`, complete or cut off."""
    rows, start = _Rows(), 0
    for tag in _TAG.finditer(html):
        rows.text(html[start : tag.start()])
        rows.tag(tag["name"].lower(), bool(tag["close"]), tag["attributes"])
        start = tag.end()
    rows.text(html[start:])
    rows.finish_cell()
    return Table(tuple(tuple(row) for row in rows.rows if row), rows.caption)


def table_html(table: Table, content: Callable[[Cell], str] = lambda cell: cell.html) -> str:
    """HTML with spans and caption; `content` gives the HTML of a cell."""
    rows = [
        "<tr>" + "".join(_cell_html(cell, content(cell)) for cell in row) + "</tr>"
        for row in table.rows
    ]
    if table.caption is not None:
        rows.insert(0, f"<caption>{content(table.caption)}</caption>")
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _cell_html(cell: Cell, content: str) -> str:
    tag = "th" if cell.is_header else "td"
    spans = (("rowspan", cell.rowspan), ("colspan", cell.colspan))
    attributes = "".join(f' {name}="{value}"' for name, value in spans if value > 1)
    return f"<{tag}{attributes}>{content}</{tag}>"


class _Rows:
    """Rows as the tags come; text outside cells gets a cell of its own so that none is lost."""

    def __init__(self) -> None:
        self.rows: list[list[Cell]] = [[]]
        self.caption: Cell | None = None
        self._open: Cell | None = None
        self._is_caption = False
        self._source = ""

    def tag(self, name: str, is_closing: bool, attributes: str) -> None:
        if name == "br":
            self._source += "\n"
            return
        self.finish_cell()
        if is_closing:
            return
        if name == "tr":
            self.rows.append([])
        elif name == "caption":
            self._is_caption = self.caption is None
        elif name in ("td", "th"):
            spans = {key.lower(): int(value) for key, value in _SPAN.findall(attributes)}
            rowspan, colspan = (max(spans.get(key, 1), 1) for key in ("rowspan", "colspan"))
            self._open = Cell("", rowspan, colspan, is_header=name == "th")

    def text(self, text: str) -> None:
        self._source += text

    def finish_cell(self) -> None:
        source = self._source.strip()
        cell = replace(self._open or Cell(""), text=_plain(source), source=source)
        is_cell, is_caption = self._open is not None, self._is_caption
        self._open, self._is_caption, self._source = None, False, ""
        if is_caption:
            self.caption = cell if source else None
        elif is_cell or source:
            self.rows[-1].append(cell)


def _plain(source: str) -> str:
    return unescape(without_inline_tags(source)).strip()
