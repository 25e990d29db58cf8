"""Format `docling`: a DoclingDocument, so that a result enters that ecosystem. Needs docling-core.

Boxes become provenance in the page's unit (points of a PDF, else px), HTML tables become cells,
figures become pictures with their images, captions are linked to what they belong to.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import re
from collections.abc import Callable, Iterator

try:
    from docling_core.types.doc import (
        BoundingBox,
        ContentLayer,
        DocItemLabel,
        DoclingDocument,
        DocumentOrigin,
        ImageRef,
        ProvenanceItem,
        Size,
        TableCell,
        TableData,
        TextItem,
    )
except ImportError as error:
    raise ImportError("the Docling export needs: pip install 'vllm-dsocr[docling]'") from error

from vllm_dsocr.document.blocks import Box, Figure, Page
from vllm_dsocr.document.inline import without_inline_tags
from vllm_dsocr.document.parts import Part, page_parts
from vllm_dsocr.document.tables import Table
from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.render.finished import FIGURE_MEDIA_TYPE, FinishedDocument
from vllm_dsocr.render.text.math import bare_latex
from vllm_dsocr.render.text.prose import dollar_math

_FIGURE_DPI = 144
_ITEM = re.compile(r"[ \t]*(?P<marker>[-*+•·]|[0-9]{1,4}[.)])[ \t]+(?P<text>.+)")
_FENCES = re.compile(r"\A[`~]{3,}.*\n|\n[`~]{3,}\Z")
_TEXTS = {
    "caption": DocItemLabel.CAPTION,
    "footnote": DocItemLabel.FOOTNOTE,
    "formula": DocItemLabel.FORMULA,
}


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The DoclingDocument as JSON."""
    yield docling_document(document).model_dump_json()
    yield "\n"


def docling_document(document: FinishedDocument) -> DoclingDocument:
    """The whole document; pages that could not be read are empty pages of it."""
    made = DoclingDocument(name=_text(document.title), origin=_origin(document))
    for page in document.pages():
        width, height = _size(page)
        made.add_page(page.number, Size(width=width, height=height))
        _PageItems(made, page, document.figure).add()
    return made


class _PageItems:
    """Adds one page's parts to a document, in order; a caption comes before what it belongs to."""

    def __init__(
        self, document: DoclingDocument, page: Page, figure: Callable[[Figure], bytes]
    ) -> None:
        self._document = document
        self._page = page
        self._figure = figure
        self._parts = page_parts(page)
        self._captions: dict[int, TextItem] = {}  # added already, by place

    def add(self) -> None:
        for place, part in enumerate(self._parts):
            if part.figures:
                self._add_pictures(place, part)
            elif part.table is not None:
                self._add_table(place, part, part.table)
            elif place not in self._captions:
                self._add_text(place, part)

    def _add_pictures(self, place: int, part: Part) -> None:
        caption = self._caption(place, part)
        for figure in part.figures:
            self._document.add_picture(
                image=_image(self._figure, figure),
                caption=caption,
                prov=self._place(figure.box, ""),
            )
            caption = None

    def _add_table(self, place: int, part: Part, table: Table) -> None:
        caption = self._caption(place, part)
        if caption is None and table.caption is not None:
            caption = self._document.add_text(DocItemLabel.CAPTION, _clean(table.caption.text))
        self._document.add_table(_table_data(table), caption=caption, prov=self._prov(part))

    def _caption(self, place: int, part: Part) -> TextItem | None:
        for beside in (place + 1, place - 1):
            if part.caption is None or not 0 <= beside < len(self._parts):
                continue
            other = self._parts[beside]
            if other.kind == "caption" and other.text == part.caption:
                if beside not in self._captions:
                    self._add_text(beside, other)
                return self._captions[beside]
        return None

    def _add_text(self, place: int, part: Part) -> None:
        text, prov = _clean(part.text), self._prov(part)
        if part.kind == "heading":
            self._add_heading(part, text, prov)
        elif part.kind == "list":
            self._add_list(part, prov)
        elif part.kind == "code":
            self._document.add_code(_FENCES.sub("", _text(part.text)), prov=prov)
        elif part.kind == "furniture":
            is_head = part.label in ("header", "page_header")
            label = DocItemLabel.PAGE_HEADER if is_head else DocItemLabel.PAGE_FOOTER
            layer = ContentLayer.FURNITURE
            self._document.add_text(label, text, prov=prov, content_layer=layer)
        else:
            if part.kind == "formula":
                text = _text(bare_latex(part.text))
            label = _TEXTS.get(part.kind, DocItemLabel.TEXT)
            item = self._document.add_text(label, text, orig=_text(part.text), prov=prov)
            if part.kind == "caption":
                self._captions[place] = item

    def _add_heading(self, part: Part, text: str, prov: ProvenanceItem | None) -> None:
        is_title = part.label == "title" or (part.label is None and part.level == 1)
        if is_title:
            self._document.add_title(text, prov=prov)
        else:
            self._document.add_heading(text, level=max(1, part.level - 1), prov=prov)

    def _add_list(self, part: Part, prov: ProvenanceItem | None) -> None:
        group = self._document.add_list_group()
        for line in filter(str.strip, part.text.split("\n")):
            item = _ITEM.fullmatch(line)
            marker = item["marker"] if item else "-"
            self._document.add_list_item(
                _clean(item["text"] if item else line.strip()),
                enumerated=marker[0].isdigit(),
                marker=marker,
                parent=group,
                prov=prov,
            )

    def _prov(self, part: Part) -> ProvenanceItem | None:
        return self._place(part.boxes[0], part.text) if part.boxes else None

    def _place(self, box: Box, text: str) -> ProvenanceItem:
        width, height = _size(self._page)
        left, top, right, bottom = box.fractions
        corners = BoundingBox(l=left * width, t=top * height, r=right * width, b=bottom * height)
        return ProvenanceItem(page_no=self._page.number, bbox=corners, charspan=(0, len(text)))


