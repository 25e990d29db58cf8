"""What a printed block leaves behind: its box, its lines, and its content token by token.

Coordinates are pixels of the page (or strip) the block was drawn on. Knows nothing of images,
fonts, tasks or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Point = tuple[float, float]
Rect = tuple[float, float, float, float]  # x1, y1, x2, y2

# What a mark is, for losses and counts.
MARKUP, PRINTED, CORNER = range(3)


class Mark(NamedTuple):
    """One token of an answer: an ASCII character or a special token, and where to look for it.

    kind: PRINTED for ink at the point, CORNER for a digit of a coordinate, MARKUP for the rest.
    """

    text: str
    x: float
    y: float
    kind: int = MARKUP


def markup(text: str, point: Point) -> list[Mark]:
    """Unprinted characters, all looked for at one point."""
    return [Mark(char, *point) for char in text]


@dataclass(frozen=True, slots=True)
class Line:
    """One printed line. box: from its highest letters to its lowest; end: just behind it."""

    marks: tuple[Mark, ...]
    box: Rect
    end: Point
    edges: tuple[tuple[float, float], ...] = ()  # left and right of every mark, px

    @property
    def text(self) -> str:
        return "".join(mark.text for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Block:
    """One labelled part of a page.

    content: what Markdown says of it, tag not included. lines: what is printed, line by line.
    """

    label: str
    box: Rect
    content: tuple[Mark, ...]
    lines: tuple[Line, ...] = ()

    @property
    def end(self) -> Point:
        """Just behind the last thing printed."""
        return self.lines[-1].end if self.lines else (self.box[2], self.box[3])


def around(boxes: Iterable[Rect]) -> Rect:
    """The smallest rectangle around some."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def joined(lines: Sequence[Line], separator: str) -> list[Mark]:
    """Marks of lines; what separates them is looked for just behind the line it follows."""
    marks: list[Mark] = []
    for i, line in enumerate(lines):
        if i:
            marks += markup(separator, lines[i - 1].end)
        marks += line.marks
    return marks
