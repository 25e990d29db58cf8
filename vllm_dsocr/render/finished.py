"""What every format may use of a document whose pages are read: pages, pictures, wishes.

Knows no folders: whoever has the pages, on disk or in memory, says how to get at them.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vllm_dsocr.document.blocks import Figure, Page

if TYPE_CHECKING:
    from PIL import Image

IMAGES = "images"  # the folder of figures, beside the document
FIGURE_SUFFIX, FIGURE_MEDIA_TYPE = ".png", "image/png"

FigureLink = Callable[[Figure], str]
TableStyle = Literal["html", "markdown"]
MathStyle = Literal["dollar", "official"]
MarkdownStyle = Literal["tidy", "official"]


class Pictures(Protocol):
    """One pass over the page images."""

    def image(self, number: int) -> Image.Image | None:
        """The page's image, None when there is none; pages are asked for in ascending order."""
        ...


class NoPictures:
    """Of a document whose page images are not at hand."""

    def image(self, number: int) -> Image.Image | None:
        return None


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How documents are written; every format heeds what concerns it.

    tables: in Markdown, as HTML or as pipe tables.  math: `$`/`$$`, or `\\(`/`\\[` as the official
    code has it.  markdown: `official` writes pages as the official post-processing does.
    furniture: whether headers, footers and page numbers are written.  page_comments: whether
    Markdown has a comment where a page begins.  join_pages: whether a table or paragraph that runs
    over a page's end is put together.
    """

    tables: TableStyle = "html"
    math: MathStyle = "dollar"
    markdown: MarkdownStyle = "tidy"
    furniture: bool = True
    page_comments: bool = True
    join_pages: bool = False


DEFAULTS = RenderOptions()


def figure_name(figure: Figure) -> str:
    """File name of a figure's crop, unique in its document."""
    return f"{figure.page:04d}-{figure.index}{FIGURE_SUFFIX}"


def figure_path(figure: Figure) -> str:
    """Where a figure lies, seen from the document's files."""
    return f"{IMAGES}/{figure_name(figure)}"


@dataclass(frozen=True, slots=True)
class FinishedDocument:
    """A document to be written.

    pages: a fresh pass over the pages, ascending.  figure: PNG bytes of a figure's crop, raises
    OSError where it is gone.  pictures: starts a pass over the page images.  about: leading keys of
    the JSON.  source: the input file, if it is at hand.  link: what Markdown calls a figure.
    """

    title: str
    pages: Callable[[], Iterable[Page]]
    figure: Callable[[Figure], bytes]
    pictures: Callable[[], Pictures] = NoPictures
    about: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None
    options: RenderOptions = DEFAULTS
    link: FigureLink = figure_path
