"""OmniDocBench's file and a folder of Markdown -> scores per kind of page.

The file lists pages with their blocks, order and text; texts are named after the images. An
estimate: blocks are matched after the benchmark's own manner, not by its own code, and formulas are
compared by spelling. Pages nobody read count as read wrong, where the benchmark leaves them out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lxml.html import HtmlElement

from vllm_dsocr.evaluation.omni_blocks import (
    FORMULA,
    TEXT,
    read_blocks,
    truth_blocks,
    truth_tables,
)  # fmt: skip
from vllm_dsocr.evaluation.omni_match import Match, match_blocks, order_distance
from vllm_dsocr.evaluation.page import find_text, tidy
from vllm_dsocr.evaluation.tables.form import paired, source, tables_of
from vllm_dsocr.evaluation.tables.teds import teds
from vllm_dsocr.metrics import edit_distance

Page = Mapping[str, Any]
METRICS = ("text_edit", "formula_edit", "table_edit", "order_edit", "teds", "teds_structure")


@dataclass(frozen=True, slots=True)
class OmniScore:
    """Edits per character or block, 0 to 1, None where the page has nothing of the kind.

    teds, teds_structure: one number per table of the page.
    """

    text_edit: float | None
    formula_edit: float | None
    table_edit: float | None
    order_edit: float | None
    teds: tuple[float, ...]
    teds_structure: tuple[float, ...]


def score(file: Path, read: Path) -> dict[str, Any]:
    """`all` and, for every attribute of pages, a summary per value; `missing` pages.

    Edits are means over pages, TEDS over tables, as published. Raises ValueError, OSError.
    """
    pages = read_pages(file)
    groups: dict[str, list[OmniScore]] = defaultdict(list)
    missing = 0
    for page in pages:
        text = find_text(read, Path(image_name(page)).stem, image_name(page))
        missing += text is None
        one = score_page(page, text or "")
        for name in ("all", *_groups(page)):
            groups[name].append(one)
    result: dict[str, Any] = {name: _summary(scores) for name, scores in groups.items()}
    return {**result, "missing": missing}


def read_pages(file: Path) -> list[Page]:
    """The pages of OmniDocBench.json. Raises ValueError for another file, OSError."""
    pages = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(pages, list) or not all(map(_is_page, pages)):
        raise ValueError(f"{file} is no list of pages with layout_dets and page_info")
    return pages


def _is_page(page: Any) -> bool:
    if not isinstance(page, dict) or not isinstance(page.get("page_info"), dict):
        return False
    return "layout_dets" in page and "image_path" in page["page_info"]


def image_name(page: Page) -> str:
    """File name of its image, without folders."""
    return Path(page["page_info"]["image_path"]).name


def score_page(page: Page, markdown: str) -> OmniScore:
    """What was read of one page against it."""
    read_tables, rest = tables_of(tidy(markdown))
    tables = [table for html in truth_tables(page) for table in tables_of(html)[0]]
    pairs = paired(read_tables, tables)
    matches = match_blocks(read_blocks(rest), truth_blocks(page))
    texts = [match for match in matches if _is_text(match)]
    return OmniScore(
        text_edit=_edits(texts),
        formula_edit=_edits(match for match in matches if not _is_text(match)),
        table_edit=_table_edits(pairs, tables),
        order_edit=order_distance(texts),
        teds=_padded([teds(*pair) for pair in pairs], len(tables)),
        teds_structure=_padded([teds(*pair, structure_only=True) for pair in pairs], len(tables)),
    )


def _is_text(match: Match) -> bool:
    """A formula that was read as text is one."""
    is_formula = match.truth[0].kind == FORMULA
    return not is_formula or any(block.kind == TEXT for block in match.read)


def _edits(matches: Iterable[Match]) -> float | None:
    pairs = [match.keys for match in matches]
    length = sum(max(len(read), len(truth)) for read, truth in pairs)
    return sum(edit_distance(*pair) for pair in pairs) / length if length else None


def _table_edits(
    pairs: list[tuple[HtmlElement, HtmlElement]], tables: list[HtmlElement]
) -> float | None:
    """Edits per character of the tables as HTML; one nobody read is all edits."""
    sources = [tuple(map(source, pair)) for pair in pairs]
    length = sum(max(map(len, pair)) for pair in sources)
    found = [id(truth) for _, truth in pairs]
    missed = sum(len(source(table)) for table in tables if id(table) not in found)
    edits = sum(edit_distance(*pair) for pair in sources)
    return (edits + missed) / (length + missed) if tables else None


def _padded(values: list[float], count: int) -> tuple[float, ...]:
    """A table nobody read counts 0."""
    return (*values, *(0.0,) * (count - len(values)))


def _summary(scores: list[OmniScore]) -> dict[str, float | int | None]:
    return {"pages": len(scores)} | {name: _mean(scores, name) for name in METRICS}


def _mean(scores: list[OmniScore], name: str) -> float | None:
    values: list[float] = []
    for score in scores:
        value = getattr(score, name)
        values += value if isinstance(value, tuple) else [value]
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _groups(page: Page) -> list[str]:
    attributes = page["page_info"].get("page_attribute") or {}
    return [f"{key}: {value}" for key, value in attributes.items() if isinstance(value, str)]
