"""Words -> printed titles, paragraphs, lists, captions: blocks of lines.

Paragraphs are printed in lines and said in one. Knows nothing of where on the page there is room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import ImageDraw, ImageFont

from ..pages import draw_line, text_width
from .marks import PRINTED, Block, Line, Mark, Point, around, joined, markup

ASCENT, DESCENT = 0.76, 0.24  # of the font size: the letters' reach around the base line


@dataclass(frozen=True, slots=True)
class Style:
    """A font, its size in px, the distance of base lines in px, and the ink's grey."""

    font: ImageFont.FreeTypeFont
    size: int
    pitch: float
    ink: int


def print_line(draw: ImageDraw.ImageDraw, start: Point, text: str, style: Style) -> Line:
    """Prints one line whose letters begin at `start`, left end of the base line."""
    x, base = start
    spans = draw_line(draw, start, text, style.font, style.ink, 0.0)
    middle = base - 0.33 * style.size
    marks = tuple(
        Mark(char, (a + b) / 2, middle, PRINTED) for char, (a, b) in zip(text, spans, strict=True)
    )
    right = spans[-1][1]
    box = (x, base - ASCENT * style.size, right, base + DESCENT * style.size)
    return Line(marks, box, (right + 0.4 * style.size, middle), tuple(spans))


def fill_lines(
    words: Iterator[str], style: Style, width: float, max_lines: int, max_chars: int
) -> list[str]:
    """Lines of words, none wider than `width` px; words too wide for it are left out."""
    lines, line, chars = [], "", 0
    for _ in range(200):
        word = next(words)
        if text_width(style.font, word) > width:
            continue
        if line and chars + len(word) >= max_chars:
            break
        longer = f"{line} {word}" if line else word
        if text_width(style.font, longer) > width:
            lines.append(line)
            longer = word
            if len(lines) == max_lines:
                return lines
        line = longer
        chars += len(word) + 1
    return [*lines, line] if line else lines


def print_lines(
    draw: ImageDraw.ImageDraw, lines: list[str], place: Point, style: Style, center: float = 0.0
) -> list[Line]:
    """Lines from `place`, the upper left corner; centred in `center` px when that is not 0."""
    printed = []
    for i, text in enumerate(lines):
        shift = (center - text_width(style.font, text)) / 2 if center else 0.0
        base = place[1] + ASCENT * style.size + i * style.pitch
        printed.append(print_line(draw, (place[0] + shift, base), text, style))
    return printed


def text_block(label: str, lines: list[Line], before: str = "", after: str = "") -> Block:
    """Lines said as one line, with unprinted markup before and after."""
    first = lines[0].marks[0]
    content = [
        *markup(before, (first.x, first.y)),
        *joined(lines, " "),
        *markup(after, lines[-1].end),
    ]
    return Block(label, around(line.box for line in lines), tuple(content), tuple(lines))


def list_block(
    draw: ImageDraw.ImageDraw, items: list[list[str]], place: Point, style: Style, round_: bool
) -> Block:
    """Items of one or more lines behind bullets; said as `- item`, one item a line."""
    indent = 0.9 * style.size
    y, lines, content = place[1], [], []
    for item in items:
        base = y + ASCENT * style.size
        bullet = _bullet(draw, (place[0], base), style, round_)
        printed = print_lines(draw, item, (place[0] + indent, y), style)
        if content:
            content += markup("  \n", lines[-1].end)
        content += [bullet, *markup(" ", (printed[0].marks[0].x, bullet.y)), *joined(printed, " ")]
        lines += printed
        y += style.pitch * len(item)
    box = around(line.box for line in lines)
    return Block("text", (place[0], *box[1:]), tuple(content), tuple(lines))


def _bullet(draw: ImageDraw.ImageDraw, start: Point, style: Style, round_: bool) -> Mark:
    x, base = start
    middle = base - 0.33 * style.size
    if round_:
        r = 0.14 * style.size
        draw.ellipse((x + 1, middle - r, x + 1 + 2 * r, middle + r), fill=style.ink)
    else:
        draw.text(start, "-", fill=style.ink, font=style.font, anchor="ls")
    return Mark("-", x + 0.2 * style.size, middle, PRINTED)
