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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.page.files import (
    SourcePage,
    count_pages,
    iter_pages,
)
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.claim import claim
from vllm_dsocr.pipeline.document import Event, OpenDocument
from vllm_dsocr.pipeline.files import CannotWrite, InUse, is_hopeless
from vllm_dsocr.pipeline.finish import (
    OutputSettings,
    Recipe,
    finished_pages,
)
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.retry import blank_page, failed_page
from vllm_dsocr.pipeline.settings import Effort, ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.pipeline.work import (
    FailuresInARow,
    Look,
    Work,
    keep_page,
    unread_page,
)
from vllm_dsocr.pipeline.work import TooManyFailures as TooManyFailures
from vllm_dsocr.render.markdown import page_note

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


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
        self._work = Work(settings, output, effort or Effort(), password)
        self._out = out
        self._report = report
        self._worker = ThreadPoolExecutor(1, "dsocr-pages")
        self._slots: asyncio.Semaphore | None = None  # once the engine is there
        self._failures = FailuresInARow(self._work.effort.max_failures)

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
                count_pages, file.path, self._work.output.wanted, self._work.reading
            )
        self._report({"event": "start", "documents": len(files), "pages": total, **facts})

    def _open(self, file: InputFile) -> OpenDocument:
        folder = DocumentFolder(self._out / file.name)
        return OpenDocument(file, folder, Recipe("", False, self._work.settings, self._work.output))

    async def _take_file(
        self, document: OpenDocument, group: asyncio.TaskGroup, stack: AsyncExitStack
    ) -> None:
        """Starts everything a file needs; its last pages and its finish may still be under way."""
        try:
            if document.file.error is not None:
                raise document.file.error
            document.recipe = await self._in_worker(self._work.recipe, document.file.path)
            pages = await self._in_worker(finished_pages, document.folder, document.recipe)
            if pages is not None and self._work.is_settled(pages):
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
        pages = iter_pages(document.file.path, self._work.output.wanted, self._work.reading)
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
        if known is not None and not self._work.is_read_again(known):
            self._tell(document, known, kept=True)
            return
        try:
            look = await self._in_worker(self._work.look_at, source)
        except PageError as error:
            await self._commit(document, failed_page(unread_page(source), error), known)
            return
        if look.is_blank:
            await self._commit(document, blank_page(look.page), known)
            return
        slots = await self._enter_engine(stack)
        await slots.acquire()
        task = group.create_task(self._read(document, look, known))
        document.reading.add(task)
        task.add_done_callback(document.reading.discard)
        task.add_done_callback(lambda _: slots.release())

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

    async def _read(self, document: OpenDocument, look: Look, known: Page | None) -> None:
        read = await self._work.read(self._engine, look)
        self._failures.count(read.is_answered, read.page.reason)
        await self._commit(document, read.page, known, read.image, read.seconds, read.versions)

    async def _commit(
        self,
        document: OpenDocument,
        page: Page,
        known: Page | None,
        image: Image.Image | None = None,
        seconds: float = 0.0,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        key = document.recipe.page_key(page.number)
        arguments = (document.folder, key, page, known, image, seconds, versions)
        try:
            kept = await asyncio.to_thread(keep_page, *arguments)
        except OSError as error:
            raise CannotWrite(f"cannot write to {self._out}: {error.strerror}") from error
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
        if not document.is_left_alone():
            try:
                await self._in_worker(document.finish, self._work.password)
            except (OSError, RuntimeError) as error:
                return self._fail(document, error)
        self._report({"event": "document", "kept": False, **document.summary()})

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)
