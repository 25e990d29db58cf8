"""OmniDocBench.json and a folder of texts -> what the package `omnidocbench` makes of them.

Run as a program by a Python that has that package, which may be another than ours:

    PYTHON omnidocbench_driver.py OmniDocBench.json FOLDER     prints one JSON object, last

Imports nothing of vllm_dsocr. The package has a newer form of the list of pages, so each page is
put into that; its formulas by drawing (CDM) are not asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Page = dict[str, Any]

KINDS = {
    "text_block": "text",
    "equation_isolated": "equation",
    "reference": "ref_text",
    "code_txt": "code",
    "code_txt_caption": "code_caption",
    "figure_caption": "image_caption",
    "figure_footnote": "image_footnote",
}
NO_TEXT = ("figure", "abandon")


def truth(page: Page) -> Page:
    """A page in the package's form: blocks in reading order, and which are one paragraph."""
    blocks = [b for b in page["layout_dets"] if not _is_textless(b)]
    blocks.sort(key=lambda block: (block.get("order") is None, block.get("order") or 0))
    place = {block.get("anno_id"): i for i, block in enumerate(blocks)}
    relations = [
        {"relation": "truncated", "from": place[one], "to": place[other]}
        for relation in (page.get("extra") or {}).get("relation", [])
        if relation["relation_type"] == "truncated"
        for one, other in [(relation["source_anno_id"], relation["target_anno_id"])]
        if one in place and other in place
    ]
    return {"blocks": [_block(block) for block in blocks], "relations": relations}


def _is_textless(block: Page) -> bool:
    return block["category_type"] in NO_TEXT or block["category_type"].endswith("_mask")


def _block(block: Page) -> Page:
    kind = KINDS.get(block["category_type"], block["category_type"])
    content = block.get("html") or block.get("text") or block.get("latex") or ""
    return {"type": kind, "category_type": kind, "content": content, "attribute": {}}


def main(file: str, folder: str) -> None:
    """Scores every page; one that has no text counts as empty."""
    from omnidocbench.evaluate import evaluate_pages

    pages = json.loads(Path(file).read_text(encoding="utf-8"))
    pairs = []
    for page in pages:
        name = Path(page["page_info"]["image_path"]).stem
        path = Path(folder) / f"{name}.md"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        pairs.append((text, truth(page)))
    results = evaluate_pages(pairs, "unused", disable_cdm=True)
    print(json.dumps(summary(results)))


def summary(results: list[Page]) -> Page:
    """Edits are means over pages, TEDS over tables."""
    tables = [one for result in results for one in result["table"]["sections"]]
    return {
        "pages": len(results),
        "text_edit": _mean(result["text"]["edit_ratio"] for result in results),
        "formula_edit": _mean(result["equation"]["edit_ratio"] for result in results),
        "order_edit": _mean(result["reading_order"]["edit_ratio"] for result in results),
        "table_edit": _mean(result["table"]["edit_ratio"] for result in results),
        "teds": _mean(table["teds"] for table in tables),
        "teds_structure": _mean(table["s_teds"] for table in tables),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


if __name__ == "__main__":
    main(*sys.argv[1:3])
