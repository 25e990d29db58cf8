"""Jobs of our own: `/v1/ocr` without a client that waits, and batches of such requests."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.protocols import intake, mistral
from vllm_dsocr.server.routes import OcrRoute, jobs_of, service_of
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.database import ENDED
from vllm_dsocr.server.storage.tables import Job

router = APIRouter(prefix="/v1/ocr/jobs", tags=["jobs"], route_class=OcrRoute)
Owner = Annotated[str, Depends(owner)]


class OcrJobRequest(mistral.OcrRequest):
    """A request of `/v1/ocr`, and who is told of its end."""

    webhook: str | None = None


def job_object(job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    return {
        "id": job.id,
        "object": "ocr.job",
        "status": job.state,
        "filename": job.body.get("filename"),
        "pages": job.body.get("pages"),
        "pages_done": job.pages_done,
        "pages_total": job.pages or None,
        "error": job.error or None,
        "created_at": job.created,
        "started_at": job.started or None,
        "finished_at": job.finished or None,
    }


@router.post("", status_code=202)
async def create(request: Request, owner: Owner, body: OcrJobRequest) -> dict[str, Any]:
    """Starts a job; its document is stored before the answer."""
    service, jobs = service_of(request), jobs_of(request)
    await mistral.check(service, body)
    if body.webhook:
        jobs.webhooks.check(body.webhook)
    file = await mistral.stored_document(service, owner, body)
    carried = body.model_dump(mode="json", exclude={"webhook", "document", "stream"})
    carried["document"] = {"type": "file", "file_id": file.id}
    carried["filename"] = file.name
    job = await jobs.add(owner, mistral.JOB_KIND, carried, body.webhook or "")
    return job_object(job)


@router.get("")
async def list_jobs(
    request: Request,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> dict[str, Any]:
    """The client's jobs, newest first."""
    database = service_of(request).database
    found = await asyncio.to_thread(database.jobs, owner, mistral.JOB_KIND, limit, offset)
    return {"object": "list", "data": [job_object(job) for job in found]}


@router.get("/{job_id}")
async def retrieve(
    request: Request,
    owner: Owner,
    job_id: str,
    wait: Annotated[float, Query(ge=0, le=600)] = 0.0,
    since: Annotated[int | None, Query(ge=0, le=mistral.MAX_PAGE_INDEX)] = None,
) -> dict[str, Any]:
    """How far it is; waits that long for its end or, given `since`, for more pages than those."""
    jobs = jobs_of(request)
    job = await jobs.find(owner, job_id, mistral.JOB_KIND)
    if since is None:
        job = await jobs.wait(owner, job_id, wait)
    elif job.pages_done == since and job.state not in ENDED:
        job = await jobs.next_change(job, wait)
    return job_object(job)


@router.get("/{job_id}/result")
async def result(request: Request, owner: Owner, job_id: str) -> JSONResponse:
    """The answer of `/v1/ocr`; 409 while the job goes on."""
    jobs = jobs_of(request)
    job = await jobs.find(owner, job_id, mistral.JOB_KIND)
    if job.state not in ENDED:
        return JSONResponse({"detail": "the job has not ended", **job_object(job)}, 409)
    return JSONResponse(await jobs.result(job))


async def _forget_document(service: Service, job: Job) -> None:
    """What was sent with the job goes with it; uploads stay."""
    file_id = job.body["document"]["file_id"]
    file = await asyncio.to_thread(service.database.file, job.owner, file_id)
    if file is not None and file.purpose == intake.INLINE:
        await service.forget(file)


@router.delete("/{job_id}")
async def delete(request: Request, owner: Owner, job_id: str) -> dict[str, Any]:
    """Cancels a job that goes on; forgets one that has ended, with its result."""
    jobs = jobs_of(request)
    job = await jobs.find(owner, job_id, mistral.JOB_KIND)
    if not await jobs.cancel(job):
        await jobs.delete([job])
        await _forget_document(service_of(request), job)
    return {"id": job.id, "object": "ocr.job", "deleted": True}
