"""Where the pictures of a document come from, and how a format gets into its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_dsocr.page.files import ReadOptions, SourcePage, iter_pages
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import write_atomic
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.formats import Format

if TYPE_CHECKING:
    from PIL import Image


def write_format(format: Format, document: FinishedDocument, folder: Path) -> list[str]:
    """Puts the format's files into a folder, each of them at once; their names below it."""
    names = []
    for name, pieces in format.files(document):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, pieces)
        names.append(name)
    return names


class PagePictures:
    """Images of a document's pages, asked for in ascending order, one held at a time."""

    def __init__(self, path: Path, wanted: PageRanges, options: ReadOptions) -> None:
        self._pages = _pages_or_none(path, wanted, options)

    def image(self, number: int) -> Image.Image | None:
        """The page's image; None when the source no longer gives one."""
        for page in self._pages:
            if page.number == number:
                try:
                    return page.load()
                except PageError:
                    return None
        return None


def _pages_or_none(path: Path, wanted: PageRanges, options: ReadOptions) -> Iterator[SourcePage]:
    try:
        yield from iter_pages(path, wanted, options)
    except (PageError, ImportError):
        return
