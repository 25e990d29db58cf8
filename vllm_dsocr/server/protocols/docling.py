"""docling-serve's API: convert sources or files, at once or as a task that is asked after."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData, UploadFile

from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.errors import ApiError, bad_request, unreadable
from vllm_dsocr.server.protocols import intake
from vllm_dsocr.server.protocols.docling_answer import (
    CONTENTS,
    Content,
    DoclingOptions,
    ImageMode,
    document_answer,
    failed_answer,
    zip_answer,
)
from vllm_dsocr.server.routes import OcrRoute, jobs_of, service_of, until_disconnect
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.database import ENDED
from vllm_dsocr.server.storage.tables import Job
from vllm_dsocr.server.work.jobs import Jobs, Progress

logger = logging.getLogger(__name__)
router = APIRouter(tags=["docling"], route_class=OcrRoute)

JOB_KIND = "docling"
MAX_SOURCES = 100
TARGETS = ("inbody", "zip")
# What its client tells a task that is not there from one without a result by.
NO_TASK, NO_RESULT = "Task not found.", "Task result not found"
NO_CHUNKS = (
    "documents are not chunked here; convert to json and chunk it with docling, or take the format "
    "chunks of a job at /v1/ocr/jobs/ID/download/chunks"
)
MAX_WAIT_SECONDS = 600.0
Owner = Annotated[str, Depends(owner)]
# What docling calls the end of a job that we cancelled too.
_STATES = {"cancelled": "failure"}


# The form of uploads, for the published API: their options are read by `_from_form`.
_UPLOADS = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        }
    }
}


class Options(BaseModel):
    """docling's options that mean something here; the others are accepted and passed over.

    model: ours on top: what reads, as in `/v1/ocr`.
    """

    model_config = ConfigDict(extra="allow")

    to_formats: Annotated[list[Content], Field(min_length=1)] = ["md"]
    image_export_mode: ImageMode = "embedded"
    page_range: tuple[int, int] | None = None
    document_timeout: Annotated[float, Field(gt=0)] | None = None
    abort_on_error: bool = False
    model: Annotated[str, Field(max_length=512)] | None = None

    @field_validator("to_formats", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """Formats that docling has and we have not are an error only when nothing else is left."""
        if not isinstance(value, list):
            return value
        kept = [item for item in value if item in CONTENTS]
        return kept or value

    def wanted(self) -> list[int] | None:
        """Page numbers from 1. Raises ApiError."""
        if self.page_range is None:
            return None
        first, last = self.page_range
        if not 1 <= first <= last:
            raise unreadable("page_range is the first and the last page, counted from 1")
        return list(range(first, min(last, 1_000_000) + 1))

    def answer_options(self) -> DoclingOptions:
        return DoclingOptions(tuple(self.to_formats), self.image_export_mode)


class FileSource(BaseModel):
    kind: Literal["file"]
    base64_string: str
    filename: str


class HttpSource(BaseModel):
    kind: Literal["http"]
    url: str
    headers: dict[str, Any] = {}


class StoredSource(BaseModel):
    """A file that is in the store already: what jobs carry."""

    kind: Literal["stored"]
    file_id: str


class Target(BaseModel):
    """Where the documents go; the others that docling has are storages."""

    kind: Annotated[str, Field(max_length=64)] = "inbody"

    def check(self) -> None:
        """Raises ApiError for what is not offered."""
        if self.kind not in TARGETS:
            # docling's own client tries a storage first, and knows these words for those of a
            # server without one: it then asks for the document itself.
            raise bad_request(
                f"target {self.kind} needs artifact storage to be configured, which this service "
                "does not have; it offers inbody and zip"
            )


Source = Annotated[FileSource | HttpSource | StoredSource, Field(discriminator="kind")]


class ConvertSources(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "options": {"to_formats": ["md", "json"], "page_range": [1, 3]},
                    "sources": [
                        {"kind": "file", "base64_string": "JVBERi0x...", "filename": "a.pdf"}
                    ],
                    "target": {"kind": "inbody"},
                }
            ]
        }
    )

    options: Options = Options()
    sources: Annotated[list[Source], Field(min_length=1, max_length=MAX_SOURCES)]
    target: Target = Target()

    async def check(self, service: Service) -> None:
        """Raises ApiError for what is not offered."""
        self.options.wanted()
        self.target.check()
        await service.check_model(self.options.model)


@router.post("/v1/convert/source")
async def convert_source(request: Request, owner: Owner, body: ConvertSources) -> Response:
    """Converts and waits."""
    return await _convert_now(request, owner, body)


@router.post("/v1/convert/source/async")
async def convert_source_async(request: Request, owner: Owner, body: ConvertSources) -> Any:
    """Starts a task."""
    return await _start(request, owner, body)


@router.post(
    "/v1/convert/file",
    openapi_extra=_UPLOADS,
)
async def convert_file(request: Request, owner: Owner) -> Response:
    """Converts uploads and waits."""
    return await _convert_now(request, owner, await _from_form(request, owner))


@router.post(
    "/v1/convert/file/async",
    openapi_extra=_UPLOADS,
)
async def convert_file_async(request: Request, owner: Owner) -> Any:
    """Starts a task with uploads."""
    return await _start(request, owner, await _from_form(request, owner))


@router.get("/v1/status/poll/{task_id}")
async def poll(
    request: Request,
    owner: Owner,
    task_id: str,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0,
) -> dict[str, Any]:
    """How far a task is; waits for its end that long."""
    jobs = jobs_of(request)
    await _task(jobs, owner, task_id)
    return await task_status(jobs, await jobs.wait(owner, task_id, wait))


@router.get("/v1/result/{task_id}")
async def result(request: Request, owner: Owner, task_id: str) -> Response:
    """What a task came to."""
    jobs = jobs_of(request)
    job = await _task(jobs, owner, task_id)
    if job.state != "success":
        raise ApiError(404, f"{NO_RESULT}: {job.error or job.state}")
    return _response(await jobs.result(job))


@router.post("/v1/chunk/{rest:path}", include_in_schema=False)
async def chunk(rest: str) -> None:
    """docling's chunkers count tokens of a model of theirs; ours are a format of documents."""
    raise ApiError(404, NO_CHUNKS)


