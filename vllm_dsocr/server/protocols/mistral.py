"""Mistral's `/v1/ocr`: one document in, its pages out; `stream` sends each page as it is done."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from vllm_dsocr.config import MODES
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.errors import ApiError, bad_request
from vllm_dsocr.server.protocols import intake
from vllm_dsocr.server.protocols.mistral_answer import (
    AnswerOptions,
    Granularity,
    TableFormat,
    page_answer,
)
from vllm_dsocr.server.routes import OcrRoute, service_of, until_disconnect
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.tables import StoredFile
from vllm_dsocr.server.work.jobs import Progress
from vllm_dsocr.server.work.reading import ReadDocument

logger = logging.getLogger(__name__)
router = APIRouter(tags=["ocr"], route_class=OcrRoute)

JOB_KIND = "ocr"
MAX_PAGE_INDEX = 1_000_000
MAX_RANGES = 100_000  # characters
_RANGE = re.compile(r"([0-9]{1,7})(?: *- *([0-9]{1,7}))?")


class ImageUrl(BaseModel):
    url: str


class DocumentUrlChunk(BaseModel):
    type: Literal["document_url"]
    document_url: str
    document_name: str | None = None


class ImageUrlChunk(BaseModel):
    type: Literal["image_url"]
    image_url: str | ImageUrl


class FileChunk(BaseModel):
    type: Literal["file"]
    file_id: str


Document = Annotated[DocumentUrlChunk | ImageUrlChunk | FileChunk, Field(discriminator="type")]


class OcrRequest(BaseModel):
    """Mistral's fields, and ours: mode, task, prompt, max_tokens, stream."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "deepseek-ai/DeepSeek-OCR",
                    "document": {
                        "type": "document_url",
                        "document_url": "data:application/pdf;base64,JVBERi0x...",
                    },
                    "pages": "0-2",
                }
            ]
        }
    )

    model: str | None = None
    document: Document
    id: str | None = None
    pages: Annotated[list[int], Field(max_length=100_000)] | str | None = None
    include_image_base64: bool | None = None
    image_limit: Annotated[int, Field(ge=0)] | None = None
    image_min_size: Annotated[int, Field(ge=0)] | None = None
    table_format: TableFormat | None = None
    extract_header: bool | None = None
    extract_footer: bool | None = None
    include_blocks: bool | None = None
    confidence_scores_granularity: Granularity | None = None
    bbox_annotation_format: Any = None
    document_annotation_format: Any = None
    document_annotation_prompt: str | None = None

    mode: Literal[tuple(MODES)] | None = None  # type: ignore[valid-type]
    task: str = "markdown"
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    stream: bool = False

    def answer_options(self) -> AnswerOptions:
        return AnswerOptions(
            include_image_base64=bool(self.include_image_base64),
            image_limit=self.image_limit,
            image_min_size=self.image_min_size,
            table_format=self.table_format,
            extract_header=bool(self.extract_header),
            extract_footer=bool(self.extract_footer),
            include_blocks=bool(self.include_blocks),
            confidence=self.confidence_scores_granularity,
        )

    def read_settings(self, service: Service) -> ReadSettings:
        """How its pages are read, and so under which keys they are found."""
        confidence = self.confidence_scores_granularity is not None
        return service.read_settings(self.task, self.mode, self.max_tokens, confidence, self.model)

    def wanted(self) -> list[int] | None:
        """Page numbers from 1, ascending, each once. Raises ApiError."""
        if self.pages is None or self.pages in ([], ""):
            return None
        indices = parse_pages(self.pages) if isinstance(self.pages, str) else self.pages
        if any(not 0 <= index <= MAX_PAGE_INDEX for index in indices):
            raise bad_request("pages are counted from 0", "pages")
        return sorted({index + 1 for index in indices})


