"""Batches: a file of `/v1/ocr` requests, one a line, answered as a file; OpenAI's `/v1/batches`.

A line is `{"custom_id": ..., "method": "POST", "url": "/v1/ocr", "body": {...}}`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.errors import ApiError, bad_request
from vllm_dsocr.server.protocols import intake, mistral
from vllm_dsocr.server.routes import OcrRoute, jobs_of, service_of
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.tables import Job
from vllm_dsocr.server.work.jobs import Jobs, Progress
from vllm_dsocr.server.work.reading import file_key

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=OcrRoute)

JOB_KIND = "batch"
MAX_LINES = 50_000
LINES_AT_ONCE = 16
Owner = Annotated[str, Depends(owner)]
_STATES = {
    "pending": "validating",
    "started": "in_progress",
    "success": "completed",
    "failure": "failed",
}


class BatchRequest(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input_file_id": "0123456789abcdef...", "endpoint": "/v1/ocr"}]
        }
    )

    input_file_id: str
    endpoint: Literal["/v1/ocr"] = "/v1/ocr"
    completion_window: str = "24h"
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


class Line(BaseModel):
    """One request of a batch."""

    custom_id: Annotated[str, Field(max_length=512)]
    method: Literal["POST"] = "POST"
    url: Literal["/v1/ocr"] = "/v1/ocr"
    body: mistral.OcrRequest


async def batch_object(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job as OpenAI's clients read a batch."""
    result = await jobs.result(job) if job.state == "success" else {}
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": "/v1/ocr",
        "input_file_id": job.body["input_file_id"],
        "completion_window": job.body["completion_window"],
        "status": _STATES.get(job.state, job.state),
        "output_file_id": result.get("output_file_id"),
        "error_file_id": None,
        "errors": {"object": "list", "data": [{"message": job.error}]} if job.error else None,
        "created_at": int(job.created),
        "in_progress_at": int(job.started) or None,
        "completed_at": int(job.finished) or None,
        "request_counts": {
            "total": job.pages,
            "completed": result.get("completed", job.pages_done),
            "failed": result.get("failed", 0),
        },
        "metadata": job.body.get("metadata"),
    }


@router.post("")
async def create(request: Request, owner: Owner, body: BatchRequest) -> dict[str, Any]:
    """Starts a batch; its file is checked first."""
    service, jobs = service_of(request), jobs_of(request)
    await _lines(service, owner, body.input_file_id)
    return await batch_object(jobs, await jobs.add(owner, JOB_KIND, body.model_dump()))


@router.get("")
async def list_batches(
    request: Request,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> dict[str, Any]:
    jobs, database = jobs_of(request), service_of(request).database
    found = await asyncio.to_thread(database.jobs, owner, JOB_KIND, limit, offset)
    return {"object": "list", "data": [await batch_object(jobs, job) for job in found]}


@router.get("/{batch_id}")
async def retrieve(request: Request, owner: Owner, batch_id: str) -> dict[str, Any]:
    jobs = jobs_of(request)
    return await batch_object(jobs, await jobs.find(owner, batch_id, JOB_KIND))


@router.post("/{batch_id}/cancel")
async def cancel(request: Request, owner: Owner, batch_id: str) -> dict[str, Any]:
    """Stops it; pages that were read stay known."""
    jobs = jobs_of(request)
    await jobs.cancel(await jobs.find(owner, batch_id, JOB_KIND))
    return await batch_object(jobs, await jobs.find(owner, batch_id, JOB_KIND))


async def _lines(service: Service, owner: str, file_id: str) -> list[dict[str, Any]]:
    """The file's lines as JSON objects with an id of their own. Raises ApiError."""
    file = await service.find(owner, file_id)
    data = await asyncio.to_thread(service.blobs.read, file_key(file.sha256))
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(data.splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise bad_request(f"line {number} of the batch is not JSON") from error
        if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
            raise bad_request(f"line {number} of the batch has no custom_id")
        lines.append(line)
    if not 0 < len(lines) <= MAX_LINES:
        raise bad_request(f"a batch has 1 to {MAX_LINES:,} lines, this one has {len(lines):,}")
    if len({line["custom_id"] for line in lines}) < len(lines):
        raise bad_request("each custom_id of a batch must be of one line only")
    return lines


async def run_job(
    service: Service, owner: str, body: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Answers every line, in order, some at a time; one that fails has its error there."""
    lines = await _lines(service, owner, body["input_file_id"])
    places, done = asyncio.Semaphore(LINES_AT_ONCE), 0

    async def one(line: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        async with places:
            answer = await _answer(service, owner, line)
        done += 1
        await progress(done, len(lines))
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(line)) for line in lines]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    answers = [task.result() for task in tasks]
    output = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    data = output.encode("utf-8", "replace")
    file = await service.store(owner, "batch_output.jsonl", data, "batch_output")
    failed = sum(answer["response"]["status_code"] != 200 for answer in answers)
    return {
        "output_file_id": file.id,
        "completed": len(answers) - failed,
        "failed": failed,
    }


async def _answer(service: Service, owner: str, line: dict[str, Any]) -> dict[str, Any]:
    try:
        request = Line.model_validate(line).body
        await mistral.check(service, request)
        named = await mistral.stored_document(service, owner, request)
        async with intake.read_once(service, named) as file:
            status, body = 200, await mistral.answer_document(service, file, request)
    except ValidationError as error:
        first = error.errors()[0]
        status, body = 422, _error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except PromptError as error:
        status, body = 400, _error(str(error))
    except ApiError as error:
        if error.status == 503:
            raise
        status, body = error.status, _error(error.sentence)
    response = {"status_code": status, "request_id": uuid.uuid4().hex, "body": body}
    return {
        "id": uuid.uuid4().hex,
        "custom_id": line["custom_id"],
        "response": response,
        "error": None if status == 200 else body,
    }


def _error(sentence: str) -> dict[str, Any]:
    return {"message": sentence}
