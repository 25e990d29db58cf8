"""A stored document -> page images, drawn in a pool of processes.

PDFium serves one thread of a process, and a hostile file may spin or eat memory: each page is drawn
by a process of its own kind, with a bound on time and memory, and is killed where it passes them.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool
from PIL import Image

from vllm_dsocr.page.files import is_pdf
from vllm_dsocr.page.pdf import MAX_PDF_PIXELS, PdfFile
from vllm_dsocr.page.source import PageError, count_frames, iter_frames

logger = logging.getLogger(__name__)

MAX_PROCESSES = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DrawnPage:
    """RGB pixels of a page, row by row, and its size; size_points only for pages of a PDF."""

    data: bytes
    size: tuple[int, int]
    size_points: tuple[float, float] | None

    def image(self) -> Image.Image:
        return Image.frombytes("RGB", self.size, self.data)


class Drawing:
    """The pool. `close` ends its processes at once."""

    def __init__(self, processes: int, max_bytes: int, seconds: float, max_pixels: int) -> None:
        self._processes = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
        self._max_bytes = max_bytes
        self._pool = self._new_pool()
        self._is_closed = False
        self._seconds = seconds
        self._max_pixels = max_pixels

    async def count(self, path: Path) -> int:
        """Pages of the file. Raises PageError."""
        return await self._run(_count, path)

    async def draw(self, path: Path, number: int, dpi: float) -> DrawnPage:
        """Page `number` (from 1). Raises PageError, for an image of too many pixels as well."""
        return await self._run(_draw, path, number, dpi, self._max_pixels)

    def close(self) -> None:
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]  # Pebble annotates results only
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._processes,
            max_tasks=1000,  # whatever a decoder leaks goes with its process
            initializer=_limit_memory,
            initargs=(self._max_bytes,),
            context=multiprocessing.get_context("spawn"),
        )

    def _schedule(self, function: Callable[..., T], arguments: Sequence[Any]) -> Future[T]:
        try:
            return self._pool.schedule(function, args=arguments, timeout=self._seconds)
        except RuntimeError:  # it could not start a process once, and never tries again
            if self._is_closed:
                raise
            logger.warning("the pool that draws pages has broken down; here is another")
            self._end()
            self._pool = self._new_pool()
            return self._pool.schedule(function, args=arguments, timeout=self._seconds)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        future = self._schedule(function, arguments)
        try:
            return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise PageError("drawing the page took too long") from error
        except (ProcessExpired, MemoryError) as error:
            raise PageError("drawing the page took too much memory") from error


def _limit_memory(max_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))


def _count(path: Path) -> int:
    if is_pdf(path):
        return _pdf(path).num_pages
    return count_frames(path)


def _draw(path: Path, number: int, dpi: float, max_pixels: int) -> DrawnPage:
    if is_pdf(path):
        pdf = _pdf(path)
        image = pdf.image(number, dpi, min(max_pixels, MAX_PDF_PIXELS))
        size_points = pdf.size_points(number)
    else:
        image, size_points = next(islice(iter_frames(path, max_pixels), number - 1, None)), None
    return DrawnPage(image.tobytes(), image.size, size_points)


@lru_cache(maxsize=1)
def _pdf(path: Path) -> PdfFile:
    """Pages of one document mostly come one after the other. Stored files never change."""
    return PdfFile(path)
