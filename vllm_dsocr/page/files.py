"""A file on disk -> its pages, lazily, whatever its format.

Knows which formats there are, not how they are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_dsocr.page.frame import PdfFrame
from vllm_dsocr.page.pdf import DEFAULT_DPI, PdfFile
from vllm_dsocr.page.ranges import ALL_PAGES, PageRanges
from vllm_dsocr.page.source import PageError, iter_frames

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".gif",
    ".jp2",
    ".avif",
)
PDF_SUFFIX = ".pdf"
PAGE_SUFFIXES = (*IMAGE_SUFFIXES, PDF_SUFFIX)
_PDF_MAGIC, _PDF_MAGIC_WITHIN = b"%PDF-", 1024  # readers allow some bytes before the header


@dataclass(frozen=True, slots=True, eq=False)
class SourcePage:
    """A page that can be read: `load()` gives its image or raises PageError.

    number counts from 1 in its file.  size_points: (width, height) as displayed, and frame: only
    for pages of a PDF.
    """

    number: int
    load: Callable[[], Image.Image]
    size_points: tuple[float, float] | None = None
    frame: PdfFrame | None = None


def iter_pages(
    path: Path, wanted: PageRanges = ALL_PAGES, dpi: float = DEFAULT_DPI
) -> Generator[SourcePage, None, None]:
    """The wanted pages of a file in order; each must be loaded before the next is asked for.

    Pages of one PDF fail one by one, in `load`. Raises PageError for a file that cannot be read at
    all or has none of the wanted pages.
    """
    try:
        pages = _pdf_pages(path, wanted, dpi) if is_pdf(path) else _image_pages(path, wanted)
        first = next(pages, None)
    except OSError as error:
        raise PageError(f"cannot open the file: {error.strerror}") from error
    if first is None:
        raise PageError(f"the file has no page in {wanted}")
    yield first
    yield from pages


def count_pages(path: Path, wanted: PageRanges = ALL_PAGES) -> int:
    """How many pages will come, as far as that is known cheaply: at least 1, for bad files too."""
    try:
        if not is_pdf(path):
            return 1
        pdf = PdfFile(path)
    except (PageError, OSError):
        return 1
    pdf.close()
    return max(1, sum(number in wanted for number in range(1, pdf.num_pages + 1)))


def is_pdf(path: Path) -> bool:
    """By name or, whatever the name, by content."""
    if path.suffix.lower() == PDF_SUFFIX:
        return True
    with path.open("rb") as file:
        return _PDF_MAGIC in file.read(_PDF_MAGIC_WITHIN)


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pdf_pages(path: Path, wanted: PageRanges, dpi: float) -> Iterator[SourcePage]:
    pdf = PdfFile(path)
    try:
        for number in range(1, pdf.num_pages + 1):
            if number in wanted:
                yield _pdf_page(pdf, number, dpi)
    finally:
        pdf.close()


def _pdf_page(pdf: PdfFile, number: int, dpi: float) -> SourcePage:
    try:
        size_points, frame = pdf.size_points(number), pdf.frame(number)
    except PageError:
        size_points = frame = None  # loading it will say so
    return SourcePage(number, lambda: pdf.image(number, dpi), size_points, frame)


def _image_pages(path: Path, wanted: PageRanges) -> Iterator[SourcePage]:
    """Frames are decoded on the way; damage in one ends the file with a page that cannot load."""
    frames = iter_frames(path)
    number = 0
    while wanted.last is None or number < wanted.last:
        number += 1
        try:
            frame = next(frames, None)
        except PageError as error:
            if number == 1:
                raise
            yield SourcePage(number, _raiser(error))
            return
        if frame is None:
            return
        if number in wanted:
            yield SourcePage(number, lambda image=frame: image)


def _raiser(error: PageError) -> Callable[[], Image.Image]:
    def load() -> Image.Image:
        raise error

    return load
