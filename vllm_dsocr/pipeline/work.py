"""What a run is asked to do, and what that means for one page: it is looked at, read, kept.

Where and when is the run's affair. `Work` is plain values, so that it can go to other processes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.page.blank import is_blank
from vllm_dsocr.page.files import ReadOptions, SourceError, SourcePage, content_hash, is_pdf
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import is_hopeless
from vllm_dsocr.pipeline.finish import OutputSettings, Recipe, is_unanswered
from vllm_dsocr.pipeline.retry import better, failed_page, read_page
from vllm_dsocr.pipeline.settings import DEFAULT_EFFORT, Effort, ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.render.figures import crop_figures

if TYPE_CHECKING:
    from PIL import Image

_TEXT_TASKS = ("markdown", "ocr", "free")  # what a blank page has no answer to


class TooManyFailures(Exception):
    """So many pages in a row got no answer that going on is pointless."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A page that was drawn: what is known of it so far, its image, and whether nothing is on it.

    spare: what may stand in for its text, "" where there is nothing.
    """

    page: Page
    image: Image.Image
    is_blank: bool
    spare: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadPage:
    """A page with its text and the image, turned as the page is, that its boxes are in.

    is_answered: whether the engine said anything.  versions: of what takes part in it.
    """

    page: Page
    image: Image.Image
    seconds: float
    is_answered: bool
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Work:
    """How pages are read and tried, which of them, and what is written; `password` is of PDFs."""

    settings: ReadSettings
    output: OutputSettings
    effort: Effort = DEFAULT_EFFORT
    password: str | None = field(default=None, repr=False)

    @property
    def reading(self) -> ReadOptions:
        """How the pages of a file are made."""
        return ReadOptions(self.settings.dpi, self.settings.alpha, self.password)

    def recipe(self, path: Path) -> Recipe:
        """What the document of a file is made of. Raises SourceError."""
        try:
            pdf = is_pdf(path)  # first: it refuses what has no end
            return Recipe(content_hash(path), pdf, self.settings, self.output)
        except OSError as error:
            raise SourceError(f"cannot open the file: {error.strerror or error}") from error

    def is_settled(self, pages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a finished document's pages are all as good as was asked for."""
        if self.effort.again == "all":
            return False
        return self.effort.again != "failed" or all(page["status"] == "ok" for page in pages)

    def is_read_again(self, known: Page) -> bool:
        """Whether a page that has a record is asked for once more."""
        if self.effort.again == "all" or is_unanswered(known):
            return True
        return self.effort.again == "failed" and known.status != "ok"

    def look_at(self, source: SourcePage) -> Look:
        """The page, drawn. Raises PageError."""
        image = source.load()
        page = replace(unread_page(source), width=image.width, height=image.height)
        blank = self.settings.task_name in _TEXT_TASKS and is_blank(image)
        return Look(page, image, blank, "" if blank else self._text_layer(source))

    def _text_layer(self, source: SourcePage) -> str:
        if not self.effort.text_layer or source.text is None:
            return ""
        try:
            return source.text().strip()
        except PageError:
            return ""

    async def read(self, engine: Engine, look: Look) -> ReadPage:
        """The page with the best of what the engine says. Raises EngineLost."""
        started = time.monotonic()
        settings, page, image = self.settings, look.page, look.image
        request = settings.request(image, page.number)
        try:
            page = await read_page(engine, request, settings, page, self.effort)
        except EngineLost:
            raise
        except Exception as error:  # a fault of ours, or of a host's, costs one page
            page = failed_page(page, RuntimeError(f"{type(error).__name__}: {error}"))
        is_answered = page.status != "failed"
        if not is_answered and look.spare:
            page = replace(page, status="text-layer", text=look.spare, blocks=(Block(look.spare),))
        if page.rotation:
            image = image.rotate(-page.rotation, expand=True)
        seconds = time.monotonic() - started
        return ReadPage(page, image, seconds, is_answered, dict(engine.versions))


def unread_page(source: SourcePage) -> Page:
    """What is known of a page before it is drawn; it has failed until something is known."""
    return Page(source.number, "failed", size_points=source.size_points, frame=source.frame)


def keep_page(
    folder: DocumentFolder,
    key: str,
    page: Page,
    known: Page | None,
    image: Image.Image | None = None,
    seconds: float = 0.0,
    versions: Mapping[str, str] | None = None,
) -> Page:
    """Records a page, unless the one known before says more; the page that is kept is returned.

    versions: of the engine that read it, if one did.  A page that cannot be written has failed.
    Raises OSError where no page can be written any more.
    """
    kept = better(page, known)
    if kept is not page:
        return kept
    try:
        figures = crop_figures(image, page) if image is not None else ()
        folder.commit(page, key, figures, versions)
        folder.log_timing({"page": page.number, "seconds": round(seconds, 3)})
    except OSError as error:
        if is_hopeless(error):
            raise
        return failed_page(page, OSError(f"cannot write the page: {error.strerror or error}"))
    return page


class FailuresInARow:
    """Pages without an answer since the last one with an answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._number = 0

    def count(self, is_answered: bool, reason: str | None) -> None:
        """One more page. Raises TooManyFailures at `most` in a row, 0 for never."""
        self._number = 0 if is_answered else self._number + 1
        if 0 < self._most <= self._number:
            raise TooManyFailures(
                f"{self._number} pages in a row got no answer, the last one: {reason}"
            )
