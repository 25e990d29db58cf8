"""Format `chunks`: JSON lines for retrieval, each a piece of text with its headings and its places.

A chunk ends where a heading begins, and where it would grow beyond MAX_CHARS; a part is never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from vllm_dsocr.document.parts import Part
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.markdown import parts_markdown
from vllm_dsocr.render.text.joining import PageParts, joined, parts_of

MAX_CHARS = 1600  # about 400 tokens, which embedding models take whole

Place = tuple[int, Part]  # page number, part


def pieces(document: FinishedDocument) -> Iterator[str]:
    """One JSON object a line: id, headings (outermost first), text (Markdown), pages, boxes."""
    pages: Iterable[PageParts] = joined(parts_of(document.pages(), furniture=False))
    for index, (headings, places) in enumerate(_chunks(pages)):
        yield json_text(_record(document, index, headings, places)) + "\n"


def _chunks(pages: Iterable[PageParts]) -> Iterator[tuple[list[str], list[Place]]]:
    """Headings and parts of each chunk; headings with nothing below them are one of their own."""
    headings: list[Place] = []
    places: list[Place] = []
    size, is_told = 0, True  # whether the innermost heading is in a chunk
    for number, part in ((page.page.number, part) for page in pages for part in page.parts):
        length = _length(part)
        if places and (part.kind == "heading" or size + length > MAX_CHARS):
            yield [held.text for _, held in headings], places
            places, size, is_told = [], 0, True
        if part.kind == "heading":
            if not is_told and headings[-1][1].level >= part.level:
                yield [held.text for _, held in headings], []
            headings = [place for place in headings if place[1].level < part.level]
            headings.append((number, part))
            is_told = False
        elif length:
            places.append((number, part))
            size += length
    if places or not is_told:
        yield [held.text for _, held in headings], places


def _length(part: Part) -> int:
    if part.table is not None:
        return sum(len(cell.text) for row in part.table.rows for cell in row) or 1
    return len(part.text)


def _record(
    document: FinishedDocument, index: int, headings: list[str], places: list[Place]
) -> dict[str, Any]:
    numbers = sorted({number for number, _ in places})
    boxes = dict.fromkeys(
        (number, part.label, box) for number, part in places for box in part.boxes
    )
    return {
        "id": f"{document.about.get('source', {}).get('sha256') or document.title}-{index}",
        "file": document.about.get("source", {}).get("name", document.title),
        "headings": headings,
        "text": parts_markdown((part for _, part in places), document.link, document.options),
        "pages": numbers,
        "boxes": [
            {"page": number, "label": label, "box": box.corners} for number, label, box in boxes
        ],
    }
