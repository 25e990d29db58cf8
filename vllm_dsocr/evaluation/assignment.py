"""Costs of pairing rows with columns -> pairs, none used twice."""

from __future__ import annotations

from collections.abc import Sequence


def closest_pairs(
    costs: Sequence[Sequence[float]], at_most: float = float("inf")
) -> list[tuple[int, int]]:
    """(row, column), the cheapest first, as many as there are of the fewer; ties by index."""
    cells = sorted(
        (cost, i, j) for i, row in enumerate(costs) for j, cost in enumerate(row) if cost <= at_most
    )
    rows: set[int] = set()
    columns: set[int] = set()
    pairs = []
    for _, i, j in cells:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            pairs.append((i, j))
    return pairs
