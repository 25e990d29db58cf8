"""Two tables -> TEDS, one minus the tree edit distance per node (arXiv 1911.10683, sec. 5).

The trees are table, rows, cells: head and body are not told apart, nor th from td.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_dsocr.document.tables import Cell, Table
from vllm_dsocr.metrics import normalised_distance

MAX_CELLS = 1_000  # beyond, a table counts as wrong: the distance takes the product of both sizes
Label = str | Cell


@dataclass(frozen=True, slots=True)
class _Tree:
    """Nodes in postorder. first: the leftmost leaf below each.  roots: where subtrees begin."""

    labels: list[Label]
    first: list[int]

    @property
    def roots(self) -> list[int]:
        last = {leaf: node for node, leaf in enumerate(self.first)}
        return sorted(last.values())


def teds(table: Table, truth: Table, structure_only: bool = False) -> float:
    """0 to 1. structure_only: whatever the cells say."""
    cells = max(sum(map(len, one.rows)) for one in (table, truth))
    nodes = max(sum(len(row) + 1 for row in one.rows) for one in (table, truth))
    if cells > MAX_CELLS:
        return float(table == truth)
    distance = _tree_distance(_tree(table), _tree(truth), structure_only)
    return max(0.0, 1 - distance / max(1, nodes))


def _tree(table: Table) -> _Tree:
    labels: list[Label] = []
    first: list[int] = []
    for row in table.rows:
        start = len(labels)
        for cell in row:
            first.append(len(labels))
            labels.append(cell)
        first.append(start)
        labels.append("tr")
    return _Tree([*labels, "table"], [*first, 0])


def _tree_distance(a: _Tree, b: _Tree, structure_only: bool) -> float:
    """Zhang and Shasha's algorithm: forests by postorder, larger ones built from smaller."""
    distances = [[0.0] * len(b.labels) for _ in a.labels]
    for i in a.roots:
        for j in b.roots:
            _fill(distances, (a, i), (b, j), structure_only)
    return distances[-1][-1]


def _fill(
    distances: list[list[float]], left: tuple[_Tree, int], right: tuple[_Tree, int], plain: bool
) -> None:
    """The distances of all pairs of subtrees that begin at the leaves of this pair's."""
    (a, i), (b, j) = left, right
    a_start, b_start = a.first[i], b.first[j]
    if (a_start, b_start) == (i, j):  # two leaves, by far the most frequent pair
        distances[i][j] = _change(a.labels[i], b.labels[j], plain)
        return
    row = [float(n) for n in range(j - b_start + 2)]
    rows = [row]
    for x in range(a_start, i + 1):
        row = [rows[-1][0] + 1]
        for y in range(b_start, j + 1):
            shorter = min(rows[-1][y - b_start + 1], row[-1]) + 1
            if a.first[x] == a_start and b.first[y] == b_start:
                same = rows[-1][y - b_start] + _change(a.labels[x], b.labels[y], plain)
                distances[x][y] = min(shorter, same)
                row.append(distances[x][y])
            else:
                rest = rows[a.first[x] - a_start][b.first[y] - b_start]
                row.append(min(shorter, rest + distances[x][y]))
        rows.append(row)


def _change(a: Label, b: Label, structure_only: bool) -> float:
    """0 for the same, 1 for another kind of node, between the two for another text."""
    if isinstance(a, str) or isinstance(b, str):
        return float(a != b)
    if (a.rowspan, a.colspan) != (b.rowspan, b.colspan):
        return 1.0
    same = structure_only or a.text == b.text
    return 0.0 if same else normalised_distance(a.text, b.text)
