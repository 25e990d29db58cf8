"""Files + an engine -> a folder per file, page by page, whatever happens on the way.

At most `engine.max_in_flight` page images are held at a time. Files are opened and pages drawn in
one worker thread, because PDFium allows no more. A recorded page is not read again, unless it was
the engine that gave no answer for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.engine import Engine, Request
from vllm_dsocr.page.files import SourcePage, content_hash, count_pages, iter_pages
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.finish import (
    OutputSettings,
    Recipe,
    finish_document,
    finished_pages,
    is_unanswered,
)
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.retry import failed_page, read_page
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.render.figures import crop_figures
from vllm_dsocr.render.markdown import page_note

if TYPE_CHECKING:
    from PIL import Image

Event = dict[str, Any]
T = TypeVar("T")


@dataclass
class Document:
    """A file on its way through; `reason` is the first trouble with one of its pages."""

    file: InputFile
    folder: DocumentFolder
    recipe: Recipe
    numbers: list[int] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    reading: set[asyncio.Task[None]] = field(default_factory=set)

    def count(self, status: str, note: str | None) -> None:
        """One more page is done."""
        self.statuses[status] += 1
        self.reason = self.reason or note

    def summary(self) -> Event:
        """Name, number of pages by status, first trouble."""
        statuses = dict(sorted(self.statuses.items()))
        return {"document": self.file.name, "statuses": statuses, "reason": self.reason}


class Conversion:
    """One run over some files. `report` is told of every page and document as it is done."""

    def __init__(
        self,
        engine: Engine,
        settings: ReadSettings,
        output: OutputSettings,
        out: Path,
        report: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._output = output
        self._out = out
        self._report = report
        self._slots = asyncio.Semaphore(engine.max_in_flight)
        self._worker = ThreadPoolExecutor(1, "dsocr-pages")
        self._engine_is_ready = False

    async def run(self, files: Sequence[InputFile]) -> list[Event]:
        """Summaries of all documents, in order. Raises EngineLost; what is recorded stays.

        The engine is entered when there is work for it, so a finished run needs none.
        """
        documents = []
        with self._worker:
            await self._announce(files)
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.TaskGroup() as group:
                        for file in files:
                            documents.append(await self._take_file(file, group, stack))
                except ExceptionGroup as errors:
                    raise errors.exceptions[0] from errors
        return [document.summary() for document in documents]

    async def _announce(self, files: Sequence[InputFile]) -> None:
        total = 0
        for file in files:
            total += await self._in_worker(count_pages, file.path, self._output.wanted)
        self._report({"event": "start", "documents": len(files), "pages": total})

    async def _take_file(
        self, file: InputFile, group: asyncio.TaskGroup, stack: AsyncExitStack
    ) -> Document:
        """Starts everything a file needs; its last pages and its finish may still be under way."""
        digest = await self._in_worker(_hash_or_nothing, file.path)
        folder = DocumentFolder(self._out / file.name)
        document = Document(file, folder, Recipe(digest, self._settings, self._output))
        pages = await self._in_worker(finished_pages, folder, document.recipe)
        if pages is not None:
            for page in pages:
                document.count(page["status"], page["note"])
            self._report({"event": "document", "kept": True, **document.summary()})
            return document
        if not self._engine_is_ready:
            await stack.enter_async_context(self._engine)
            self._engine_is_ready = True
        await self._read_document(document, group)
        group.create_task(self._finish(document))
        return document

    async def _read_document(self, document: Document, group: asyncio.TaskGroup) -> None:
        await self._in_worker(document.folder.prepare)
        pages = iter_pages(document.file.path, self._output.wanted, self._settings.dpi)
        try:
            if document.file.error is not None:
                raise document.file.error
            while (source := await self._in_worker(next, pages, None)) is not None:
                await self._take_page(document, source, group)
        except PageError as error:
            document.numbers.append(1)
            await self._commit(document, failed_page(Page(1, "failed"), error))
        finally:
            await self._in_worker(pages.close)

    async def _take_page(
        self, document: Document, source: SourcePage, group: asyncio.TaskGroup
    ) -> None:
        """Keeps a recorded page, or starts reading it as soon as there is room for its image."""
        document.numbers.append(source.number)
        key = document.recipe.page_key(source.number)
        known = await self._in_worker(document.folder.load, source.number, key)
        if known is not None and not is_unanswered(known):
            self._tell(document, known, kept=True)
            return
        page = Page(source.number, "failed", size_points=source.size_points, frame=source.frame)
        await self._slots.acquire()
        try:
            image = await self._in_worker(source.load)
        except PageError as error:
            self._slots.release()
            await self._commit(document, failed_page(page, error))
            return
        page = replace(page, width=image.width, height=image.height)
        task = group.create_task(self._read(document, page, image))
        document.reading.add(task)
        task.add_done_callback(document.reading.discard)
        task.add_done_callback(lambda _: self._slots.release())

    async def _read(self, document: Document, page: Page, image: Image.Image) -> None:
        started = time.monotonic()
        settings = self._settings
        request = Request(
            image, settings.prompt, settings.mode, settings.max_tokens, seed=page.number
        )
        page = await read_page(self._engine, request, settings, page)
        await self._commit(document, page, image, time.monotonic() - started)

    async def _commit(
        self,
        document: Document,
        page: Page,
        image: Image.Image | None = None,
        seconds: float = 0.0,
    ) -> None:
        key = document.recipe.page_key(page.number)
        await asyncio.to_thread(_write_page, document.folder, page, key, image, seconds)
        self._tell(document, page, kept=False, seconds=round(seconds, 3))

    def _tell(self, document: Document, page: Page, **more: Any) -> None:
        document.count(page.status, page_note(page))
        facts = {"document": document.file.name, "page": page.number, "status": page.status}
        self._report({"event": "page", **facts, "reason": page.reason, **more})

    async def _finish(self, document: Document) -> None:
        await asyncio.gather(*document.reading)
        await self._in_worker(
            finish_document,
            document.file,
            document.folder,
            document.recipe,
            document.numbers,
            self._engine.versions,
        )
        self._report({"event": "document", "kept": False, **document.summary()})

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, function, *arguments)


def _hash_or_nothing(path: Path) -> str:
    """A file that cannot be read fails where its pages are asked for, with a better reason."""
    try:
        return content_hash(path)
    except OSError:
        return ""


def _write_page(
    folder: DocumentFolder, page: Page, key: str, image: Image.Image | None, seconds: float
) -> None:
    folder.commit(page, key, crop_figures(image, page) if image is not None else ())
    folder.log_timing({"page": page.number, "seconds": round(seconds, 3)})
