"""What goes from stage to stage: one row a page or an event of a document, as Arrow tables.

    drawn          a page to read: `image` is its RGB bytes
    page           a page that is recorded
    kept           a document that was finished before
    end            all pages of a document have been seen
    failed         a document that cannot be read, or no further
    in_use         a document that another run is writing
    lost, full     what ends the run: no engine, no place to write

Knows nothing of Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["drawn", "page", "kept", "end", "failed", "in_use", "lost", "full"]
SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("kind", pa.string()),
        ("page", pa.int64()),
        ("facts", pa.string()),
        ("image", pa.large_binary()),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """document: its place among the files of the run.  page: 0 for events of a document."""

    document: int
    kind: Kind
    page: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    image: Any = b""


def table(rows: list[Row]) -> pa.Table:
    """The rows as columns."""
    columns: list[list[Any]] = [
        [row.document for row in rows],
        [row.kind for row in rows],
        [row.page for row in rows],
        [json.dumps(row.facts) for row in rows],
        [row.image for row in rows],
    ]
    arrays = [pa.array(v, kind.type) for v, kind in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def rows_of(batch: pa.Table) -> Iterator[Row]:
    """The rows of a table; images are views into it."""
    names = ("document", "kind", "page", "facts")
    values = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    for (document, kind, page, facts), image in zip(values, batch.column("image"), strict=True):
        yield Row(document, kind, page, json.loads(facts), image.as_buffer())
