"""A seed becomes a page with layout: a grey image and its blocks in reading order.

The domain: 640 px wide, ASCII text of 24-28 px under larger headings, one or two columns, ruled
tables, grey figures, display formulas, a line at the head or foot. Knows nothing of answers, tokens
or training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from PIL import Image, ImageDraw

from ..pages import FONTS, HELD_OUT_SEED, PAGE_SIDE, add_noise, load_font, text_width
from ..words import english_words, layout_words
from .figures import print_chart, print_figure
from .formulas import print_formula, random_formula
from .marks import Block, Line, Rect
from .tables import print_table, random_table, table_grid
from .text import Style, fill_lines, list_block, print_lines, text_block

SIDE_BY_SIDE = 0.2  # share of pages with two columns
KINDS = {"text": 0.40, "list": 0.12, "table": 0.16, "image": 0.16, "equation": 0.07, "head": 0.09}
BODY_FONTS = (3, 3, 1, 3, 2)  # weights of FONTS: bold is for headings
MAX_CHARS = 260  # printed on a full page; a lower page gets its share


@dataclass(frozen=True, slots=True)
class LayoutPage:
    """image: mode L. blocks: in reading order. chart: whether the page is one chart to parse."""

    image: Image.Image
    blocks: tuple[Block, ...]
    chart: bool = False

    @property
    def lines(self) -> list[Line]:
        """Everything printed, in reading order."""
        return [line for block in self.blocks for line in block.lines]


@dataclass(slots=True)
class _Pen:
    """What all blocks of a page share, and how many characters it may still print."""

    rng: Random
    draw: ImageDraw.ImageDraw
    held_out: bool
    words: Iterator[str]
    body: Style
    paper: int
    chars: int

    def style(self, size: int, bold: bool) -> Style:
        name = "DejaVuSans-Bold" if bold else self.rng.choice(FONTS)
        return Style(load_font(name, size, True), size, size * 1.2, self.body.ink)

    def plain_words(self) -> Iterator[str]:
        """English words for headings and captions."""
        words = english_words(self.held_out)
        return iter(lambda: self.rng.choice(words), None)


def render_layout(
    rng: Random, height: int = PAGE_SIDE, held_out: bool = False, max_chars: int = MAX_CHARS
) -> LayoutPage:
    """A random page of PAGE_SIDE x `height` px; the same for the same state of `rng`."""
    image, pen = _blank(rng, height, held_out, max_chars)
    left, right = rng.uniform(12, 50), PAGE_SIDE - rng.uniform(12, 50)
    top, bottom = rng.uniform(8, 36), height - rng.uniform(8, 30)
    blocks: list[Block] = []
    if height == PAGE_SIDE and rng.random() < 0.15:
        blocks.append(_margin_line(pen, "header", (left, 6, right, 6)))
        top = blocks[0].box[3] + 16
    foot = None
    if height == PAGE_SIDE and rng.random() < 0.15:
        foot = _margin_line(pen, "footer", (left, height - 32, right, height - 32))
        bottom = foot.box[1] - 16
    if rng.random() < 0.6:
        title = _heading(pen, "title", (left, top, right, bottom))
        if title:
            blocks.append(title)
            top = title.box[3] + _gap(pen)
    blocks += _body(pen, (left, top, right, bottom))
    if foot:
        blocks.append(foot)
    if rng.random() < 1 / 3:
        image = add_noise(rng, image)
    return LayoutPage(image, tuple(blocks))


def render_chart(rng: Random, height: int = PAGE_SIDE, held_out: bool = False) -> LayoutPage:
    """A page that is one bar chart."""
    image, pen = _blank(rng, height, held_out, MAX_CHARS)
    left, top = rng.uniform(16, 120), rng.uniform(8, max(9, height - 300))
    right = rng.uniform(left + 400, PAGE_SIDE - 16)
    bottom = min(height - 12.0, top + rng.uniform(220, 420))
    chart = print_chart(rng, pen.draw, (left, top, right, bottom), pen.body, held_out)
    return LayoutPage(image, (chart,), chart=True)


def held_out_layouts(n: int, seed: int = 0, height: int = PAGE_SIDE) -> list[LayoutPage]:
    """`n` pages of words and seeds that training never uses."""
    return [render_layout(Random(HELD_OUT_SEED + seed + i), height, True) for i in range(n)]


def held_out_charts(n: int, seed: int = 0, height: int = PAGE_SIDE) -> list[LayoutPage]:
    """`n` charts of words and seeds that training never uses."""
    return [render_chart(Random(HELD_OUT_SEED + seed + i), height, True) for i in range(n)]


def _blank(rng: Random, height: int, held_out: bool, max_chars: int) -> tuple[Image.Image, _Pen]:
    paper, ink = rng.randint(215, 255), rng.randint(0, 70)
    image = Image.new("L", (PAGE_SIDE, height), paper)
    size = rng.choice([24, 25, 26, 26, 27, 28])
    font = load_font(rng.choices(FONTS, BODY_FONTS)[0], size, True)
    body = Style(font, size, size * rng.uniform(1.14, 1.4), ink)
    chars = int(max_chars * rng.uniform(0.4, 1.0) * max(0.35, height / PAGE_SIDE))
    draw, words = ImageDraw.Draw(image), layout_words(rng, held_out)
    return image, _Pen(rng, draw, held_out, words, body, paper, chars)


def _gap(pen: _Pen) -> float:
    """Free px between blocks: clearly more than between lines."""
    return pen.body.pitch - pen.body.size + pen.body.size * pen.rng.uniform(0.5, 1.3)


def _body(pen: _Pen, room: Rect) -> list[Block]:
    x1, y1, x2, y2 = room
    if y2 - y1 < 250 or pen.rng.random() > SIDE_BY_SIDE:
        return _column(pen, room)
    gutter = pen.rng.uniform(30, 50)
    middle = (x1 + x2) / 2
    chars = pen.chars
    pen.chars = chars // 2
    blocks = _column(pen, (x1, y1, middle - gutter / 2, y2))
    pen.chars = chars - chars // 2
    return blocks + _column(pen, (middle + gutter / 2, y1, x2, y2))


def _column(pen: _Pen, room: Rect) -> list[Block]:
    """Blocks one below the other until room or characters are used up."""
    x1, y, x2, bottom = room
    blocks: list[Block] = []
    while pen.chars > 12:
        kind = pen.rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "head" and blocks and blocks[-1].label in ("sub_title", "title"):
            kind = "text"
        made = _MAKERS[kind](pen, (x1, y, x2, bottom))
        if not made:
            break
        blocks += made
        pen.chars -= sum(len(line.marks) for block in made for line in block.lines)
        pen.chars -= 24 * len(made)  # a tag costs the reader as much as a line
        y = max(block.box[3] for block in made) + _gap(pen)
    return blocks


def _rows(pen: _Pen, room: Rect, style: Style) -> int:
    free = room[3] - room[1]
    return int((free - style.size) // style.pitch) + 1 if free >= style.size else 0


def _text(pen: _Pen, room: Rect) -> list[Block]:
    rows = min(_rows(pen, room, pen.body), pen.rng.choice([1, 2, 2, 3, 3, 4, 5]))
    if rows < 1:
        return []
    lines = fill_lines(pen.words, pen.body, room[2] - room[0], rows, min(pen.chars, 150))
    if not lines:
        return []
    return [text_block("text", print_lines(pen.draw, lines, room[:2], pen.body))]


def _list(pen: _Pen, room: Rect) -> list[Block]:
    rows, width = _rows(pen, room, pen.body), room[2] - room[0] - pen.body.size
    items = []
    for _ in range(pen.rng.choice([2, 2, 3])):
        longest = pen.rng.choice([1, 1, 1, 2])
        lines = fill_lines(pen.words, pen.body, width, longest, pen.rng.randint(8, 45))
        if lines and sum(map(len, items)) + len(lines) <= rows:
            items.append(lines)
    if len(items) < 2:
        return []
    return [list_block(pen.draw, items, room[:2], pen.body, pen.rng.random() < 0.6)]


def _head(pen: _Pen, room: Rect) -> list[Block]:
    head = _heading(pen, "sub_title", room)
    return [head] if head else []


def _heading(pen: _Pen, label: str, room: Rect) -> Block | None:
    large = label == "title"
    style = pen.style(pen.rng.randint(*((34, 38) if large else (29, 32))), pen.rng.random() < 0.8)
    width = room[2] - room[0]
    lines = _words_in_line(pen, style, width, pen.rng.randint(1, 3))
    if not lines or room[3] - room[1] < style.size:
        return None
    center = width if large and pen.rng.random() < 0.4 else 0.0
    printed = print_lines(pen.draw, lines, room[:2], style, center)
    return text_block(label, printed, "# " if large else "## ")


def _words_in_line(pen: _Pen, style: Style, width: float, count: int) -> list[str]:
    words = pen.plain_words()
    text = " ".join(next(words) for _ in range(count)).capitalize()
    while text and text_width(style.font, text) > width:
        text = text.rpartition(" ")[0]
    return [text] if text else []


def _margin_line(pen: _Pen, label: str, room: Rect) -> Block:
    style = replace(pen.body, font=load_font(pen.rng.choice(FONTS), 24, True), size=24)
    width = room[2] - room[0]
    lines = [] if pen.rng.random() < 0.3 else _words_in_line(pen, style, width, 2)
    lines = lines or [f"Page {pen.rng.randint(1, 99)}"]
    center = width if pen.rng.random() < 0.5 else 0.0
    return text_block(label, print_lines(pen.draw, lines, room[:2], style, center))


def _caption(pen: _Pen, label: str, room: Rect) -> Block | None:
    name = "Figure" if label == "image_caption" else "Table"
    if room[3] - room[1] < pen.body.size:
        return None
    words = _words_in_line(pen, pen.body, 2 * PAGE_SIDE, pen.rng.randint(1, 2))
    text = f"{name} {pen.rng.randint(1, 9)}: {words[0]}"
    if text_width(pen.body.font, text) > room[2] - room[0]:
        text = text.partition(":")[0]
    width = room[2] - room[0]
    center = width if label == "image_caption" or pen.rng.random() < 0.4 else 0.0
    printed = print_lines(pen.draw, [text], room[:2], pen.body, center)
    return text_block(label, printed, "<center>", " </center>")


def _table(pen: _Pen, room: Rect) -> list[Block]:
    blocks: list[Block] = []
    x1, y, x2, bottom = room
    rows, cols = pen.rng.randint(2, 4), pen.rng.randint(2, 3)
    table = random_table(pen.rng, pen.held_out, rows, cols)
    grid = table_grid(pen.rng, table, pen.body, (x1, y), x2 - x1)
    if grid is None or grid.ys[-1] > bottom or sum(len(c.text) for c in table.cells) > pen.chars:
        return _text(pen, room)
    if pen.rng.random() < 0.25 and grid.ys[-1] + 1.5 * pen.body.size < bottom:
        caption = _caption(pen, "table_caption", (x1, y, x2, bottom))
        if caption:
            blocks.append(caption)
            shift = caption.box[3] + 0.35 * pen.body.size - y
            grid = replace(grid, ys=tuple(edge + shift for edge in grid.ys))
    return [*blocks, print_table(pen.rng, pen.draw, table, grid, pen.body)]


def _image(pen: _Pen, room: Rect) -> list[Block]:
    x1, y, x2, bottom = room
    high = min(bottom - y, pen.rng.uniform(70, 190))
    if high < 60:
        return []
    wide = min(x2 - x1, pen.rng.uniform(100, 420))
    left = x1 + (x2 - x1 - wide) * pen.rng.choice([0.0, 0.5, 0.5, pen.rng.random()])
    captioned = pen.rng.random() < 0.5 and high > 60 + 1.5 * pen.body.size
    if captioned:
        high = min(high, bottom - y - 1.5 * pen.body.size)
    box = (left, y, left + wide, y + high)
    blocks = [print_figure(pen.rng, pen.draw, box, pen.paper, pen.body.ink)]
    # Under the figure: as far to both sides as the page allows.
    half = min(left + wide / 2 - x1, x2 - left - wide / 2)
    middle = left + wide / 2
    below = (middle - half, y + high + 0.3 * pen.body.size, middle + half, bottom)
    caption = _caption(pen, "image_caption", below) if captioned else None
    return [*blocks, caption] if caption else blocks


def _equation(pen: _Pen, room: Rect) -> list[Block]:
    size = pen.rng.randint(28, 34)
    if room[3] - room[1] < 2 * size or room[2] - room[0] < 400:
        return _text(pen, room)
    left = room[0] + pen.rng.uniform(0, 60)
    formula = random_formula(pen.rng)
    return [print_formula(pen.draw, formula, (left, room[1], size, pen.body.ink))]


_MAKERS = {
    "text": _text,
    "list": _list,
    "table": _table,
    "image": _image,
    "equation": _equation,
    "head": _head,
}
