"""The HTML tables the model writes -> cells with their spans -> clean HTML or Markdown.

Only table tags and <br> mean anything here; every other tag is text, so nothing a model writes can
become active markup. Cut-off tables keep what they have. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape, unescape

MAX_PLACES = 10_000  # of a grid; spans that claim more are ignored
_TAG = re.compile(
    r"<(?P<close>/?)(?P<name>table|thead|tbody|tfoot|tr|td|th|br)\b(?P<attributes>[^<>]*)>",
    re.IGNORECASE,
)
_SPAN = re.compile(r"\b(rowspan|colspan)\s*=\s*[\"']?([0-9]{1,4})\b", re.IGNORECASE)
_TABLE = re.compile(r"<table\b[^<>]*>.*?(?:</table>|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a cell (line breaks as newlines) and how far it reaches."""

    text: str
    rowspan: int = 1
    colspan: int = 1
    is_header: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells as written: a cell appears once, in its top left place."""

    rows: tuple[tuple[Cell, ...], ...]

    def grid(self) -> list[list[Cell | None]]:
        """Cells by (row, column), all rows equally long; places under a span are None."""
        taken: set[tuple[int, int]] = set()
        placed: dict[tuple[int, int], Cell] = {}
        for row, cells in enumerate(self.rows):
            column = 0
            for cell in cells:
                while (row, column) in taken:
                    column += 1
                placed[row, column] = cell
                height, width = min(cell.rowspan, len(self.rows) - row), cell.colspan
                if len(taken) + height * width > MAX_PLACES:
                    height = width = 1
                taken.update((row + r, column + c) for r in range(height) for c in range(width))
        width = 1 + max((column for _, column in taken), default=-1)
        return [[placed.get((row, c)) for c in range(width)] for row in range(len(self.rows))]


def split_tables(text: str) -> Iterator[str | Table]:
    """The text in order, every `<table>` in it parsed; what is between tables stays as it is."""
    start = 0
    for match in _TABLE.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
        yield parse_table(match[0])
        start = match.end()
    if start < len(text):
        yield text[start:]


def parse_table(html: str) -> Table:
    """One `<table>...</table>`, complete or cut off."""
    rows, start = _Rows(), 0
    for tag in _TAG.finditer(html):
        rows.text(html[start : tag.start()])
        rows.tag(tag["name"].lower(), bool(tag["close"]), tag["attributes"])
        start = tag.end()
    rows.text(html[start:])
    rows.finish_cell()
    return Table(tuple(tuple(row) for row in rows.rows if row))


def table_html(table: Table) -> str:
    """Escaped HTML with the spans kept."""
    rows = ("<tr>" + "".join(_cell_html(cell) for cell in row) + "</tr>" for row in table.rows)
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def table_markdown(table: Table) -> str:
    """A pipe table, first row as its head; a spanned place is an empty cell."""
    lines = ["| " + " | ".join(_cell_markdown(cell) for cell in row) + " |" for row in table.grid()]
    if not lines:
        return ""
    lines.insert(1, "|" + " --- |" * len(table.grid()[0]))
    return "\n".join(lines)


def _cell_html(cell: Cell) -> str:
    tag = "th" if cell.is_header else "td"
    spans = (("rowspan", cell.rowspan), ("colspan", cell.colspan))
    attributes = "".join(f' {name}="{value}"' for name, value in spans if value > 1)
    text = escape(cell.text, quote=False).replace("\n", "<br>")
    return f"<{tag}{attributes}>{text}</{tag}>"


def _cell_markdown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return cell.text.replace("\\|", "|").replace("|", "\\|").replace("\n", "<br>")


class _Rows:
    """Rows as the tags come; text outside cells gets a cell of its own so that none is lost."""

    def __init__(self) -> None:
        self.rows: list[list[Cell]] = [[]]
        self._open: Cell | None = None
        self._text = ""

    def tag(self, name: str, is_closing: bool, attributes: str) -> None:
        if name == "br":
            self._text += "\n"
            return
        self.finish_cell()
        if is_closing:
            return
        if name == "tr":
            self.rows.append([])
        elif name in ("td", "th"):
            spans = {key.lower(): int(value) for key, value in _SPAN.findall(attributes)}
            shape = (max(spans.get(key, 1), 1) for key in ("rowspan", "colspan"))
            self._open = Cell("", *shape, is_header=name == "th")

    def text(self, text: str) -> None:
        self._text += unescape(text)

    def finish_cell(self) -> None:
        text = self._text.strip()
        shape, self._open, self._text = self._open, None, ""
        if shape is not None:
            self.rows[-1].append(replace(shape, text=text))
        elif text:
            self.rows[-1].append(Cell(text))
