"""Files + an engine -> a folder per file, page by page, whatever happens on the way.

    a page's trouble ends the page (status failed, with a reason)
    a file's trouble ends the file (event `document` with `failed`); what it had before stays
    EngineLost, CannotWrite and TooManyFailures end the run

A document that another run is writing is passed over and looked at again at the end.
At most `engine.max_in_flight` page images wait for an answer, one more is at hand. Files are opened
and pages drawn in one worker thread, because PDFium allows no more. The engine is entered when the
first page needs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.page.blank import is_blank
from vllm_dsocr.page.files import (
    ReadOptions,
    SourceError,
    SourcePage,
    content_hash,
    count_pages,
    is_pdf,
    iter_pages,
)
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.claim import claim
from vllm_dsocr.pipeline.document import Event, OpenDocument
from vllm_dsocr.pipeline.files import CannotWrite, InUse, is_hopeless
from vllm_dsocr.pipeline.finish import (
    OutputSettings,
    Recipe,
    finish_document,
    finished_pages,
    is_unanswered,
)
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.retry import better, blank_page, failed_page, read_page
from vllm_dsocr.pipeline.settings import Effort, ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.render.figures import crop_figures
from vllm_dsocr.render.markdown import page_note

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
_TEXT_TASKS = ("markdown", "ocr", "free")  # what a blank page has no answer to


class TooManyFailures(Exception):
    """So many pages in a row got no answer that going on is pointless."""


class Conversion:
    """One run over some files. `report` is told of every page and document as it is done."""

    def __init__(
        self,
        engine: Engine,
        settings: ReadSettings,
        output: OutputSettings,
        out: Path,
        report: Callable[[Event], None] = lambda event: None,
        effort: Effort | None = None,
        password: str | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._output = output
        self._out = out
        self._report = report
        self._effort = effort or Effort()
        self._reading = ReadOptions(settings.dpi, settings.alpha, password)
        self._worker = ThreadPoolExecutor(1, "dsocr-pages")
        self._slots: asyncio.Semaphore | None = None  # once the engine is there
        self._failures_in_a_row = 0

    async def run(self, files: Sequence[InputFile], **facts: Any) -> list[Event]:
        """Summaries of all documents, in order; what is recorded stays whatever happens.

        facts: more for the event `start`. Raises EngineLost, CannotWrite, TooManyFailures.
        """
        documents: list[OpenDocument] = []
        with self._worker:
            await self._announce(files, facts)
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.TaskGroup() as group:
                        for file in files:
                            documents.append(self._open(file))
                            await self._take_file(documents[-1], group, stack)
                            self._tell_in_use("in_use", documents[-1])
                        for index, document in enumerate(documents):
                            if document.in_use:  # finished by now, or given up
                                documents[index] = self._open(document.file)
                                await self._take_file(documents[index], group, stack)
                                self._tell_in_use("document", documents[index])
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from errors
                finally:
                    for document in documents:
                        document.release()
        return [document.summary() for document in documents]

    async def _announce(self, files: Sequence[InputFile], facts: Event) -> None:
        self._report({"event": "counting", "documents": len(files)})
        total = 0
        for file in files:
            total += await self._in_worker(
                count_pages, file.path, self._output.wanted, self._reading
            )
        self._report({"event": "start", "documents": len(files), "pages": total, **facts})

    def _open(self, file: InputFile) -> OpenDocument:
        folder = DocumentFolder(self._out / file.name)
        return OpenDocument(file, folder, Recipe("", False, self._settings, self._output))

    async def _take_file(
        self, document: OpenDocument, group: asyncio.TaskGroup, stack: AsyncExitStack
    ) -> None:
        """Starts everything a file needs; its last pages and its finish may still be under way."""
        try:
            if document.file.error is not None:
                raise document.file.error
            document.recipe = await self._in_worker(self._recipe, document.file.path)
            pages = await self._in_worker(finished_pages, document.folder, document.recipe)
            if pages is not None and self._is_settled(pages):
                return self._kept(document, pages)
            await self._read_document(document, group, stack)
        except InUse as error:
            document.in_use, document.reason = True, str(error)
            return
        except (PageError, OSError, ImportError) as error:  # a library that only this file needs
            self._fail(document, error)
        group.create_task(self._end(document))

    def _tell_in_use(self, event: str, document: OpenDocument) -> None:
        if document.in_use:
            self._report({"event": event, "kept": False, **document.summary()})

    def _recipe(self, path: Path) -> Recipe:
        try:
            return Recipe(content_hash(path), is_pdf(path), self._settings, self._output)
        except OSError as error:
            raise SourceError(f"cannot open the file: {error.strerror or error}") from error

    def _is_settled(self, pages: Sequence[Event]) -> bool:
        """Whether a finished document's pages are all as good as was asked for."""
        if self._effort.again == "all":
            return False
        return self._effort.again != "failed" or all(page["status"] == "ok" for page in pages)

    def _kept(self, document: OpenDocument, pages: Sequence[Event]) -> None:
        for page in pages:
            document.count(page["status"], page["note"])
        self._report({"event": "document", "kept": True, **document.summary()})

    def _fail(self, document: OpenDocument, error: Exception) -> None:
        """Ends the file, or the run where the trouble is that of all files."""
        if isinstance(error, OSError) and not isinstance(error, PageError):
            if is_hopeless(error):
                raise CannotWrite(f"cannot write to {self._out}: {error.strerror}") from error
            error = OSError(f"cannot write {document.name}: {error.strerror or error}")
        document.fail(error)
        self._report({"event": "document", "kept": False, **document.summary()})

    async def _read_document(
        self, document: OpenDocument, group: asyncio.TaskGroup, stack: AsyncExitStack
    ) -> None:
        pages = iter_pages(document.file.path, self._output.wanted, self._reading)
        try:
            while (source := await self._in_worker(next, pages, None)) is not None:
                if not document.numbers:
                    sha256 = document.recipe.content_hash
                    document.take(await self._in_worker(claim, self._out, document.file, sha256))
                await self._take_page(document, source, group, stack)
        finally:
            await self._in_worker(pages.close)

    async def _take_page(
        self,
        document: OpenDocument,
        source: SourcePage,
        group: asyncio.TaskGroup,
        stack: AsyncExitStack,
    ) -> None:
        """Keeps a recorded page, or starts reading it as soon as there is room for its image."""
        document.numbers.append(source.number)
        key = document.recipe.page_key(source.number)
        known = await self._in_worker(document.folder.load, source.number, key)
        if known is not None and not self._is_read_again(known):
            self._tell(document, known, kept=True)
            return
        page = Page(source.number, "failed", size_points=source.size_points, frame=source.frame)
        try:
            image, nothing_on_it, spare = await self._in_worker(self._look_at, source)
        except PageError as error:
            await self._commit(document, failed_page(page, error), known)
            return
        page = replace(page, width=image.width, height=image.height)
        if nothing_on_it:
            await self._commit(document, blank_page(page), known)
            return
        slots = await self._enter_engine(stack)
        await slots.acquire()
        task = group.create_task(self._read(document, page, known, image, spare))
        document.reading.add(task)
        task.add_done_callback(document.reading.discard)
        task.add_done_callback(lambda _: slots.release())

    def _look_at(self, source: SourcePage) -> tuple[Image.Image, bool, str]:
        """The page's image, whether it is blank, and what may stand in for its text."""
        image = source.load()
        blank = self._settings.task_name in _TEXT_TASKS and is_blank(image)
        return image, blank, "" if blank else self._text_layer(source)

    def _is_read_again(self, known: Page) -> bool:
        if self._effort.again == "all" or is_unanswered(known):
            return True
        return self._effort.again == "failed" and known.status != "ok"

    def _text_layer(self, source: SourcePage) -> str:
        """What may stand in for the page's text, "" where there is nothing."""
        if not self._effort.text_layer or source.text is None:
            return ""
        try:
            return source.text().strip()
        except PageError:
            return ""

    async def _enter_engine(self, stack: AsyncExitStack) -> asyncio.Semaphore:
        """The engine, ready for the first page that needs it, as room for pages in flight."""
        if self._slots is not None:
            return self._slots
        started = time.monotonic()
        self._report({"event": "loading", "model": self._engine.model})
        try:
            await stack.enter_async_context(self._engine)
        except ImportError as error:
            raise EngineLost(str(error)) from error
        self._slots = asyncio.Semaphore(self._engine.max_in_flight)
        self._report({"event": "ready", "seconds": round(time.monotonic() - started, 1)})
        return self._slots

    async def _read(
        self,
        document: OpenDocument,
        page: Page,
        known: Page | None,
        image: Image.Image,
        spare: str,
    ) -> None:
        started = time.monotonic()
        settings = self._settings
        request = settings.request(image, page.number)
        try:
            page = await read_page(self._engine, request, settings, page, self._effort)
        except EngineLost:
            raise
        except Exception as error:  # a fault of ours, or of a host's, costs one page
            page = failed_page(page, RuntimeError(f"{type(error).__name__}: {error}"))
        self._count_failure(page)
        if page.status == "failed" and spare:
            page = replace(page, status="text-layer", text=spare, blocks=(Block(spare),))
        if page.rotation:
            image = image.rotate(-page.rotation, expand=True)
        await self._commit(document, page, known, image, time.monotonic() - started)

    def _count_failure(self, page: Page) -> None:
        """Raises TooManyFailures after so many pages in a row without an answer."""
        self._failures_in_a_row = self._failures_in_a_row + 1 if page.status == "failed" else 0
        if 0 < self._effort.max_failures <= self._failures_in_a_row:
            raise TooManyFailures(
                f"{self._failures_in_a_row} pages in a row got no answer, the last one: "
                f"{page.reason}"
            )

    async def _commit(
        self,
        document: OpenDocument,
        page: Page,
        known: Page | None,
        image: Image.Image | None = None,
        seconds: float = 0.0,
    ) -> None:
        key = document.recipe.page_key(page.number)
        kept = better(page, known)
        try:
            if kept is page:
                await asyncio.to_thread(_write_page, document.folder, page, key, image, seconds)
        except OSError as error:
            if is_hopeless(error):
                raise CannotWrite(f"cannot write to {self._out}: {error.strerror}") from error
            kept = failed_page(page, OSError(f"cannot write the page: {error.strerror or error}"))
        self._tell(document, kept, kept=kept is known, seconds=round(seconds, 3))

    def _tell(self, document: OpenDocument, page: Page, **more: Any) -> None:
        document.count(page.status, page_note(page))
        facts = {"document": document.name, "page": page.number, "status": page.status}
        self._report({"event": "page", **facts, "reason": page.reason, **more})

    async def _end(self, document: OpenDocument) -> None:
        """Once its pages are there: finished, unless it failed, and no longer this run's."""
        await asyncio.gather(*document.reading)
        if not document.failed:
            await self._finish(document)
        document.release()

    async def _finish(self, document: OpenDocument) -> None:
        if not document.numbers:
            document.reason = f"it has no page in {self._output.wanted}"
        elif self._loses_everything(document):
            document.reason = f"{document.reason}; the finished document stays as it was"
        else:
            try:
                await self._in_worker(
                    finish_document,
                    document.file,
                    document.folder,
                    document.recipe,
                    sorted(document.numbers),
                    self._engine.versions,
                    self._reading.password,
                )
            except Exception as error:  # of a format, of the disk: the pages are there
                if isinstance(error, OSError):
                    return self._fail(document, error)
                return self._fail(
                    document, RuntimeError(f"cannot be written: {type(error).__name__}: {error}")
                )
        self._report({"event": "document", "kept": False, **document.summary()})

    def _loses_everything(self, document: OpenDocument) -> bool:
        """Whether nothing was read of what had been finished before."""
        return document.statuses.keys() == {"failed"} and bool(document.folder.manifest())

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)


def _write_page(
    folder: DocumentFolder, page: Page, key: str, image: Image.Image | None, seconds: float
) -> None:
    folder.commit(page, key, crop_figures(image, page) if image is not None else ())
    folder.log_timing({"page": page.number, "seconds": round(seconds, 3)})
