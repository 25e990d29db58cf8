"""A stored document -> its pages, each read once whoever asks and however often.

Pages of all documents meet in the engine's batch through one fair gate; a page is drawn when it has
its place there, so images in memory are bounded by the gate. A page's trouble is a failed page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from vllm_dsocr import tracing
from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.record import page_from_record, page_record
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.retry import failed_page, read_page
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.render.figures import crop_figures, jpeg_bytes
from vllm_dsocr.server.errors import ApiError, engine_gone, out_of_time, unreadable
from vllm_dsocr.server.metrics import Metrics
from vllm_dsocr.server.storage.blobs import Blobs
from vllm_dsocr.server.storage.database import Database
from vllm_dsocr.server.work.drawing import Drawing
from vllm_dsocr.server.work.gate import FairGate

FigureReader = Callable[[Figure], bytes]
OnPage = Callable[[Page, int, int], Awaitable[None]]  # page, pages done, pages in all


@dataclass(frozen=True, slots=True)
class Stored:
    """A document in the store."""

    sha256: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A document whose wanted pages are read, in order. figure: the PNG of one of its figures."""

    stored: Stored
    pages: Sequence[Page]
    figure: FigureReader


class Reading:
    """Reads documents for everybody, for as long as the server runs."""

    def __init__(
        self,
        engine: Engine,
        database: Database,
        blobs: Blobs,
        drawing: Drawing,
        gate: FairGate,
        metrics: Metrics,
        cache: Path,
        max_pages: int,
        page_seconds: float,
    ) -> None:
        self._engine = engine
        self._database = database
        self._blobs = blobs
        self._drawing = drawing
        self._gate = gate
        self._metrics = metrics
        self._cache = cache
        self._max_pages = max_pages
        self._page_seconds = page_seconds

    async def read(
        self,
        stored: Stored,
        settings: ReadSettings,
        wanted: Sequence[int] | None,
        seconds: float,
        on_page: OnPage | None = None,
    ) -> ReadDocument:
        """Reads pages `wanted` (from 1; None: all) within so many seconds.

        on_page is awaited for every page as it is done. Raises ApiError.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._read(stored, settings, wanted, on_page)
        except TimeoutError as error:
            raise out_of_time(f"the document took longer than {seconds:g} seconds") from error
        except EngineLost as error:
            raise engine_gone() from error

    async def _read(
        self,
        stored: Stored,
        settings: ReadSettings,
        wanted: Sequence[int] | None,
        on_page: OnPage | None,
    ) -> ReadDocument:
        path = await asyncio.to_thread(self._blobs.local_path, file_key(stored.sha256), self._cache)
        numbers = await self._numbers(path, wanted)
        document, done = object(), 0

        async def one(number: int) -> Page:
            nonlocal done
            page = await self._page(document, stored, path, settings, number)
            done += 1
            if on_page is not None:
                await on_page(page, done, len(numbers))
            return page

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number)) for number in numbers]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        pages = [task.result() for task in tasks]
        return ReadDocument(stored, pages, self.figure_reader(stored.sha256, settings))

    async def picture(self, key: str, number: int, dpi: float, width: int) -> bytes:
        """A page of a stored file as JPEG, at most so wide. Raises PageError."""
        path = await asyncio.to_thread(self._blobs.local_path, key, self._cache)
        drawn = await self._drawing.draw(path, number, dpi)
        return await asyncio.to_thread(_jpeg, drawn.image(), width)

    def figure_reader(self, sha256: str, settings: ReadSettings) -> FigureReader:
        """Gives PNGs of figures of pages that were read."""

        def read(figure: Figure) -> bytes:
            key = settings.page_key(sha256, figure.page)
            return self._blobs.read(figure_key(key, figure.index))

        return read

    async def _numbers(self, path: Path, wanted: Sequence[int] | None) -> Sequence[int]:
        try:
            count = await self._drawing.count(path)
        except PageError as error:
            raise unreadable(str(error)) from error
        numbers = range(1, count + 1) if wanted is None else [n for n in wanted if n <= count]
        if not numbers:
            raise unreadable(f"the document has {count} pages, none of those asked for")
        if len(numbers) > self._max_pages:
            raise ApiError(413, f"the document has more than {self._max_pages:,} pages")
        return numbers

    async def _page(
        self, document: object, stored: Stored, path: Path, settings: ReadSettings, number: int
    ) -> Page:
        key = settings.page_key(stored.sha256, number)
        record = await asyncio.to_thread(self._database.page, key)
        if record is not None:
            self._metrics.cached_pages.inc()
            await asyncio.to_thread(self._database.touch_page, key)
            return page_from_record(record)
        async with self._gate.slot(document):
            started = time.monotonic()
            with tracing.span("ocr.page", page=number, document=stored.sha256):
                page = await self._bounded(path, settings, number, key)
        self._metrics.count_page(page, time.monotonic() - started)
        return page

    async def _bounded(self, path: Path, settings: ReadSettings, number: int, key: str) -> Page:
        page = Page(number, "failed")
        try:
            async with asyncio.timeout(self._page_seconds):
                return await self._read_page(path, settings, page, key)
        except PageError as error:
            return failed_page(page, error)
        except TimeoutError:
            return replace(page, reason=f"the page took longer than {self._page_seconds:g} seconds")

    async def _read_page(self, path: Path, settings: ReadSettings, page: Page, key: str) -> Page:
        with self._metrics.stage("draw"):
            drawn = await self._drawing.draw(path, page.number, settings.dpi)
        image = drawn.image()
        request = settings.request(image, page.number)
        page = replace(page, width=image.width, height=image.height, size_points=drawn.size_points)
        with self._metrics.stage("read"):
            page = await read_page(self._engine, request, settings, page)
        if page.status != "failed":
            await asyncio.to_thread(self._keep, page, key, image)
        return page

    def _keep(self, page: Page, key: str, image: Image.Image) -> None:
        """Figures first: a record without them would be a promise not kept."""
        for figure, data in crop_figures(image, page):
            self._blobs.write(figure_key(key, figure.index), data)
        self._database.add_page(key, page_record(page))


def _jpeg(image: Image.Image, width: int) -> bytes:
    image.thumbnail((width, image.height))
    return jpeg_bytes(image)


def file_key(sha256: str) -> str:
    """Where a file's bytes are."""
    return f"files/{sha256[:2]}/{sha256}"


def figure_key(page_key: str, index: int) -> str:
    return f"figures/{page_key[:2]}/{page_key}-{index}.png"
