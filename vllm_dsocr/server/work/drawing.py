"""A stored document -> page images, drawn in a pool of processes.

PDFium serves one thread of a process, and a hostile file may spin or eat memory: each page is drawn
by a process of its own kind, with a bound on time and memory, and is killed where it passes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from vllm_dsocr.page.files import is_pdf
from vllm_dsocr.page.pdf import MAX_PDF_PIXELS, PdfFile
from vllm_dsocr.page.source import PageError, count_frames, iter_frames
from vllm_dsocr.server.work.processes import ProcessDied, Processes

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
        number = processes or min(os.cpu_count() or 1, MAX_PROCESSES)
        self._processes = Processes(number, max_bytes, seconds)
        self._max_pixels = max_pixels

    async def count(self, path: Path) -> int:
        """Pages of the file. Raises PageError."""
        return await self._run(_count, path)

    async def draw(self, path: Path, number: int, dpi: float) -> DrawnPage:
        """Page `number` (from 1). Raises PageError, for an image of too many pixels as well."""
        return await self._run(_draw, path, number, dpi, self._max_pixels)

    def close(self) -> None:
        self._processes.close()

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._processes.run(function, *arguments)
        except TimeoutError as error:
            raise PageError("drawing the page took too long") from error
        except MemoryError as error:
            raise PageError("drawing the page took too much memory") from error
        except ProcessDied as error:
            raise PageError(
                "what draws pages was killed at this one, and so was the next that tried"
            ) from error


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
