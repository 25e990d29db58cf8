"""Rows of drawn pages -> rows of recorded pages: what an actor does, with one engine.

An actor whose engine is gone goes too: Ray starts another and gives it the same rows, of which
those that were recorded are not read again. A page at which engines keep dying has failed.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.record import page_from_record
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.fleet.batch.draw import page_row
from vllm_dsocr.fleet.batch.ledger import MAX_BEGUN
from vllm_dsocr.fleet.batch.rows import Row, rows_of, table
from vllm_dsocr.hosts import EngineChoice, make_engine
from vllm_dsocr.pipeline.retry import failed_page
from vllm_dsocr.pipeline.store import DocumentFolder
from vllm_dsocr.pipeline.work import Look, Work, keep_page

_EXIT = 70


@dataclass(frozen=True, slots=True)
class Read:
    """What an actor has to know; `ledger` is the actor that all share."""

    work: Work
    choice: EngineChoice
    out: Path
    ledger: Any


class PageReader:
    """Reads the pages of the tables it is called with, as many at a time as its engine wants."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._engine: Engine | None = None
        self._num_read = 0
        self._entering = asyncio.Lock()
        self._alone = asyncio.Lock()
        self._slots = asyncio.Semaphore(1)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with drawn pages read, or a row `lost` where there is no engine."""
        rows = list(rows_of(batch))
        drawn = [(row.document, row.page) for row in rows if row.kind == "drawn"]
        suspects = drawn and await self._read.ledger.num_begun.remote(drawn)
        take = self._take_alone if suspects else self._take
        done = await asyncio.gather(*map(take, rows), return_exceptions=True)
        for result in done:
            if isinstance(result, EngineLost):
                return table([self._lost(rows[0].document, result)])
            if isinstance(result, OSError):
                reason = f"cannot write to {self._read.out}: {result.strerror or result}"
                return table([Row(rows[0].document, "full", 0, {"reason": reason})])
            if isinstance(result, BaseException):
                raise result
        return table([row for row in done if isinstance(row, Row)])

    def _lost(self, document: int, error: EngineLost) -> Row:
        if self._num_read and not self._read.choice.server:
            os._exit(_EXIT)  # it has worked: another one may
        return Row(document, "lost", 0, {"reason": str(error)})

    async def _take_alone(self, row: Row) -> Row:
        """One of the rows may be what the engine before died of."""
        if row.kind != "drawn":
            return await self._take(row)
        async with self._alone:
            return await self._take(row)

    async def _take(self, row: Row) -> Row:
        if row.kind != "drawn":
            return Row(row.document, row.kind, row.page, row.facts)
        folder = DocumentFolder(self._read.out / row.facts["name"])
        facts = {"name": row.facts["name"]}
        page, key, work = page_from_record(row.facts["page"]), row.facts["key"], self._read.work
        known = await asyncio.to_thread(folder.load, page.number, key)
        if known is not None and not work.is_read_again(known):
            return page_row(row.document, known, **facts, kept=False)  # by one that is gone
        engine = await self._ready()
        async with self._slots:
            begun = await self._read.ledger.begin.remote(row.document, row.page)
            if begun > MAX_BEGUN:
                return await self._given_up(row, folder, page, known)
            image = Image.frombytes("RGB", (page.width, page.height), row.image)
            read = await work.read(engine, Look(page, image, False, row.facts["spare"]))
        kept = await asyncio.to_thread(
            keep_page, folder, key, read.page, known, read.image, read.seconds, read.versions
        )
        self._num_read += 1
        return page_row(
            row.document,
            kept,
            **facts,
            kept=kept is known,
            seconds=round(read.seconds, 3),
            answered=read.is_answered,
            trouble=read.page.reason,
        )

    async def _given_up(
        self, row: Row, folder: DocumentFolder, page: Page, known: Page | None
    ) -> Row:
        error = RuntimeError(f"{MAX_BEGUN} engines died while they read it")
        failed = failed_page(page, error)
        kept = await asyncio.to_thread(keep_page, folder, row.facts["key"], failed, known)
        return page_row(row.document, kept, name=row.facts["name"], kept=kept is known)

    async def _ready(self) -> Engine:
        """The engine, loaded for the first page. Raises EngineLost."""
        async with self._entering:
            if self._engine is None:
                try:
                    engine = await make_engine(self._read.choice)
                    await engine.__aenter__()
                except EngineLost:
                    raise
                except Exception as error:  # of drivers, of weights: no page would be read here
                    raise EngineLost(f"{type(error).__name__}: {error}") from error
                self._slots = asyncio.Semaphore(engine.max_in_flight)
                self._engine = engine
            return self._engine