def parse_pages(text: str) -> list[int]:
    """Indices of `0,2-4`. Raises ApiError."""
    if len(text) > MAX_RANGES:
        raise bad_request(f"pages has more than {MAX_RANGES:,} characters", "pages")
    indices: set[int] = set()
    total = 0
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise bad_request(f"not a list of pages: {text[:80]!r}; write for example 0,2-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > MAX_PAGE_INDEX:
            raise bad_request(f"not a range of pages: {part.strip()!r}", "pages")
        total += last - first + 1
        if total > MAX_PAGE_INDEX + 1:  # before the same million is written out again
            raise bad_request("pages names too many pages", "pages")
        indices.update(range(first, last + 1))
    return sorted(indices)


@router.post("/v1/ocr")
async def ocr(
    request: Request, body: OcrRequest, owner: Annotated[str, Depends(owner)]
) -> Response:
    """Reads a document."""
    service = service_of(request)
    await check(service, body)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(service.place())
        named = await stored_document(service, owner, body)
        file = await stack.enter_async_context(intake.read_once(service, named))
        if body.stream:
            return _Stream(_events(service, file, body), stack.pop_all())
        answer = await until_disconnect(request, answer_document(service, file, body))
    return JSONResponse(answer)


class _Stream(StreamingResponse):
    """Server-sent events; the client's place is taken until they end or he hangs up."""

    def __init__(self, events: AsyncGenerator[str, None], place: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._events, self._place = events, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._place, aclosing(self._events):
            await super().__call__(scope, receive, send)


async def check(service: Service, body: OcrRequest) -> None:
    """Refuses what is not offered, before anything is stored. Raises ApiError, PromptError."""
    if body.bbox_annotation_format or body.document_annotation_format:
        raise bad_request("annotation formats are not supported here", "document_annotation_format")
    if body.document_annotation_prompt:
        raise bad_request("annotation prompts are not supported here", "document_annotation_prompt")
    body.wanted()
    ReadSettings(service.model, body.task).prompt  # noqa: B018  raises for what is no task
    await service.check_model(body.model)


async def stored_document(service: Service, owner: str, body: OcrRequest) -> StoredFile:
    """The document the request names. Raises ApiError."""
    document = body.document
    if isinstance(document, FileChunk):
        return await service.find(owner, document.file_id)
    if isinstance(document, DocumentUrlChunk):
        name = document.document_name or ""
        return await intake.from_url(service, owner, document.document_url, name)
    url = document.image_url
    return await intake.from_url(service, owner, url if isinstance(url, str) else url.url)


async def answer_document(
    service: Service, file: StoredFile, body: OcrRequest, progress: Progress | None = None
) -> dict[str, Any]:
    """The whole answer. Raises ApiError."""

    async def on_page(_: Page, done: int, pages: int) -> None:
        if progress is not None:
            await progress(done, pages)

    settings = body.read_settings(service)
    document = await service.read(file, settings, body.wanted(), on_page)
    name = settings.adapter or service.model
    return await asyncio.to_thread(_answer, service, document, body, name)


def _answer(
    service: Service, document: ReadDocument, body: OcrRequest, model: str
) -> dict[str, Any]:
    options, dpi = body.answer_options(), service.settings.dpi
    pages = [page_answer(page, options, document.figure, dpi) for page in document.pages]
    return {
        "pages": pages,
        "model": model,
        "document_annotation": None,
        "usage_info": {
            "pages_processed": len(pages),
            "doc_size_bytes": document.stored.size,
        },
    }


async def _events(
    service: Service, file: StoredFile, body: OcrRequest
) -> AsyncGenerator[str, None]:
    """Server-sent events: `page` as pages are done, in any order; `done` or `error` at the end."""
    queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    options, dpi = body.answer_options(), service.settings.dpi
    settings = body.read_settings(service)
    figure = service.figure_reader(file, settings)

    async def on_page(page: Page, done: int, pages: int) -> None:
        answer = await asyncio.to_thread(page_answer, page, options, figure, dpi)
        await queue.put(("page", {"page": answer, "pages_done": done, "pages_total": pages}))

    async def read() -> None:
        try:
            document = await service.read(file, settings, body.wanted(), on_page)
            usage = {"pages_processed": len(document.pages), "doc_size_bytes": file.size}
            name = settings.adapter or service.model
            await queue.put(("done", {"model": name, "usage_info": usage}))
        except ApiError as error:
            await queue.put(("error", {"message": error.sentence, "status": error.status}))
        except Exception:  # headers are sent: the stream has to say it
            logger.exception("a stream failed")
            mistake = "the server made a mistake; its log says more"
            await queue.put(("error", {"message": mistake, "status": 500}))

    task = asyncio.create_task(read())
    try:
        name = ""
        while name not in ("done", "error"):
            name, data = await queue.get()
            yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_job(
    service: Service, owner: str, body: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """A job's work: the same answer. The body names a stored file."""
    request = OcrRequest.model_validate(body)
    file = await stored_document(service, owner, request)
    return await answer_document(service, file, request, progress)
