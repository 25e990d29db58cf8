"""Two HTML tables -> TEDS, one minus the tree edit distance per node (arXiv 1911.10683, sec. 5).

The trees are the published ones: table, thead or tbody, tr, td; a th counts as a td. What stands in
a cell is its characters and the tags among them. A table too large for the exact distance is
aligned row by row, which never scores higher.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apted import APTED, Config
from lxml.html import HtmlElement

from vllm_dsocr.metrics import edit_distance, normalised_distance

MAX_NODES = 300  # of the larger table; the exact distance takes seconds there, minutes at 1,000
Tokens = tuple[str, ...]


@dataclass(slots=True)
class Node:
    """A node of the tree. content: of a cell, characters and tags; empty elsewhere."""

    tag: str
    spans: tuple[int, int] = (1, 1)
    content: Tokens = ()
    children: list[Node] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Nodes below and this one."""
        return 1 + sum(child.size for child in self.children)


class _Costs(Config):  # type: ignore[misc]
    """1 for another kind of node or span, the distance of the contents for two cells."""

    def rename(self, node1: Node, node2: Node) -> float:
        return _change(node1, node2)


def teds(read: HtmlElement, truth: HtmlElement, structure_only: bool = False) -> float:
    """0 to 1, of two `table` elements. structure_only: whatever the cells say."""
    trees = [_tree(element, structure_only) for element in (read, truth)]
    nodes = max(sum(1 for _ in element.iterdescendants("*")) for element in (read, truth))
    if max(tree.size for tree in trees) > MAX_NODES:
        distance = _row_distance(*trees)
    else:
        distance = APTED(*trees, _Costs()).compute_edit_distance()
    return max(0.0, 1 - distance / max(1, nodes))


def _tree(element: HtmlElement, structure_only: bool) -> Node:
    if element.tag in ("td", "th"):
        content = () if structure_only else tuple(_tokens(element))
        return Node("td", (_span(element, "colspan"), _span(element, "rowspan")), content)
    children = [_tree(child, structure_only) for child in element.iterchildren("*")]
    return Node(str(element.tag), children=children)


def _span(cell: HtmlElement, name: str) -> int:
    value = cell.get(name, "1").strip()
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 5 else 1


def _tokens(element: HtmlElement) -> list[str]:
    tokens = list(element.text or "")
    for child in element.iterchildren("*"):
        inner = [f"<{child.tag}>", *_tokens(child), f"</{child.tag}>"]
        tokens += [*inner, *(child.tail or "")]
    return tokens


def _change(a: Node, b: Node) -> float:
    if (a.tag, a.spans) != (b.tag, b.spans):
        return 1.0
    return normalised_distance(a.content, b.content)


def _row_distance(a: Node, b: Node) -> float:
    """Of the best alignment of rows in which a row is the same if all its cells are.

    Rows aligned with each other then count what changes from cell to cell.
    """
    rows = [_rows(tree) for tree in (a, b)]
    keys: dict[Any, int] = {}
    ids = [
        [[keys.setdefault((c.spans, c.content), len(keys)) for c in row.children] for row in table]
        for table in rows
    ]
    sections = abs((a.size - 1 - sum(row.size for row in rows[0]))
                   - (b.size - 1 - sum(row.size for row in rows[1])))  # fmt: skip
    distance = float(sections)
    for i, j in _alignment(*ids):
        if i is None or j is None:
            distance += rows[0][i].size if i is not None else rows[1][j or 0].size
        elif ids[0][i] != ids[1][j]:
            distance += _cell_distance(rows[0][i].children, rows[1][j].children)
    return distance


def _rows(node: Node) -> list[Node]:
    return [
        row
        for child in node.children
        for row in ([child] if child.tag == "tr" else _rows(child))
        if row.tag == "tr"
    ]


def _alignment(a: list[list[int]], b: list[list[int]]) -> list[tuple[int | None, int | None]]:
    """Pairs of indices, None where a row stands alone, by a sequence's edit distance."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    table = [[float(sum(1 + len(row) for row in b[start:j])) for j in range(start, len(b) + 1)]]
    for row in a[start:]:
        last, line = table[-1], [table[-1][0] + 1 + len(row)]
        for j, other in enumerate(b[start:]):
            same = last[j] + edit_distance(row, other)
            line.append(min(same, last[j + 1] + 1 + len(row), line[j] + 1 + len(other)))
        table.append(line)
    return [(k, k) for k in range(start)] + _path(table, a[start:], b[start:], start)


def _path(
    table: list[list[float]], a: list[list[int]], b: list[list[int]], start: int
) -> list[tuple[int | None, int | None]]:
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(a), len(b)
    while i or j:
        if i and j and table[i][j] == table[i - 1][j - 1] + edit_distance(a[i - 1], b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((start + i, start + j))
        elif i and table[i][j] == table[i - 1][j] + 1 + len(a[i - 1]):
            i -= 1
            pairs.append((start + i, None))
        else:
            j -= 1
            pairs.append((None, start + j))
    return pairs[::-1]


def _cell_distance(a: list[Node], b: list[Node]) -> float:
    last = [float(j) for j in range(len(b) + 1)]
    for i, cell in enumerate(a, 1):
        line = [float(i)]
        for j, other in enumerate(b):
            same = last[j] + _change(cell, other)
            line.append(min(same, last[j + 1] + 1, line[j] + 1))
        last = line
    return last[-1]
