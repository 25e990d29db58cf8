"""Pages -> a DoclingDocument, so that a result enters that ecosystem. Needs docling-core.

Boxes become provenance in page pixels, HTML tables become table cells, figures become pictures.
Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

try:
    from docling_core.types.doc import (
        BoundingBox,
        ContentLayer,
        DocItemLabel,
        DoclingDocument,
        ProvenanceItem,
        Size,
        TableCell,
        TableData,
    )
except ImportError as error:
    raise ImportError("the Docling export needs: pip install 'vllm-dsocr[docling]'") from error

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.document.tables import Table, split_tables
from vllm_dsocr.render.finished import FinishedDocument

_HEADINGS = ("title", "sub_title")
_LABELS = {
    "table_caption": DocItemLabel.CAPTION,
    "image_caption": DocItemLabel.CAPTION,
    "table_footnote": DocItemLabel.FOOTNOTE,
    "image_footnote": DocItemLabel.FOOTNOTE,
    "page_footnote": DocItemLabel.FOOTNOTE,
    "equation": DocItemLabel.FORMULA,
    "list": DocItemLabel.LIST_ITEM,
    "header": DocItemLabel.PAGE_HEADER,
    "footer": DocItemLabel.PAGE_FOOTER,
    "page_number": DocItemLabel.PAGE_FOOTER,
}
_FURNITURE = (DocItemLabel.PAGE_HEADER, DocItemLabel.PAGE_FOOTER)


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The DoclingDocument as JSON."""
    yield docling_document(document.title, document.pages()).model_dump_json()
    yield "\n"


def docling_document(name: str, pages: Iterable[Page]) -> DoclingDocument:
    """The whole document; pages that could not be read are empty pages of it."""
    document = DoclingDocument(name=name)
    for page in pages:
        document.add_page(page.number, Size(width=page.width, height=page.height))
        for block in page.blocks:
            _add_block(document, block, page)
    return document


def _add_block(document: DoclingDocument, block: Block, page: Page) -> None:
    if block.is_figure:
        for place in _provenance(block, page):
            document.add_picture(prov=place)
    for part in split_tables(block.content):
        place = next(iter(_provenance(block, page)), None)
        if isinstance(part, Table):
            document.add_table(_table_data(part), prov=place)
        elif part.strip():
            _add_text(document, part.strip(), block.label or "text", place)


def _add_text(
    document: DoclingDocument, text: str, label: str, place: ProvenanceItem | None
) -> None:
    heading = re.fullmatch(r"(#{1,6})\s+(.+)", text)
    if heading or label in _HEADINGS:
        level = len(heading[1]) if heading else 1 + _HEADINGS.index(label)
        document.add_heading(heading[2] if heading else text, level=level, prov=place)
        return
    kind = _LABELS.get(label, DocItemLabel.TEXT)
    layer = ContentLayer.FURNITURE if kind in _FURNITURE else ContentLayer.BODY
    if kind is DocItemLabel.LIST_ITEM:
        document.add_list_item(text, prov=place)
    else:
        document.add_text(kind, text, prov=place, content_layer=layer)


def _provenance(block: Block, page: Page) -> list[ProvenanceItem]:
    """One place per box; Docling's boxes are in the page's own unit, origin top left."""
    places = []
    for box in block.boxes:
        left, top, right, bottom = box.pixels(page.width, page.height)
        corners = BoundingBox(l=left, t=top, r=right, b=bottom)
        span = (0, len(block.content))
        places.append(ProvenanceItem(page_no=page.number, bbox=corners, charspan=span))
    return places


def _table_data(table: Table) -> TableData:
    grid = table.grid()
    cells = [
        TableCell(
            text=cell.text,
            row_span=cell.rowspan,
            col_span=cell.colspan,
            start_row_offset_idx=row,
            end_row_offset_idx=min(row + cell.rowspan, len(grid)),
            start_col_offset_idx=column,
            end_col_offset_idx=min(column + cell.colspan, len(cells_of_row)),
            column_header=cell.is_header,
        )
        for row, cells_of_row in enumerate(grid)
        for column, cell in enumerate(cells_of_row)
        if cell is not None
    ]
    return TableData(table_cells=cells, num_rows=len(grid), num_cols=len(grid[0]) if grid else 0)
