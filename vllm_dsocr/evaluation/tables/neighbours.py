"""A table -> which cells lie beside, above and at the head of each. Knows nothing of facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vllm_dsocr.evaluation.tables.cells import Cell, Rows, grid_of

SIDES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
HEADINGS = {"top_heading": "up", "left_heading": "left"}


class Neighbours:
    """Cells by identity, so that two that say the same are two.

    A cell that spans several rows has as many cells to its left as rows have.
    """

    def __init__(self, rows: Rows) -> None:
        self._grid = grid_of(rows)
        self._places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.cells: list[Cell] = [cell for row in rows for cell in row]
        for place, cell in self._grid.items():
            self._places[id(cell)].append(place)
        self._end = tuple(1 + max((place[i] for place in self._grid), default=-1) for i in (0, 1))

    def beside(self, cell: Cell, side: str) -> list[Cell]:
        """The first cell that way from each of its places, each once."""
        return _once(self._first(place, cell, SIDES[side]) for place in self._places[id(cell)])

    def headings(self, cell: Cell, kind: str) -> list[Cell]:
        """All headings that way; where there are none, the cells at the edge."""
        passed = list(self._walk(cell, HEADINGS[kind]))
        headings = [other for other in passed if other.is_heading]
        return headings or [other for other in passed if not self.beside(other, HEADINGS[kind])]

    def _walk(self, start: Cell, side: str) -> Iterator[Cell]:
        seen, ahead = {id(start)}, [start]
        while ahead:
            for cell in self.beside(ahead.pop(), side):
                if id(cell) not in seen:
                    seen.add(id(cell))
                    ahead.append(cell)
                    yield cell

    def _first(self, place: tuple[int, int], cell: Cell, step: tuple[int, int]) -> Cell | None:
        row, column = place
        while True:
            row, column = row + step[0], column + step[1]
            if not (0 <= row < self._end[0] and 0 <= column < self._end[1]):
                return None
            other = self._grid.get((row, column))
            if other is not None and other is not cell:
                return other


def _once(cells: Iterator[Cell | None]) -> list[Cell]:
    return list({id(cell): cell for cell in cells if cell is not None}.values())