def _size(page: Page) -> tuple[float, float]:
    return page.size_points or (page.width, page.height)


def _clean(text: str) -> str:
    text = without_inline_tags(dollar_math(text, escape=False)).replace("\\$", "$")
    return _text(text)


def _text(text: str) -> str:
    return utf8(text).decode()


def _origin(document: FinishedDocument) -> DocumentOrigin | None:
    source = document.about.get("source", {})
    if not source.get("sha256"):
        return None
    kind = mimetypes.guess_type(document.title)[0] or "application/octet-stream"
    digest = int(source["sha256"][:16], 16)
    return DocumentOrigin(mimetype=kind, binary_hash=digest, filename=_text(document.title))


def _image(data_of: Callable[[Figure], bytes], figure: Figure) -> ImageRef | None:
    from PIL import Image
    from pydantic import AnyUrl

    try:
        data = data_of(figure)
        with Image.open(io.BytesIO(data)) as image:
            size = Size(width=image.width, height=image.height)
    except OSError:
        return None
    url = f"data:{FIGURE_MEDIA_TYPE};base64,{base64.b64encode(data).decode()}"
    return ImageRef(mimetype=FIGURE_MEDIA_TYPE, dpi=_FIGURE_DPI, size=size, uri=AnyUrl(url))


def _table_data(table: Table) -> TableData:
    grid = table.grid()
    heads = [all(cell.is_header for cell in cells) for cells in table.rows]
    cells = [
        TableCell(
            text=_clean(cell.text),
            row_span=min(cell.rowspan, len(grid) - row),
            col_span=min(cell.colspan, len(places) - column),
            start_row_offset_idx=row,
            end_row_offset_idx=min(row + cell.rowspan, len(grid)),
            start_col_offset_idx=column,
            end_col_offset_idx=min(column + cell.colspan, len(places)),
            column_header=cell.is_header and (row == 0 or heads[row]),
            row_header=cell.is_header and not heads[row] and column == 0,
        )
        for row, places in enumerate(grid)
        for column, cell in enumerate(places)
        if cell is not None
    ]
    return TableData(table_cells=cells, num_rows=len(grid), num_cols=len(grid[0]) if grid else 0)
