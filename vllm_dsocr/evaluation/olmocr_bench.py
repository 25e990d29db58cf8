"""olmOCR-bench's folder and a candidate's Markdown -> share of its facts that hold, file by file.

    bench_data/*.jsonl                               one fact about one page a line
    bench_data/CANDIDATE/PDF_pgPAGE_repeatN.md       what was read; PDF may lie in folders

Facts about text, order and tables are checked; a text may be `max_diffs` edits away. Formulas need
a browser to be drawn and formats a Markdown parser: those are counted as skipped.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any

from vllm_dsocr.document.tables import Cell, Table, split_tables
from vllm_dsocr.metrics import closest_distance

Fact = Mapping[str, Any]
_MARKUP = re.compile(r"</?[bi]>|\*\*|__")
_ASCII = str.maketrans("‘’‚“”„＿–—‑‒−µ", "'''\"\"\"_-----μ")
_PIPES = re.compile(r"(?:^[ \t]*\|.*\|[ \t]*(?:\n|\Z))+", re.MULTILINE)
_RULE = re.compile(r"[\s|:-]+")


def plain(text: str) -> str:
    """Without emphasis, in ASCII punctuation, white space as single spaces."""
    text = _MARKUP.sub("", re.sub(r"<br\s*/?>", " ", text)).translate(_ASCII)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def is_near(part: str, text: str, max_diffs: int) -> bool:
    """Whether the text holds the part, up to so many edits."""
    return closest_distance(part, text)[0] <= max_diffs


def _is_present(fact: Fact, text: str) -> bool:
    part, text = plain(fact["text"]), plain(text)
    if not fact.get("case_sensitive", True):
        part, text = part.lower(), text.lower()
    first, last = fact.get("first_n"), fact.get("last_n")
    if first or last:
        text = (text[:first] if first else "") + (text[-last:] if last else "")
    return is_near(part, text, fact.get("max_diffs", 0))


def _is_absent(fact: Fact, text: str) -> bool:
    return not _is_present(fact, text)


def _is_ordered(fact: Fact, text: str) -> bool:
    """Whether the second text stands behind the first of the closest places of the first."""
    text, allowed = plain(text), fact.get("max_diffs", 0)
    distance, end = closest_distance(plain(fact["before"]), text)
    return distance <= allowed and is_near(plain(fact["after"]), text[end:], allowed)


def _is_in_table(fact: Fact, text: str) -> bool:
    return any(_has_neighbours(fact, grid) for grid in _grids(text))


def _grids(text: str) -> Iterator[list[list[str]]]:
    for part in split_tables(text):
        tables = [part] if isinstance(part, Table) else map(_pipe_table, _PIPES.findall(part))
        yield from (_filled(table) for table in tables)


def _pipe_table(text: str) -> Table:
    lines = [line.strip().strip("|") for line in text.strip().splitlines()]
    rows = [line.split("|") for line in lines if not _RULE.fullmatch(line)]
    return Table(tuple(tuple(Cell(cell.strip()) for cell in row) for row in rows))


def _filled(table: Table) -> list[list[str]]:
    """Texts by row and column; a spanned place has the text of its cell."""
    grid = [["" if cell is None else plain(cell.text) for cell in row] for row in table.grid()]
    for r, row in enumerate(table.grid()):
        for c, cell in enumerate(row):
            if cell is not None:
                for place in range(1, cell.rowspan * cell.colspan):
                    down, right = divmod(place, cell.colspan)
                    if r + down < len(grid) and c + right < len(row):
                        grid[r + down][c + right] = plain(cell.text)
    return grid


def _has_neighbours(fact: Fact, grid: list[list[str]]) -> bool:
    places = [(r, c) for r, row in enumerate(grid) for c in range(len(row))]
    return any(_same(fact, "cell", grid[r][c]) and all(_look(fact, grid, r, c)) for r, c in places)


def _look(fact: Fact, grid: list[list[str]], r: int, c: int) -> Iterator[bool]:
    for side, (row, column) in _SIDES.items():
        if fact.get(side):
            y, x = r + row, c + column
            inside = 0 <= y < len(grid) and 0 <= x < len(grid[r])
            yield inside and _same(fact, side, grid[y][x])
    if fact.get("top_heading"):
        yield any(_same(fact, "top_heading", grid[y][c]) for y in range(r))
    if fact.get("left_heading"):
        yield any(_same(fact, "left_heading", grid[r][x]) for x in range(c))


_SIDES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def _same(fact: Fact, key: str, text: str) -> bool:
    return is_near(plain(fact[key]), text, fact.get("max_diffs", 0))


def _is_readable(fact: Fact, text: str) -> bool:
    return any(char.isalnum() for char in text)


CHECKS: dict[str, Callable[[Fact, str], bool]] = {
    "present": _is_present,
    "absent": _is_absent,
    "order": _is_ordered,
    "table": _is_in_table,
    "baseline": _is_readable,
}


def score(bench: Path, candidate: str) -> dict[str, Any]:
    """`files`: share of facts that hold per JSONL; `overall`: their mean; what was skipped.

    Several repeats of a page count as their mean. A page without text fails every fact.
    Raises ValueError when there are no facts or no candidate.
    """
    files = sorted(bench.glob("*.jsonl"))
    if not files or not (bench / candidate).is_dir():
        raise ValueError(f"{bench} needs *.jsonl and a folder {candidate!r}")
    shares: dict[str, list[float]] = defaultdict(list)
    skipped: Counter[str] = Counter()
    for file in files:
        for fact in map(json.loads, filter(str.strip, file.read_text("utf-8").splitlines())):
            if fact["type"] in CHECKS:
                shares[file.stem].append(_share(fact, bench / candidate))
            else:
                skipped[fact["type"]] += 1
    means = {name: fmean(values) for name, values in shares.items()}
    overall = fmean(means.values()) if means else None
    return {"overall": overall, "files": means, "skipped": dict(skipped)}


def _share(fact: Fact, folder: Path) -> float:
    texts = list(_texts(fact, folder)) or [""]
    if not any(texts):
        return 0.0
    return fmean(CHECKS[fact["type"]](fact, text) for text in texts)


def _texts(fact: Fact, folder: Path) -> Iterator[str]:
    pdf = PurePosixPath(fact["pdf"])
    if pdf.is_absolute() or ".." in pdf.parts:
        raise ValueError(f"{fact['pdf']} is no path inside the benchmark")
    name = re.compile(re.escape(f"{pdf.stem}_pg{fact['page']}_repeat") + r"\d+\.md")
    for path in sorted((folder / pdf.parent).glob("*.md")):
        if name.fullmatch(path.name):
            yield path.read_text(encoding="utf-8")
