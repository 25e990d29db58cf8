"""Random cells -> a printed table with rules, and the HTML the model writes for it in one line.

Cells may span two columns or two rows. Knows nothing of where on the page there is room.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import ImageDraw

from ..pages import text_width
from ..words import english_words, figures
from .marks import Block, Line, Mark, Point, markup
from .text import ASCENT, DESCENT, Style, print_line

MAX_CELL = 10  # characters


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and how many columns and rows it fills, from (row, col) on."""

    text: str
    row: int
    col: int
    colspan: int = 1
    rowspan: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says; `rows` x `cols` is its grid."""

    rows: int
    cols: int
    cells: tuple[Cell, ...]


def random_table(rng: Random, held_out: bool, rows: int, cols: int) -> Table:
    """A grid with a header row; sometimes a cell spans two columns of it or two rows below it."""
    wide = rng.randrange(cols - 1) if cols > 2 and rng.random() < 0.25 else None
    tall = rng.randrange(1, rows - 1) if rows > 2 and rng.random() < 0.2 else None
    cells = []
    for row in range(rows):
        for col in range(cols):
            if (row == 0 and wide is not None and col == wide + 1) or (
                col == 0 and tall is not None and row == tall + 1
            ):
                continue
            colspan = 2 if row == 0 and col == wide else 1
            rowspan = 2 if col == 0 and row == tall else 1
            text = _text(rng, held_out, word=row == 0 or col == 0)
            cells.append(Cell(text, row, col, colspan, rowspan))
    return Table(rows, cols, tuple(cells))


def _text(rng: Random, held_out: bool, word: bool) -> str:
    if word or rng.random() < 0.25:
        words = english_words(held_out)
        text = next(w for w in iter(lambda: rng.choice(words), None) if len(w) <= MAX_CELL)
        return rng.choice([text.capitalize(), text.capitalize(), text, text.upper()])
    stream = figures(rng, held_out)
    return next(w for w in stream if len(w) <= MAX_CELL)


@dataclass(frozen=True, slots=True)
class Grid:
    """Edges of columns and rows, px."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]


def table_grid(rng: Random, table: Table, style: Style, place: Point, width: float) -> Grid | None:
    """Where the rules run, from the upper left corner on; None where `width` px is too little."""
    pad = rng.uniform(0.3, 0.7) * style.size
    widths = [0.0] * table.cols
    for cell in table.cells:
        need = text_width(style.font, cell.text) + 2 * pad
        for col in range(cell.col, cell.col + cell.colspan):
            widths[col] = max(widths[col], need / cell.colspan)
    total = sum(widths)
    if total > width:
        return None
    stretch = rng.uniform(1.0, width / total) if rng.random() < 0.7 else 1.0
    xs = [place[0]]
    for each in widths:
        xs.append(xs[-1] + each * stretch)
    height = style.size * rng.uniform(1.25, 1.7)
    return Grid(tuple(xs), tuple(place[1] + i * height for i in range(table.rows + 1)))


def print_table(
    rng: Random, draw: ImageDraw.ImageDraw, table: Table, grid: Grid, style: Style
) -> Block:
    """Rules and texts; the block's box is the outermost rules."""
    box = (grid.xs[0], grid.ys[0], grid.xs[-1], grid.ys[-1])
    _rule(rng, draw, table, grid, style.ink)
    shares = [rng.choice([0.0, 0.0, 0.5, 1.0]) for _ in range(table.cols)]
    lines: list[Line] = []
    content = markup("<table>", _inside(table.cells[0], grid))
    row = -1
    for cell in table.cells:
        line = _print_cell(draw, cell, grid, style, shares[cell.col])
        start, end = (line.marks[0].x, line.marks[0].y), line.end
        if cell.row != row:
            content += [Mark("</tr>", *lines[-1].end)] if lines else []
            content.append(Mark("<tr>", *start))
            row = cell.row
        content += [*_opening(cell, start), *line.marks, Mark("</td>", *end)]
        lines.append(line)
    content += [Mark("</tr>", *lines[-1].end), *markup("</table>", lines[-1].end)]
    return Block("table", box, tuple(content), tuple(lines))


def _opening(cell: Cell, point: Point) -> list[Mark]:
    if cell.colspan > 1:
        return markup(f'<td colspan="{cell.colspan}">', point)
    if cell.rowspan > 1:
        return markup(f'<td rowspan="{cell.rowspan}">', point)
    return [Mark("<td>", *point)]


def _inside(cell: Cell, grid: Grid) -> Point:
    return (grid.xs[cell.col] + 8, (grid.ys[cell.row] + grid.ys[cell.row + cell.rowspan]) / 2)


def _print_cell(
    draw: ImageDraw.ImageDraw, cell: Cell, grid: Grid, style: Style, share: float
) -> Line:
    """share: of the free width that lies left of the text."""
    left, right = grid.xs[cell.col], grid.xs[cell.col + cell.colspan]
    top, bottom = grid.ys[cell.row], grid.ys[cell.row + cell.rowspan]
    pad = 0.28 * style.size
    free = right - left - 2 * pad - text_width(style.font, cell.text)
    base = (top + bottom) / 2 + (ASCENT - DESCENT) / 2 * style.size
    return print_line(draw, (left + pad + free * share, base), cell.text, style)


def _rule(rng: Random, draw: ImageDraw.ImageDraw, table: Table, grid: Grid, ink: int) -> None:
    """Rules all round, or horizontal ones alone."""
    thick = rng.choice([1, 2, 2, 3])
    if rng.random() < 0.3:
        for y in (grid.ys[0], grid.ys[1], grid.ys[-1]):
            draw.line((grid.xs[0], y, grid.xs[-1], y), fill=ink, width=thick)
        return
    for cell in table.cells:
        x1, y1 = grid.xs[cell.col], grid.ys[cell.row]
        x2, y2 = grid.xs[cell.col + cell.colspan], grid.ys[cell.row + cell.rowspan]
        for line in ((x1, y1, x2, y1), (x1, y2, x2, y2), (x1, y1, x1, y2), (x2, y1, x2, y2)):
            draw.line(line, fill=ink, width=thick)
