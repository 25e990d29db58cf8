"""A small closed grammar of formulas -> printed, and the LaTeX the model writes for it.

    formula: side = side        side: term, or term op term, or term op term op term
    op: + - \\times             term: atom, atom^{d}, atom_{d}, \\frac{atom}{atom}
    atom: a letter, a number up to 99, \\pi, \\alpha, \\beta

Knows nothing of where on the page there is room.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from random import Random

from PIL import ImageDraw

from ..pages import load_font, text_width
from .marks import PRINTED, Block, Line, Mark, around, markup

FONT = "DejaVuSerif"  # has Greek
GREEK = {"\\pi": "\u03c0", "\\alpha": "\u03b1", "\\beta": "\u03b2", "\\times": "\u00d7"}
SMALL = 0.72  # size of indices
FRACTION = 0.85  # size of numerators


@dataclass(frozen=True, slots=True)
class Term:
    """`above` and `below` are the parts of a fraction, or a power and an index of `atom`."""

    atom: str = ""
    above: str = ""
    below: str = ""


def random_formula(rng: Random) -> list[Term | str]:
    """Terms and operators in order."""
    left, right = _side(rng, 2), _side(rng, 3)
    return [*left, "=", *right]


def _side(rng: Random, longest: int) -> list[Term | str]:
    side: list[Term | str] = [_term(rng)]
    for _ in range(rng.randint(1, longest) - 1):
        side += [rng.choice(["+", "-", "\\times"]), _term(rng)]
    return side


def _atom(rng: Random) -> str:
    letter = rng.choice(string.ascii_letters)
    number = str(rng.randint(1, 99))
    return rng.choice([letter, letter, letter, number, number, rng.choice(list(GREEK)[:3])])


def _term(rng: Random) -> Term:
    kind = rng.random()
    if kind < 0.2:
        return Term(above=_atom(rng), below=_atom(rng))
    if kind < 0.4:
        return Term(rng.choice(string.ascii_letters), above=str(rng.randint(2, 9)))
    if kind < 0.55:
        return Term(rng.choice(string.ascii_letters), below=str(rng.randint(0, 9)))
    return Term(_atom(rng))


@dataclass(slots=True)
class _Printer:
    draw: ImageDraw.ImageDraw
    x: float
    base: float
    size: int
    ink: int

    def width(self, piece: str, scale: float) -> float:
        return text_width(load_font(FONT, int(self.size * scale), True), GREEK.get(piece, piece))

    def piece(self, piece: str, scale: float = 1.0, raised: float = 0.0) -> list[Mark]:
        """Prints letters, digits or one symbol at x; every mark of a symbol lies on its glyph."""
        size = int(self.size * scale)
        font = load_font(FONT, size, True)
        base = self.base - raised * self.size
        middle = base - 0.33 * size
        marks: list[Mark] = []
        for glyph in GREEK.get(piece, piece):
            self.draw.text((self.x, base), glyph, fill=self.ink, font=font, anchor="ls")
            step = text_width(font, glyph)
            place = (self.x + step / 2, middle)
            name = piece if piece in GREEK else glyph
            kind = PRINTED if len(name) == 1 else 0
            marks += [Mark(char, *place, kind) for char in name]
            self.x += step
        return marks


def print_formula(
    draw: ImageDraw.ImageDraw, formula: list[Term | str], place: tuple[float, float, int, int]
) -> Block:
    """place: x, y of the upper left corner, font size px, ink. Twice that size is the height."""
    x, y, size, ink = place
    printer = _Printer(draw, x, y + 1.25 * size, size, ink)
    marks: list[Mark] = []
    for part in formula:
        if marks:
            printer.x += 0.3 * size
            marks += markup(" ", (printer.x + 0.3 * size, printer.base - 0.33 * size))
        marks += printer.piece(part) if isinstance(part, str) else _print_term(printer, part)
    box = (x, y + 0.25 * size, printer.x, y + 1.75 * size)
    end = (printer.x + 0.4 * size, printer.base - 0.33 * size)
    line = Line((*markup("\\[ ", marks[0][1:3]), *marks, *markup(" \\]", end)), box, end)
    return Block("equation", around([box]), line.marks, (line,))


def _print_term(printer: _Printer, term: Term) -> list[Mark]:
    if not term.atom:
        return _print_fraction(printer, term)
    marks = printer.piece(term.atom)
    if term.above:
        index = printer.piece(term.above, SMALL, raised=0.42)
        marks += [*markup("^{", index[0][1:3]), *index, *markup("}", index[0][1:3])]
    elif term.below:
        index = printer.piece(term.below, SMALL, raised=-0.22)
        marks += [*markup("_{", index[0][1:3]), *index, *markup("}", index[0][1:3])]
    return marks


def _print_fraction(printer: _Printer, term: Term) -> list[Mark]:
    left = printer.x
    wide = max(printer.width(piece, FRACTION) for piece in (term.above, term.below))
    bar = printer.base - 0.3 * printer.size
    printer.draw.line((left, bar, left + wide, bar), fill=printer.ink, width=2)
    parts = []
    for piece, raised in ((term.above, 0.42), (term.below, -0.52)):
        printer.x = left + (wide - printer.width(piece, FRACTION)) / 2
        parts.append(printer.piece(piece, FRACTION, raised))
    printer.x = left + wide
    above, below = parts
    return [
        *markup("\\frac{", above[0][1:3]),
        *above,
        *markup("}{", below[0][1:3]),
        *below,
        *markup("}", below[-1][1:3]),
    ]
