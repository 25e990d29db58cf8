"""A document whose pages are all recorded -> its finished files.

Pages are read from their records one at a time; page pictures, where a format needs them, are made
again from the source. The same records give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.record import document_json
from vllm_dsocr.page.files import SourcePage, iter_pages
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import write_atomic
from vllm_dsocr.pipeline.store import IMAGES, DocumentFolder
from vllm_dsocr.render.figures import draw_layout, figure_name, label_color, png_bytes
from vllm_dsocr.render.markdown import TableStyle, document_markdown
from vllm_dsocr.render.picture_pdf import Picture, picture_pdf
from vllm_dsocr.render.web import data_url, document_html, report_html

if TYPE_CHECKING:
    from PIL import Image

_REPORT_WIDTH = 1000  # px of page pictures in reports, at most
_JPEG_QUALITY = 80


class PagePictures:
    """Images of a document's pages, asked for in ascending order, one held at a time."""

    def __init__(self, path: Path, wanted: PageRanges, dpi: float) -> None:
        self._pages = _pages_or_none(path, wanted, dpi)

    def image(self, number: int) -> Image.Image | None:
        """The page's image; None when the source no longer gives one."""
        for page in self._pages:
            if page.number == number:
                try:
                    return page.load()
                except PageError:
                    return None
        return None


def _pages_or_none(path: Path, wanted: PageRanges, dpi: float) -> Iterator[SourcePage]:
    try:
        yield from iter_pages(path, wanted, dpi)
    except PageError:
        return


@dataclass(frozen=True, slots=True)
class FinishedDocument:
    """What every format may use.

    about: leading keys of the JSON.  numbers: the pages of this document, ascending.
    pictures: starts a pass over the page images.
    """

    title: str
    folder: DocumentFolder
    about: Mapping[str, Any]
    numbers: Sequence[int]
    pictures: Callable[[], PagePictures]
    tables: TableStyle = "html"

    def pages(self) -> Iterator[Page]:
        """A fresh pass over the pages."""
        return self.folder.pages(self.numbers)


def write_markdown(document: FinishedDocument) -> None:
    """document.md, figures as links into images/."""
    pieces = document_markdown(document.pages(), _figure_path, document.tables)
    document.folder.write("document.md", pieces)


def write_json(document: FinishedDocument) -> None:
    """document.json."""
    document.folder.write("document.json", document_json(document.about, document.pages()))


def write_html(document: FinishedDocument) -> None:
    """document.html, self-contained."""
    pieces = document_html(document.title, document.pages(), _figure_url(document))
    document.folder.write("document.html", pieces)


def write_report(document: FinishedDocument) -> None:
    """report.html, self-contained: page pictures with boxes beside the text."""
    pictures = document.pictures()

    def picture(page: Page) -> str | None:
        image = pictures.image(page.number)
        if image is None:
            return None
        image.thumbnail((_REPORT_WIDTH, image.height))
        return data_url(_jpeg(image), "image/jpeg")

    pieces = report_html(
        document.title, document.pages(), _figure_url(document), picture, label_color
    )
    document.folder.write("report.html", pieces)


def write_layout(document: FinishedDocument) -> None:
    """layout/0001.png, ...: every page with its boxes drawn over it."""
    folder = document.folder.path / "layout"
    folder.mkdir(exist_ok=True)
    for page, image in _layouts(document):
        write_atomic(folder / f"{page.number:04d}.png", [png_bytes(image)])


def write_layout_pdf(document: FinishedDocument) -> None:
    """layout.pdf: the same pictures as one file."""
    pictures = (
        Picture(_jpeg(image), *image.size, page.size_points or image.size)
        for page, image in _layouts(document)
    )
    document.folder.write("layout.pdf", picture_pdf(pictures))


def write_docling(document: FinishedDocument) -> None:
    """document.docling.json, for Docling."""
    from vllm_dsocr.render.docling import docling_document

    exported = docling_document(document.title, document.pages())
    document.folder.write("document.docling.json", [exported.model_dump_json(), "\n"])


@dataclass(frozen=True, slots=True)
class Format:
    """file: what is there, in the document's folder, once it was written."""

    file: str
    write: Callable[[FinishedDocument], None]


FORMATS = {
    "md": Format("document.md", write_markdown),
    "json": Format("document.json", write_json),
    "html": Format("document.html", write_html),
    "report": Format("report.html", write_report),
    "layout": Format("layout", write_layout),
    "layout-pdf": Format("layout.pdf", write_layout_pdf),
    "docling": Format("document.docling.json", write_docling),
}
DEFAULT_FORMATS = ("md", "json", "html")


def _figure_path(figure: Figure) -> str:
    return f"{IMAGES}/{figure_name(figure)}"


def _figure_url(document: FinishedDocument) -> Callable[[Figure], str]:
    return lambda figure: data_url(document.folder.figure(figure), "image/png")


def _layouts(document: FinishedDocument) -> Iterator[tuple[Page, Image.Image]]:
    pictures = document.pictures()
    for page in document.pages():
        image = pictures.image(page.number)
        if image is not None:
            yield page, draw_layout(image, page)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
