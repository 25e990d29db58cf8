"""What every protocol stands on: store a document, read it, run it as a job.

One object for one server, made by `create_app`, entered when the server starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from fnmatch import fnmatchcase

from prometheus_client import CollectorRegistry

from vllm_dsocr.engine import Engine
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.server.errors import ApiError, busy, engine_gone, not_found, too_large, unreadable
from vllm_dsocr.server.metrics import Metrics
from vllm_dsocr.server.settings import Settings
from vllm_dsocr.server.storage.blobs import Blobs
from vllm_dsocr.server.storage.database import Database
from vllm_dsocr.server.storage.tables import StoredFile
from vllm_dsocr.server.work.drawing import Drawing
from vllm_dsocr.server.work.fetching import Fetcher
from vllm_dsocr.server.work.gate import FairGate
from vllm_dsocr.server.work.reading import (
    FigureReader,
    OnPage,
    ReadDocument,
    Reading,
    Stored,
    file_key,
)

MAX_NAME = 255  # characters of a file's name that are kept


class Service:
    """Documents in, read documents out, for every protocol alike."""

    def __init__(self, engine: Engine, settings: Settings, registry: CollectorRegistry) -> None:
        self.engine = engine
        self.settings = settings
        settings.data.mkdir(parents=True, exist_ok=True)
        self.database = Database(settings.database_url())
        self.blobs = Blobs(settings.storage_url())
        self.fetcher = Fetcher(
            settings.allow_hosts, settings.private_hosts, settings.max_file_bytes
        )
        self.gate = FairGate(1, 1)  # sized when the engine is there
        self.metrics = Metrics(registry, self.gate, self._num_ready)
        self._documents = 0
        self._locks = [threading.Lock() for _ in range(64)]
        self.incoming_bytes = 0  # of bodies whose requests have no answer yet
        self.is_open = False

    @property
    def model(self) -> str:
        """The name answers give the model."""
        return self.settings.model_name or self.engine.model

    @property
    def is_ready(self) -> bool:
        """Whether pages can be read: an engine that comes and goes says so itself."""
        return self.is_open and bool(getattr(self.engine, "is_ready", True))

    def _num_ready(self) -> int:
        return int(getattr(self.engine, "num_ready", self.is_open))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Readies engine and drawing; both are gone behind it."""
        settings = self.settings
        drawing = Drawing(
            settings.draw_processes,
            settings.draw_bytes,
            settings.page_seconds,
            settings.max_pixels,
        )
        async with AsyncExitStack() as stack:
            stack.callback(drawing.close)
            await stack.enter_async_context(self.engine)
            self.size_gate()
            self.reading = Reading(
                self.engine,
                self.database,
                self.blobs,
                drawing,
                self.gate,
                self.metrics,
                settings.data / "cache",
                settings.max_pages,
                settings.page_seconds,
            )
            self.is_open = True
            try:
                yield
            finally:
                self.is_open = False

    def size_gate(self) -> None:
        """As many pages as the engine wants, which changes where servers come and go."""
        total = self.settings.pages_in_flight or self.engine.max_in_flight
        self.gate.resize(total, self.settings.pages_per_request or max(1, total // 2))

    async def store(self, owner: str, name: str, data: bytes, purpose: str = "ocr") -> StoredFile:
        """Keeps a client's file. Raises ApiError when it is empty, too large or over the quota."""
        if not data:
            raise unreadable("the file is empty")
        if len(data) > self.settings.max_file_bytes:
            raise too_large(f"the file is larger than {self.settings.max_file_bytes:,} bytes")
        return await asyncio.to_thread(self._store, owner, name, data, purpose)

    def _store(self, owner: str, name: str, data: bytes, purpose: str) -> StoredFile:
        if self.database.stored_bytes(owner) + len(data) > self.settings.quota_bytes:
            raise ApiError(413, "the quota of stored files is used up; delete some")
        sha256 = hashlib.sha256(data).hexdigest()
        with self._lock(sha256):
            if not self.blobs.exists(file_key(sha256)):
                self.blobs.write(file_key(sha256), data)
            try:
                return self.database.add_file(owner, sha256, clean_name(name), len(data), purpose)
            except Exception:  # a full disk, most likely: bytes nobody owns would stay for ever
                if not self.database.is_stored(sha256):
                    self.blobs.delete(file_key(sha256))
                raise

    def _lock(self, sha256: str) -> threading.Lock:
        """Nobody deletes bytes between the moment they are found there and that of their record."""
        return self._locks[int(sha256[:8], 16) % len(self._locks)]

    async def find(self, owner: str, file_id: str) -> StoredFile:
        """The client's own file. Raises ApiError 404."""
        file = await asyncio.to_thread(self.database.file, owner, file_id)
        if file is None:
            raise not_found("file")
        return file

    async def forget(self, file: StoredFile) -> None:
        """Deletes a file, and its bytes where no other record has the same."""
        await asyncio.to_thread(self._forget, file)

    def _forget(self, file: StoredFile) -> None:
        with self._lock(file.sha256):
            if self.database.delete_file(file):
                self.blobs.delete(file_key(file.sha256))

    def read_settings(
        self,
        task: str = "markdown",
        mode: str | None = None,
        max_tokens: int | None = None,
        confidence: bool = False,
        model: str | None = None,
    ) -> ReadSettings:
        """How pages are read for a request.

        Raises ApiError: 404 for a model that is not here, 503 while nobody can tell.
        """
        weights, dpi = self.engine.model, self.settings.dpi
        if not weights:  # servers that have not answered yet: records would get no name
            raise engine_gone()
        adapter = model if model in self._adapters else None
        if adapter is not None:
            weights = f"{weights} {self._adapters[adapter]}"
        elif model and not self._is_name(model):
            raise no_model(model) if self.is_ready else engine_gone()
        return ReadSettings(
            weights, task, mode, dpi, max_tokens, confidence=confidence, adapter=adapter
        )

    async def check_model(self, model: str | None) -> None:
        """Raises ApiError 404 for a model that is not here, as far as can be told now."""
        if not model or self._is_name(model):
            return
        list_models = getattr(self.engine, "list_models", None)  # of servers, where adapters come
        if list_models is not None:
            await list_models()
        if model not in self._adapters and self.is_ready:
            raise no_model(model)

    @property
    def _adapters(self) -> Mapping[str, str]:
        adapters: Mapping[str, str] = getattr(self.engine, "adapters", {})
        return adapters

    def _is_name(self, model: str) -> bool:
        """Whether the served model is meant: products send names that their makers chose."""
        names = (self.model, self.engine.model, *getattr(self.engine, "names", ()))
        aliases = self.settings.model_aliases
        return model in names or any(fnmatchcase(model.lower(), a.lower()) for a in aliases)

    async def read(
        self,
        file: StoredFile,
        settings: ReadSettings,
        wanted: list[int] | None = None,
        on_page: OnPage | None = None,
        seconds: float | None = None,
    ) -> ReadDocument:
        """The document, read. Raises ApiError."""
        stored = Stored(file.sha256, file.name, file.size)
        seconds = min(seconds or self.settings.document_seconds, self.settings.document_seconds)
        return await self.reading.read(stored, settings, wanted, seconds, on_page)

    def figure_reader(self, file: StoredFile, settings: ReadSettings) -> FigureReader:
        """Gives PNGs of figures of pages that are being read."""
        return self.reading.figure_reader(file.sha256, settings)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the clients that wait for an answer. Raises ApiError 429."""
        if self._documents >= self.settings.max_documents:
            raise busy()
        self._documents += 1
        try:
            yield
        finally:
            self._documents -= 1


def no_model(name: str) -> ApiError:
    return ApiError(404, f"there is no model {name!r} here", where="model")


def clean_name(name: str) -> str:
    """A client's file name as a name: no folders, no control characters, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    printable = "".join(c for c in last if c.isprintable() and not "\ud800" <= c <= "\udfff")
    return printable.strip(". ")[:MAX_NAME] or "document"