async def _task(jobs: Jobs, owner: str, task_id: str) -> Job:
    try:
        return await jobs.find(owner, task_id, JOB_KIND)
    except ApiError as error:
        raise ApiError(404, NO_TASK) from error


@router.get("/v1/clear/results")
async def clear(
    request: Request,
    owner: Owner,
    older_than: Annotated[float | None, Query(ge=0)] = None,
    older_then: Annotated[float, Query(ge=0)] = 3600.0,
) -> dict[str, str]:
    """Deletes the client's results of that age in seconds; docling spells it `older_then`."""
    service, jobs = service_of(request), jobs_of(request)
    moment = time.time() - (older_then if older_than is None else older_than)
    found = await asyncio.to_thread(service.database.jobs_ended_before, moment, owner)
    await jobs.delete([job for job in found if job.kind == JOB_KIND])
    return {"status": "ok"}


async def _from_form(request: Request, owner: str) -> ConvertSources:
    """The multipart form, its files stored. Raises ApiError."""
    service = service_of(request)
    form = await request.form(max_files=MAX_SOURCES)
    files = [item for item in form.getlist("files") if isinstance(item, UploadFile)]
    if not files:
        raise unreadable("the form has no files", "files")
    try:
        options = Options.model_validate(_options(form))
        target = Target(kind=str(form.get("target_type", "inbody")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise unreadable(f"{place}: {first['msg']}", place) from error
    target.check()
    stored = [
        await service.store(owner, f.filename or "", await f.read(), intake.INLINE) for f in files
    ]
    sources = [StoredSource(kind="stored", file_id=file.id) for file in stored]
    return ConvertSources(options=options, sources=list(sources), target=target)


def _options(form: FormData) -> dict[str, Any]:
    """Form fields as the JSON has them: lists are repeated, joined by commas or JSON."""
    options: dict[str, Any] = {}
    for name in form:
        values = [value for value in form.getlist(name) if isinstance(value, str)]
        if name in ("to_formats", "page_range"):
            options[name] = _list(values)
        elif values and name not in ("files", "target_type"):
            options[name] = values[-1]
    return options


def _list(values: list[str]) -> list[Any]:
    if len(values) == 1 and values[0].lstrip().startswith("["):
        try:
            parsed = json.loads(values[0])
        except ValueError as error:
            raise unreadable("a list of the form is not JSON") from error
        return parsed if isinstance(parsed, list) else [parsed]
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


async def _convert_now(request: Request, owner: str, body: ConvertSources) -> Response:
    service = service_of(request)
    await body.check(service)
    async with service.place():
        return _response(await until_disconnect(request, convert(service, owner, body)))


async def _start(request: Request, owner: str, body: ConvertSources) -> dict[str, Any]:
    """Everything is stored before the task is told of, so that it outlives this server."""
    service, jobs = service_of(request), jobs_of(request)
    await body.check(service)
    if len(body.options.model_extra or {}):
        logger.info("options without a meaning here: %s", ", ".join(body.options.model_extra or {}))
    sources = [await _stored(service, owner, source) for source in body.sources]
    carried = body.model_copy(update={"sources": sources})
    job = await jobs.add(owner, JOB_KIND, carried.model_dump(mode="json"))
    return await task_status(jobs, job)


async def _stored(service: Service, owner: str, source: Source) -> StoredSource:
    if isinstance(source, StoredSource):
        await service.find(owner, source.file_id)
        return source
    if isinstance(source, FileSource):
        file = await intake.from_base64(service, owner, source.base64_string, source.filename)
    else:
        file = await intake.from_url(service, owner, source.url)
    return StoredSource(kind="stored", file_id=file.id)


async def convert(
    service: Service, owner: str, body: ConvertSources, progress: Progress | None = None
) -> dict[str, Any]:
    """All documents, read: {"answers", "target", "processing_time"}. Raises ApiError."""
    started = time.monotonic()
    answers = []
    for source in body.sources:
        try:
            answers.append(await _convert_one(service, owner, source, body.options, progress))
        except ApiError as error:
            if len(body.sources) == 1 or error.status >= 500 or body.options.abort_on_error:
                raise
            name = source.filename if isinstance(source, FileSource) else "document"
            answers.append(failed_answer(name, error.sentence))
    seconds = time.monotonic() - started
    return {"answers": answers, "target": body.target.kind, "processing_time": seconds}


async def _convert_one(
    service: Service, owner: str, source: Source, options: Options, progress: Progress | None
) -> dict[str, Any]:
    stored = await _stored(service, owner, source)
    named = await service.find(owner, stored.file_id)

    async def on_page(_: Any, done: int, pages: int) -> None:
        if progress is not None:
            await progress(done, pages)

    async with AsyncExitStack() as stack:
        if progress is None:  # a task keeps its sources for the case that it is taken over
            await stack.enter_async_context(intake.read_once(service, named))
        settings = service.read_settings(model=options.model)
        document = await service.read(
            named, settings, options.wanted(), on_page, options.document_timeout
        )
    return await asyncio.to_thread(document_answer, document, options.answer_options())


def _response(result: dict[str, Any]) -> Response:
    answers = result["answers"]
    if len(answers) > 1 or result["target"] == "zip":
        headers = {"Content-Disposition": 'attachment; filename="converted_docs.zip"'}
        return Response(zip_answer(answers), media_type="application/zip", headers=headers)
    return JSONResponse({**answers[0], "processing_time": result["processing_time"]})


async def task_status(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job as docling-serve's task."""
    position = await jobs.position(job) if job.state == "pending" else None
    return {
        "task_id": job.id,
        "task_type": "convert",
        "task_status": _STATES.get(job.state, job.state),
        "task_position": position,
        "task_meta": {
            "num_docs": len(job.body["sources"]),
            "num_processed": 0 if job.state not in ENDED else len(job.body["sources"]),
            "num_succeeded": len(job.body["sources"]) if job.state == "success" else 0,
            "num_failed": len(job.body["sources"]) if job.state == "failure" else 0,
        },
        "error_message": job.error or None,
    }


async def run_job(
    service: Service, owner: str, body: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """A task's work."""
    return await convert(service, owner, ConvertSources.model_validate(body), progress)
