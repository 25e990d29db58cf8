"""Rows -> a table for people, the same in Markdown, and one JSON object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Row

MIB = 2**20
COLUMNS = ("what", "time", "of peak", "MiB", "error", "")
WIDTHS = ("<46", ">11", ">8", ">9", ">18", "")


def cells(row: Row) -> tuple[str, ...]:
    """One text per column; empty where nothing was measured."""
    return (
        row.name,
        "" if row.seconds is None else duration(row.seconds),
        "" if row.share is None else f"{row.share:.1%}",
        "" if row.peak is None else f"{row.peak / MIB:.1f}",
        "" if row.error is None else verdict(row),
        row.note,
    )


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def verdict(row: Row) -> str:
    limit = f" <= {row.allowed:g}" if row.ok else f" > {row.allowed:g} WRONG"
    return f"{row.error:.2g}{limit}"


def line(row: Row | None = None) -> str:
    """For a terminal; without a row the heads of the columns."""
    texts = cells(row) if row else COLUMNS
    return " ".join(f"{text:{width}}" for text, width in zip(texts, WIDTHS, strict=True)).rstrip()


def as_json(rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Every row under its name with what was measured; NaN, which JSON lacks, becomes text."""
    measured = {}
    for row in rows:
        values = {k: v for k, v in asdict(row).items() if k != "name" and v not in (None, "")}
        measured[row.name] = {
            k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }
    return {**facts, "ok": all(row.ok for row in rows), "rows": measured}


def write(path: Path, rows: Sequence[Row], title: str, facts: Sequence[str]) -> None:
    """The report as Markdown."""
    lines = [f"# {title}", "", *facts, "", *markdown(rows), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---|" + "---:|" * (len(COLUMNS) - 2) + "---|"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "/") for cell in cells(row)) + " |"
