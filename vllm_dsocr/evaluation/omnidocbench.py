"""OmniDocBench's file and a folder of Markdown -> scores per kind of page.

The file lists pages with their blocks, order and text; texts are named after the images. Blocks are
put together in their order and compared as a whole, so numbers are near the benchmark's own, whose
matching of blocks is its own affair, but not the same: published tables are made by its script from
the very same folder.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_dsocr.evaluation.page import PageScore, find_text, score_page, summary

TABLE = "table"
# What readers are asked to leave out, and what carries no text.
LEFT_OUT = (
    "header", "footer", "page_number", "page_footnote", "abandon", "figure", "need_mask",
    "table_mask", "text_mask", "organic_chemical_formula_mask", "algorithm_mask",
)  # fmt: skip
Page = Mapping[str, Any]


def truth_text(page: Page) -> str:
    """Text, formulas and tables (as HTML) of a page in reading order, as paragraphs."""
    blocks = [block for block in page["layout_dets"] if _counts(block)]
    blocks.sort(key=lambda block: block["order"])
    return "\n\n".join(_block_text(block) for block in blocks)


def _counts(block: Page) -> bool:
    wanted = block.get("category_type") not in LEFT_OUT and not block.get("ignore")
    return wanted and block.get("order") is not None and bool(_block_text(block))


def _block_text(block: Page) -> str:
    if block["category_type"] == TABLE:
        return block.get("html") or ""
    return block.get("text") or block.get("latex") or ""


def score(file: Path, read: Path) -> dict[str, Any]:
    """`all` and, for every attribute of pages, a summary per value. Raises ValueError, OSError."""
    pages = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(pages, list) or not all("layout_dets" in page for page in pages):
        raise ValueError(f"{file} is no list of pages with layout_dets")
    groups: dict[str, list[PageScore]] = defaultdict(list)
    for page in pages:
        one = _score(page, read)
        for name in ("all", *_groups(page)):
            groups[name].append(one)
    result: dict[str, Any] = {name: summary(scores) for name, scores in groups.items()}
    result["missing"] = _missing(pages, read)
    return result


def _score(page: Page, read: Path) -> PageScore:
    name = _image(page)
    return score_page(name, _read(read, name) or "", truth_text(page))


def _image(page: Page) -> str:
    return Path(page["page_info"]["image_path"]).name


def _read(folder: Path, image: str) -> str | None:
    return find_text(folder, Path(image).stem, image)


def _groups(page: Page) -> list[str]:
    attributes = page["page_info"].get("page_attribute") or {}
    return [f"{key}: {value}" for key, value in attributes.items() if isinstance(value, str)]


def _missing(pages: Sequence[Page], read: Path) -> int:
    return sum(_read(read, _image(page)) is None for page in pages)
