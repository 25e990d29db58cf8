"""Random shapes -> pictures with a clear edge, and charts whose bars can be read as a table.

Knows nothing of where on the page there is room.
"""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from ..pages import text_width
from ..words import english_words
from .marks import Block, Line, Mark, Rect, markup
from .text import DESCENT, Style, print_line


def print_figure(rng: Random, draw: ImageDraw.ImageDraw, box: Rect, paper: int, ink: int) -> Block:
    """Grey ground unlike the paper, or a frame, and shapes within it."""
    if rng.random() < 0.7:
        ground, frame = rng.randint(60, max(61, paper - 40)), rng.choice([None, ink])
    else:
        ground, frame = paper, ink
    draw.rectangle(box, fill=ground, outline=frame, width=rng.choice([1, 2, 3]))
    for _ in range(rng.randint(1, 5)):
        _shape(rng, draw, box, ground)
    return Block("image", box, ())


def _shape(rng: Random, draw: ImageDraw.ImageDraw, box: Rect, ground: int) -> None:
    x1, y1, x2, y2 = box
    fill = (ground + rng.randint(50, 190)) % 256
    xs = sorted(rng.uniform(x1 + 5, x2 - 5) for _ in range(2))
    ys = sorted(rng.uniform(y1 + 5, y2 - 5) for _ in range(2))
    corners = (xs[0], ys[0], xs[1], ys[1])
    kind = rng.randrange(4)
    if kind == 0:
        draw.ellipse(corners, fill=fill)
    elif kind == 1:
        draw.rectangle(corners, fill=fill)
    elif kind == 2:
        draw.polygon([(xs[0], ys[1]), (rng.uniform(*xs), ys[0]), (xs[1], ys[1])], fill=fill)
    else:
        points = [(x1 + 6 + (x2 - x1 - 12) * i / 6, rng.uniform(y1 + 6, y2 - 6)) for i in range(7)]
        draw.line(points, fill=fill, width=rng.randint(2, 4))


def print_chart(
    rng: Random, draw: ImageDraw.ImageDraw, box: Rect, style: Style, held_out: bool
) -> Block:
    """Bars with a word below and a number above each; the content is a table of two columns."""
    x1, y1, x2, y2 = box
    bars = rng.randint(2, 4)
    step = (x2 - x1) / bars
    words = [w for w in english_words(held_out) if 2 < len(w) < 8]
    base = y2 - 1.2 * style.size
    draw.line((x1, base, x2, base), fill=style.ink, width=2)
    names, values = [], []
    for i in range(bars):
        name, value = rng.choice(words).capitalize(), str(rng.randint(1, 10 ** rng.randint(1, 3)))
        while text_width(style.font, name) > step - 8:
            name = name[:-1]
        middle, top = x1 + step * (i + 0.5), rng.uniform(y1 + 1.3 * style.size, base - 12)
        half = step * rng.uniform(0.15, 0.4)
        draw.rectangle((middle - half, top, middle + half, base), fill=rng.randint(60, 190))
        names.append(_centred(draw, name, middle, y2 - DESCENT * style.size, style))
        values.append(_centred(draw, value, middle, top - DESCENT * style.size - 2, style))
    return Block("image", box, tuple(_chart_table(names, values)), tuple(names + values))


def _centred(
    draw: ImageDraw.ImageDraw, text: str, middle: float, base: float, style: Style
) -> Line:
    return print_line(draw, (middle - text_width(style.font, text) / 2, base), text, style)


def _chart_table(names: list[Line], values: list[Line]) -> list[Mark]:
    content = markup("<table>", names[0].marks[0][1:3])
    for name, value in zip(names, values, strict=True):
        content.append(Mark("<tr>", *name.marks[0][1:3]))
        for line in (name, value):
            content += [Mark("<td>", *line.marks[0][1:3]), *line.marks, Mark("</td>", *line.end)]
        content.append(Mark("</tr>", *value.end))
    return [*content, *markup("</table>", values[-1].end)]
