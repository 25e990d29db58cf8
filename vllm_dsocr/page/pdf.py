"""A PDF file -> its pages as upright RGB images, one at a time. Needs pypdfium2.

PDFium is not safe to use from several threads at once: they take turns here. Knows nothing of tiles
or models.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllm_dsocr.page.frame import PdfFrame
from vllm_dsocr.page.source import PageError

if TYPE_CHECKING:
    import pypdfium2
    from PIL import Image

_TURN = threading.RLock()  # of the process, as PDFium is
POINTS_PER_INCH = 72
DEFAULT_DPI = 144  # what the official PDF script renders at
MAX_PDF_PIXELS = 40_000_000  # A0 at 144 dpi has 32 million; larger pages are rendered coarser
# FPDF_ERR_FILE and FPDF_ERR_PASSWORD of PDFium's public header. The first stands for "no error of
# its own" here, see `_open`.
_REASONS = {2: "the PDF has no pages", 4: "the PDF needs a password, or another one"}


class PdfFile:
    """An open PDF of at least one page.

    Raises PageError for a bad file or password, OSError for an unreadable file, ImportError without
    pypdfium2.
    """

    def __init__(self, path: str | os.PathLike[str], password: str | None = None) -> None:
        with open(path, "rb") as file:
            if not file.read(1):
                raise PageError("the PDF is empty (0 bytes)")
        with _pdf_errors("the PDF is damaged or no PDF at all"):
            self._pdf = _open(os.fspath(path), password)
            self._pdf.init_forms()  # else what was filled in is not drawn
            self.num_pages = len(self._pdf)

    def size_points(self, number: int) -> tuple[float, float]:
        """(width, height) of page `number` (from 1) as displayed, in points."""
        with _pdf_errors(f"page {number} of the PDF is damaged"):
            return self._pdf.get_page_size(number - 1)

    def frame(self, number: int) -> PdfFrame:
        """Which part of page `number` (from 1) is displayed, and how it is turned."""
        with _pdf_errors(f"page {number} of the PDF is damaged"):
            page = self._pdf[number - 1]
            try:
                crop, media = page.get_cropbox(), page.get_mediabox()
                shown = *map(max, crop[:2], media[:2]), *map(min, crop[2:], media[2:])
                return PdfFrame(tuple(shown), page.get_rotation() % 360)
            finally:
                page.close()

    def image(
        self, number: int, dpi: float = DEFAULT_DPI, max_pixels: int = MAX_PDF_PIXELS
    ) -> Image.Image:
        """Page `number` (from 1) at `dpi`, or coarser where that would exceed `max_pixels`.

        The size is worked out before anything is drawn. Raises PageError.
        """
        scale = _scale(self.size_points(number), dpi, max_pixels)
        with _pdf_errors(f"page {number} of the PDF is damaged"):
            page = self._pdf[number - 1]
            try:
                return page.render(scale=scale).to_pil().convert("RGB")
            finally:
                page.close()

    def text(self, number: int) -> str:
        """The text layer of page `number` (from 1), line by line. Raises PageError."""
        with _pdf_errors(f"page {number} of the PDF is damaged"):
            page = self._pdf[number - 1]
            try:
                text_page = page.get_textpage()
                try:
                    return "\n".join(text_page.get_text_bounded().splitlines())
                finally:
                    text_page.close()
            finally:
                page.close()

    def close(self) -> None:
        """Gives the file and PDFium's memory back."""
        with _TURN:
            self._pdf.close()


def _scale(size_points: tuple[float, float], dpi: float, max_pixels: int) -> float:
    """Pixels per point: those of `dpi`, or the most that keep the page within `max_pixels`.

    PDFium's bitmaps have both sides rounded up, so the largest scale solves
    (width * scale + 1) * (height * scale + 1) = max_pixels.
    """
    width, height = size_points
    if not (width > 0 and height > 0):
        raise PageError(f"the page has no area ({width:g}x{height:g} points)")
    half, area = (width + height) / 2, width * height
    largest = (math.sqrt(half * half + area * (max_pixels - 1)) - half) / area
    return min(dpi / POINTS_PER_INCH, largest)


def _open(path: str, password: str | None) -> pypdfium2.PdfDocument:
    """PDFium's document. It does not load one without pages, and says nothing about why.

    It then repeats the error before that, so there has to be one that a readable file cannot give.
    """
    pdfium = _pdfium()
    pdfium.raw.FPDF_LoadDocument(b"", None)
    return pdfium.PdfDocument(path, password=password)


def _pdfium() -> type[pypdfium2]:
    try:
        import pypdfium2
    except ImportError as error:
        raise ImportError("reading PDF files needs: pip install 'vllm-dsocr[pdf]'") from error
    return pypdfium2


@contextmanager
def _pdf_errors(sentence: str) -> Iterator[None]:
    """This thread's turn; what PDFium raises is a PageError with that sentence."""
    pdfium = _pdfium()
    try:
        with _TURN:
            yield
    except pdfium.PdfiumError as error:
        raise PageError(_REASONS.get(getattr(error, "err_code", 0), sentence)) from error
