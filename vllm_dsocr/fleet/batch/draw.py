"""Files -> rows of drawn pages: what a task of the cluster does.

Pages that need no engine are recorded here. A task that is run again gives the same rows, see
`ledger.py`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.record import page_record
from vllm_dsocr.fleet.batch.ledger import MAX_BEGUN
from vllm_dsocr.fleet.batch.rows import Row, table
from vllm_dsocr.fleet.batch.sources import at_hand
from vllm_dsocr.page.files import SourceError, SourcePage, iter_pages
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.files import LOCK, is_hopeless
from vllm_dsocr.pipeline.finish import Recipe, finished_pages
from vllm_dsocr.pipeline.inputs import InputFile
from vllm_dsocr.pipeline.retry import blank_page, failed_page
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.pipeline.work import Work, keep_page, unread_page
from vllm_dsocr.render.markdown import page_note


@dataclass(frozen=True, slots=True)
class Draw:
    """What a task has to know; `ledger` is the actor."""

    work: Work
    out: Path
    ledger: Any
    allow_hosts: tuple[str, ...] = ()


def draw_documents(batch: pa.Table, draw: Draw) -> Iterator[pa.Table]:
    """A table for every page of the files, and for every event of theirs.

    batch: as `file_columns` makes them.
    """
    for item in batch.to_pylist():
        for row in _Document(item["document"], _file(item), draw).rows():
            yield table([row])


def file_columns(document: int, file: InputFile) -> dict[str, Any]:
    """A file as values of columns; names may be any bytes."""
    return {
        "document": document,
        "path": os.fsencode(file.path),
        "name": os.fsencode(file.name),
        "source": os.fsencode(file.source),
        "error": str(file.error or ""),
    }


def _file(item: dict[str, Any]) -> InputFile:
    path, name, source = (os.fsdecode(item[key]) for key in ("path", "name", "source"))
    return InputFile(
        Path(path), name, source, SourceError(item["error"]) if item["error"] else None
    )


class _Document:
    def __init__(self, index: int, file: InputFile, draw: Draw) -> None:
        self._index = index
        self._file = file
        self._draw = draw
        self._numbers: list[int] = []
        self._name = file.name

    def rows(self) -> Iterator[Row]:
        """Whatever happens, the last row says how it ended."""
        try:
            self._check_out()
            self._check_begun()
            with at_hand(self._file, self._draw.allow_hosts) as file:
                yield from self._pages(file)
        except _Stopped as stopped:
            yield stopped.row
        except (PageError, OSError, ImportError) as error:
            yield self._trouble(error)

    def _trouble(self, error: Exception) -> Row:
        out = self._draw.out
        if isinstance(error, OSError) and not isinstance(error, PageError):
            if is_hopeless(error):
                return Row(
                    self._index, "full", 0, {"reason": f"cannot write to {out}: {error.strerror}"}
                )
            error = OSError(f"cannot write {self._name}: {error.strerror or error}")
        facts = {"reason": str(error) or type(error).__name__}
        return Row(self._index, "failed", 0, {**facts, **self._end()})

    def _end(self) -> dict[str, Any]:
        return {"name": self._name, "numbers": self._numbers}

    def _check_out(self) -> None:
        out = self._draw.out
        if not (out / LOCK).exists():
            reason = f"{out} is not there on {socket.gethostname()}: all machines need the same one"
            raise _Stopped(Row(self._index, "full", 0, {"reason": reason}))

    def _check_begun(self) -> None:
        begun = ray.get(self._draw.ledger.begin.remote(self._index, 0))
        if begun > MAX_BEGUN:
            raise SourceError(f"{MAX_BEGUN} processes died while they drew it")

    def _pages(self, file: InputFile) -> Iterator[Row]:
        work, ledger = self._draw.work, self._draw.ledger
        recipe = work.recipe(file.path)
        entry = ray.get(ledger.entry.remote(self._index)) or self._finished(recipe)
        if entry and "kept" in entry:
            yield Row(self._index, "kept", 0, {"name": self._name, "pages": entry["kept"]})
            return
        pages = iter_pages(file.path, work.output.wanted, work.reading)
        try:
            for source in pages:
                entry = entry or self._claimed(recipe)
                self._name, known = entry["name"], entry["known"]
                self._numbers.append(source.number)
                yield self._page(source, recipe, source.number in known)
        finally:
            pages.close()
        facts = {"sha256": recipe.content_hash, "is_pdf": recipe.is_pdf}
        yield Row(self._index, "end", 0, {**self._end(), **facts})

    def _finished(self, recipe: Recipe) -> dict[str, Any] | None:
        pages = finished_pages(self._folder, recipe)
        if pages is None or not self._draw.work.is_settled(pages):
            return None
        return self._remember({"kept": pages})

    def _claimed(self, recipe: Recipe) -> dict[str, Any]:
        """The document's name and the pages that are not read again. Raises _Stopped."""
        ledger, sha256 = self._draw.ledger, recipe.content_hash
        found = ray.get(ledger.claim.remote(self._index, self._file, sha256))
        for kind in ("in_use", "full", "failed"):
            if kind in found:
                facts = {"reason": found[kind], **self._end()}
                raise _Stopped(Row(self._index, kind, 0, facts))
        folder, work = DocumentFolder(self._draw.out / found["name"]), self._draw.work
        pages = folder.recorded(recipe.page_key)
        known = {page.number for page in pages if not work.is_read_again(page)}
        return self._remember({"name": found["name"], "known": known})

    def _remember(self, entry: dict[str, Any]) -> dict[str, Any]:
        return ray.get(self._draw.ledger.remember.remote(self._index, entry))

    @property
    def _folder(self) -> DocumentFolder:
        return DocumentFolder(self._draw.out / self._name)

    def _page(self, source: SourcePage, recipe: Recipe, is_kept: bool) -> Row:
        key = recipe.page_key(source.number)
        known = self._folder.load(source.number, key)
        if is_kept and known is not None:
            return page_row(self._index, known, name=self._name, kept=True)
        try:
            look = self._draw.work.look_at(source)
        except PageError as error:
            return self._recorded(failed_page(unread_page(source), error), known, key)
        if look.is_blank:
            return self._recorded(blank_page(look.page), known, key)
        facts = {
            "name": self._name,
            "key": key,
            "spare": look.spare,
            "page": page_record(look.page),
        }
        return Row(self._index, "drawn", source.number, facts, look.image.tobytes())

    def _recorded(self, page: Page, known: Page | None, key: str) -> Row:
        kept = keep_page(self._folder, key, page, known)
        return page_row(self._index, kept, name=self._name, kept=kept is known)


class _Stopped(Exception):
    """The document goes no further; `row` says why."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.kind)
        self.row = row


def page_row(document: int, page: Page, **facts: Any) -> Row:
    """A page that is recorded."""
    said = {"status": page.status, "reason": page.reason, "note": page_note(page)}
    return Row(document, "page", page.number, {**said, **facts})
