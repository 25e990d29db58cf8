"""One document's folder: page records and figures as they come, finished documents at the end.

    OUT/scan.pdf/
      pages/0001.json      one page with the key of its content and settings; written last, so that
                           a page is either wholly there or not at all
      images/0001-0.png    its figures
      document.md ...      the finished document in each format that was asked for
      manifest.json        written when all of that is there
      timings.jsonl        how long pages took; the only file that differs from run to run

Knows nothing of engines or of how documents are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.record import page_from_record, page_record
from vllm_dsocr.document.unicode import json_text
from vllm_dsocr.pipeline.files import remove_leftovers, write_atomic
from vllm_dsocr.render.finished import IMAGES, figure_name

MANIFEST = "manifest.json"


class DocumentFolder:
    """What is known of one document. Constructing it creates nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pages = path / "pages"

    def prepare(self) -> None:
        """Makes the folder and clears what a killed run left half written."""
        for folder in (self.path, self._pages, self.path / IMAGES):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)

    def load(self, number: int, key: str) -> Page | None:
        """The page as recorded under that key; None when it is not there or is damaged."""
        try:
            record = json.loads(self._record_path(number).read_text("utf-8"))
            return page_from_record(record) if record["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def commit(self, page: Page, key: str, figures: Iterable[tuple[Figure, bytes]] = ()) -> None:
        """Writes a page: its figures, then its record, which makes it count."""
        names = set()
        for figure, data in figures:
            names.add(figure_name(figure))
            write_atomic(self.path / IMAGES / figure_name(figure), [data])
        for stale in (self.path / IMAGES).glob(f"{page.number:04d}-*"):
            if stale.name not in names:
                stale.unlink()
        record = {"key": key, **page_record(page)}
        write_atomic(self._record_path(page.number), [json_text(record)])

    def pages(self, numbers: Iterable[int]) -> Iterator[Page]:
        """Recorded pages of those numbers, one at a time. Raises OSError for one not recorded."""
        for number in numbers:
            yield page_from_record(json.loads(self._record_path(number).read_text("utf-8")))

    def figure(self, figure: Figure) -> bytes:
        """A figure's file."""
        return (self.path / IMAGES / figure_name(figure)).read_bytes()

    def write(self, name: str, pieces: Iterable[str | bytes]) -> None:
        """A finished file of the document."""
        write_atomic(self.path / name, pieces)

    def log_timing(self, record: Mapping[str, Any]) -> None:
        """Adds a line to the timings."""
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def manifest(self) -> dict[str, Any]:
        """What was written when the document was finished, {} before that."""
        try:
            return json.loads((self.path / MANIFEST).read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _record_path(self, number: int) -> Path:
        return self._pages / f"{number:04d}.json"
