"""Format `json`: everything known of a document; `docs/document.schema.json` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.parts import Part, page_parts
from vllm_dsocr.document.record import page_record
from vllm_dsocr.document.tables import Table
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.render.finished import FigureLink, FinishedDocument
from vllm_dsocr.render.txt import parts_text

FORMAT = "dsocr-document"
FORMAT_VERSION = 2


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The JSON, one page a line; the document's `about` is among its leading keys."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, **document.about}
    yield json_text(head, indent=1)[:-2] + ',\n "pages": [\n'
    separator = "  "
    for page in document.pages():
        yield separator + json_text(full_record(page, document.link))
        separator = ",\n  "
    yield "\n ]\n}\n"


def full_record(page: Page, link: FigureLink) -> dict[str, Any]:
    """The page's record, with what can be worked out of it for those who read no markup."""
    parts = page_parts(page)
    record = page_record(page)
    for index, block in enumerate(record["blocks"]):
        block |= _worked_out([part for part in parts if part.block == index], link)
    return {**record, "plain_text": parts_text(parts)}


def _worked_out(parts: list[Part], link: FigureLink) -> dict[str, Any]:
    """Clean text of a block; its figures' files, its tables' cells where it has any."""
    found: dict[str, Any] = {"text": parts_text(parts)}
    if figures := [link(figure) for part in parts for figure in part.figures]:
        found["figures"] = figures
    if tables := [_table(part.table) for part in parts if part.table is not None]:
        found["tables"] = tables
    if captions := [part.caption for part in parts if part.caption]:
        found["caption"] = captions[0]
    return found


def _table(table: Table) -> dict[str, Any]:
    cells = [
        {
            "row": row,
            "column": column,
            "rowspan": cell.rowspan,
            "colspan": cell.colspan,
            "is_header": cell.is_header,
            "text": cell.text,
        }
        for row, places in enumerate(table.grid())
        for column, cell in enumerate(places)
        if cell is not None
    ]
    caption = table.caption.text if table.caption else None
    return {"num_rows": len(table.rows), "caption": caption, "cells": cells}
