"""Format `pdf`: the pages as they were, with the text that was read behind them, to be searched.

A PDF stays what it is: each page gets one more piece of content, which draws invisible text in the
boxes of the blocks. Images become pages of a PDF first. Needs pikepdf.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

try:
    import pikepdf
except ImportError as error:
    raise ImportError("the searchable PDF needs: pip install 'vllm-dsocr[pdf]'") from error
from pikepdf import Dictionary, Name

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.page.frame import PdfFrame
from vllm_dsocr.render.figures import jpeg_bytes
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.pdf.glyphless import Characters, font_object
from vllm_dsocr.render.pdf.pictures import Picture, picture_pdf
from vllm_dsocr.render.pdf.text_layer import FONT, text_layer

_QUALITY = 90  # of images that become pages
_POINTS_PER_PIXEL = 72 / 144  # images are taken for scans of 144 dpi


def pieces(document: FinishedDocument) -> Iterator[bytes]:
    """The file; every page that was read has its text."""
    pages = list(document.pages())
    pdf, places = _source_pdf(document, pages) or _picture_pdf(document, pages)
    with pdf:
        characters = Characters()
        font = pdf.make_indirect(Dictionary())  # filled when its characters are known
        for page in pages:
            if page.number in places:
                _add_layer(pdf, pdf.pages[places[page.number]], page, characters, font)
        for key, value in font_object(pdf, characters).items():
            font[key] = value
        buffer = io.BytesIO()
        pdf.save(buffer, deterministic_id=not pdf.is_encrypted)
    yield buffer.getvalue()


def _source_pdf(
    document: FinishedDocument, pages: list[Page]
) -> tuple[pikepdf.Pdf, dict[int, int]] | None:
    """The source and where in it each page is; None when it is no PDF that can be opened."""
    if document.source is None or not any(page.frame for page in pages):
        return None
    try:
        pdf = pikepdf.open(document.source)
    except (OSError, pikepdf.PdfError):
        return None
    return pdf, {page.number: page.number - 1 for page in pages if page.number <= len(pdf.pages)}


def _picture_pdf(
    document: FinishedDocument, pages: list[Page]
) -> tuple[pikepdf.Pdf, dict[int, int]]:
    """A PDF of the page images, and where in it each page is."""
    pictures = document.pictures()
    places: dict[int, int] = {}

    def drawn() -> Iterator[Picture]:
        for page in pages:
            if (image := pictures.image(page.number)) is not None:
                places[page.number] = len(places)
                width, height = (side * _POINTS_PER_PIXEL for side in image.size)
                points = page.size_points or (width, height)
                yield Picture(jpeg_bytes(image, _QUALITY), *image.size, points)

    data = b"".join(picture_pdf(drawn()))
    return (pikepdf.open(io.BytesIO(data)) if places else pikepdf.new()), places


def _add_layer(
    pdf: pikepdf.Pdf,
    target: pikepdf.Page,
    page: Page,
    characters: Characters,
    font: pikepdf.Object,
) -> None:
    layer = text_layer(page, _frame(target), characters.encoded)
    if layer:
        target.obj.Resources = _with_font(target, font)
        target.contents_add(layer, prepend=True)


def _frame(target: pikepdf.Page) -> PdfFrame:
    """How the page of the file is displayed."""
    crop, media = (_rectangle(box) for box in (target.cropbox, target.mediabox))
    left, bottom = max(crop[0], media[0]), max(crop[1], media[1])
    right, top = min(crop[2], media[2]), min(crop[3], media[3])
    return PdfFrame((left, bottom, right, top), int(_inherited(target, "/Rotate") or 0) % 360)


def _rectangle(box: pikepdf.Object) -> tuple[float, ...]:
    x1, y1, x2, y2 = map(float, box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _with_font(target: pikepdf.Page, font: pikepdf.Object) -> pikepdf.Object:
    """The page's resources, which it may share with others, with one more font."""
    resources = Dictionary(dict((_inherited(target, "/Resources") or Dictionary()).items()))
    fonts = Dictionary(dict((resources.get("/Font") or Dictionary()).items()))
    fonts[FONT] = font
    resources[Name.Font] = fonts
    return resources


def _inherited(target: pikepdf.Page, name: str) -> pikepdf.Object | None:
    node: pikepdf.Object | None = target.obj
    depth = 0
    while node is not None and depth < 64:
        if name in node:
            return node[name]
        node, depth = node.get("/Parent"), depth + 1
    return None
