"""Format `layout-pdf`: the drawn pages as one file. Needs Pillow."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_dsocr.render.figures import jpeg_bytes
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.layout import drawn_pages
from vllm_dsocr.render.pdf.pictures import Picture, picture_pdf


def pieces(document: FinishedDocument) -> Iterator[bytes]:
    """The file; a page of a PDF keeps its size."""
    return picture_pdf(
        Picture(jpeg_bytes(image), *image.size, page.size_points or image.size)
        for page, image in drawn_pages(document)
    )
