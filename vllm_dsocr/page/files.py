"""A file on disk -> its pages, lazily, whatever its format.

Knows which formats there are, not how they are decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_dsocr.config import ALPHAS
from vllm_dsocr.page.frame import PdfFrame
from vllm_dsocr.page.pdf import DEFAULT_DPI, PdfFile
from vllm_dsocr.page.ranges import ALL_PAGES, PageRanges
from vllm_dsocr.page.sniff import HEAD_BYTES, file_kind, kind_of
from vllm_dsocr.page.source import PageError, count_frames, iter_frames

if TYPE_CHECKING:
    from PIL import Image

# Files with these names are pages even where their content is not recognised: they get a reason.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jp2", ".jpx", ".j2k", ".avif", ".heic", ".heif", ".pbm", ".pgm", ".ppm", ".pnm"),
)
PDF_SUFFIX = ".pdf"
PAGE_SUFFIXES = (*IMAGE_SUFFIXES, PDF_SUFFIX)


class SourceError(PageError):
    """A file that is not there or may not be read: nothing is known of its pages."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the pages of a file are made.

    dpi: of PDF pages.  alpha: see `config.PageOptions`.  password: of encrypted PDFs.
    """

    dpi: float = DEFAULT_DPI
    alpha: str = ALPHAS[0]
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class SourcePage:
    """A page that can be read: `load()` gives its image or raises PageError.

    number counts from 1 in its file.  size_points: (width, height) as displayed, and frame: only
    for pages of a PDF.  text: gives the text layer of a PDF's page.
    """

    number: int
    load: Callable[[], Image.Image]
    size_points: tuple[float, float] | None = None
    frame: PdfFrame | None = None
    text: Callable[[], str] | None = None


def iter_pages(
    path: Path, wanted: PageRanges = ALL_PAGES, options: ReadOptions = ReadOptions()
) -> Generator[SourcePage, None, None]:
    """The wanted pages of a file in order, none where it has none of them.

    Each must be loaded before the next is asked for; pages fail one by one, in `load`. Raises
    PageError for a file that holds no pages at all, SourceError for one that cannot be opened.
    """
    try:
        make = _pdf_pages if is_pdf(path) else _image_pages
        yield from make(path, wanted, options)
    except OSError as error:
        raise SourceError(f"cannot open the file: {error.strerror or error}") from error


def count_pages(
    path: Path, wanted: PageRanges = ALL_PAGES, options: ReadOptions = ReadOptions()
) -> int:
    """How many pages will come, from headers alone: 1 for files that cannot be read."""
    try:
        number = _num_pages(path, options)
    except (PageError, OSError, ImportError):
        return 1
    return sum(page in wanted for page in range(1, number + 1))


def _num_pages(path: Path, options: ReadOptions) -> int:
    if not is_pdf(path):
        return count_frames(path)
    pdf = PdfFile(path, options.password)
    pdf.close()
    return pdf.num_pages


def is_pdf(path: Path) -> bool:
    """By content; by name where the content is not recognised. Raises OSError, SourceError."""
    if (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    ):  # a pipe would be read up by it
        raise SourceError("it is no file but a pipe or a device; `-` reads what comes on stdin")
    kind = file_kind(path)
    return kind == "pdf" or (kind is None and path.suffix.lower() == PDF_SUFFIX)


def holds_pages(path: Path) -> bool:
    """Whether a file found in a folder is to be read: by name or, whatever its name, by content."""
    if path.suffix.lower() in PAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return kind_of(head) == "image" or head.lstrip().startswith(b"%PDF-")


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pdf_pages(path: Path, wanted: PageRanges, options: ReadOptions) -> Iterator[SourcePage]:
    pdf = PdfFile(path, options.password)
    try:
        for number in range(1, pdf.num_pages + 1):
            if number in wanted:
                yield _pdf_page(pdf, number, options.dpi)
    finally:
        pdf.close()


def _pdf_page(pdf: PdfFile, number: int, dpi: float) -> SourcePage:
    try:
        frame: PdfFrame | None = pdf.frame(number)
        size: tuple[float, float] | None = pdf.size_points(number)
    except PageError:
        size = frame = None  # loading it will say so
    return SourcePage(number, lambda: pdf.image(number, dpi), size, frame, lambda: pdf.text(number))


def _image_pages(path: Path, wanted: PageRanges, options: ReadOptions) -> Iterator[SourcePage]:
    """Frames are decoded on the way; damage in one ends the file with a page that cannot load."""
    frames = iter_frames(path, alpha=options.alpha)
    number = 0
    while wanted.last is None or number < wanted.last:
        number += 1
        try:
            frame = next(frames, None)
        except PageError as error:
            if number in wanted:
                yield SourcePage(number, _raiser(error))
            return
        if frame is None:
            return
        if number in wanted:
            yield SourcePage(number, partial(_same, frame))


def _same(image: Image.Image) -> Image.Image:
    return image


def _raiser(error: PageError) -> Callable[[], Image.Image]:
    def load() -> Image.Image:
        raise error

    return load
