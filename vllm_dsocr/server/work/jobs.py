"""Jobs: work that goes on when its client has left, and when the server was killed.

A job's body is JSON that names stored files; its result is JSON in the store. Pages that were read
are kept as they come, so whoever takes a job over reads the rest only. Knows nothing of protocols:
each kind of job is a function that was registered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from vllm_dsocr import tracing
from vllm_dsocr.engine import EngineLost
from vllm_dsocr.server.errors import ApiError, busy, disk_full, is_disk_full, not_found
from vllm_dsocr.server.logs import about
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.database import ENDED
from vllm_dsocr.server.storage.tables import Job
from vllm_dsocr.server.work.webhooks import Webhooks

logger = logging.getLogger(__name__)

Body = dict[str, Any]
Progress = Callable[[int, int], Awaitable[None]]  # pages done, pages in all
# (service, owner, body, progress) -> the result, JSON values. Raises ApiError.
Work = Callable[[Service, str, Body, Progress], Awaitable[Any]]

_IDLE_SECONDS = 0.5  # how often an idle server looks for jobs of others
_ENGINE_PAUSE_SECONDS = 5.0


class Jobs:
    """Takes jobs and runs them, `settings.jobs_at_once` at a time."""

    def __init__(self, service: Service, webhooks: Webhooks) -> None:
        self._service = service
        self._database = service.database
        self.webhooks = webhooks
        self._kinds: dict[str, Work] = {}
        self._worker = uuid.uuid4().hex
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._running: dict[str, asyncio.Task[Any]] = {}

    def register(self, kind: str, work: Work) -> None:
        """Teaches a kind of job."""
        self._kinds[kind] = work
        self._service.metrics.expect_jobs(kind)

    async def add(self, owner: str, kind: str, body: Body, webhook: str = "") -> Job:
        """A new job. Raises ApiError 429 when too many wait."""
        if await asyncio.to_thread(self._database.num_waiting) >= self._service.settings.max_queue:
            raise busy(30)
        job = await asyncio.to_thread(self._database.add_job, owner, kind, body, webhook)
        self._wake.set()
        return job

    async def find(self, owner: str, job_id: str, kind: str | None = None) -> Job:
        """The client's own job. Raises ApiError 404."""
        job = await asyncio.to_thread(self._database.job, owner, job_id)
        if job is None or kind not in (None, job.kind):
            raise not_found("job")
        return job

    async def wait(self, owner: str, job_id: str, seconds: float) -> Job:
        """The job once it has ended, or as it is when the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        job = await self.find(owner, job_id)
        while job.state not in ENDED and (left := deadline - loop.time()) > 0:
            await self._change(min(left, _IDLE_SECONDS))
            job = await self.find(owner, job_id)
        return job

    async def next_change(self, job: Job, seconds: float) -> Job:
        """The job once it is another than it was, or as it is when the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        now = job
        while _progress(now) == _progress(job) and (left := deadline - loop.time()) > 0:
            await self._change(min(left, _IDLE_SECONDS))
            now = await self.find(job.owner, job.id)
        return now

    async def position(self, job: Job) -> int:
        """How many waiting jobs are taken before this one is done with waiting."""
        return await asyncio.to_thread(self._database.position, job)

    async def _change(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    async def cancel(self, job: Job) -> bool:
        """Ends a job that has not ended, wherever it runs."""
        cancelled = await asyncio.to_thread(self._database.cancel_job, job.id)
        if (task := self._running.get(job.id)) is not None:
            task.cancel()
        await self._tell()
        return cancelled

    async def result(self, job: Job) -> Any:
        """What the job came to. Raises ApiError when there is nothing, with the reason."""
        if job.state == "failure":
            raise ApiError(422, job.error)
        if job.state != "success":
            raise not_found("result")
        try:
            return json.loads(await asyncio.to_thread(self._service.blobs.read, result_key(job.id)))
        except FileNotFoundError as error:
            raise not_found("result") from error

    async def delete(self, jobs: list[Job]) -> None:
        """Forgets ended jobs and their results."""
        for job in jobs:
            await asyncio.to_thread(self._service.blobs.delete, result_key(job.id))
        await asyncio.to_thread(self._database.delete_jobs, [job.id for job in jobs])

    async def run(self) -> None:
        """Works until cancelled; what is under way then goes back for the next server."""
        try:
            while True:
                await self._take_jobs()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_SECONDS):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            for job_id, task in list(self._running.items()):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.to_thread(self._database.give_back, self._worker, job_id)

    async def _take_jobs(self) -> None:
        while len(self._running) < self._service.settings.jobs_at_once:
            lease = self._service.settings.lease_seconds
            running = tuple(self._running)
            job = await asyncio.to_thread(self._database.claim_job, self._worker, lease, running)
            if job is None:
                return
            if job.state in ENDED:
                await self._told_after(job)
                continue
            task = asyncio.create_task(self._run_job(job), name=f"job-{job.id}")
            self._running[job.id] = task
            task.add_done_callback(partial(self._forget, job.id))

    def _forget(self, job_id: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(job_id, None)
        self._wake.set()

    async def _run_job(self, job: Job) -> None:
        with about(job=job.id), tracing.span("ocr.job", job=job.id, job_kind=job.kind):
            await self._run_claimed(job)

    async def _run_claimed(self, job: Job) -> None:
        work = asyncio.create_task(self._work(job))
        renewal = asyncio.create_task(self._keep_lease(job, work))
        try:
            await work
        except asyncio.CancelledError:
            work.cancel()
            raise
        finally:
            renewal.cancel()

    async def _keep_lease(self, job: Job, work: asyncio.Task[None]) -> None:
        """Stops the work when the job is somebody else's, or was cancelled elsewhere."""
        lease = self._service.settings.lease_seconds
        while True:
            await asyncio.sleep(lease / 4)
            if not await asyncio.to_thread(self._database.renew, self._worker, job.id, lease):
                work.cancel()
                return

    async def _work(self, job: Job) -> None:
        async def progress(done: int, pages: int) -> None:
            await asyncio.to_thread(self._database.progress, self._worker, job.id, pages, done)
            await self._tell()

        try:
            result = await self._kinds[job.kind](self._service, job.owner, job.body, progress)
            data = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")
            await asyncio.to_thread(self._service.blobs.write, result_key(job.id), data)
            state, error = "success", ""
        except ApiError as trouble:
            if trouble.status == 503:  # not this job's fault: it waits for the engine
                await asyncio.sleep(_ENGINE_PAUSE_SECONDS)
                await asyncio.to_thread(self._database.give_back, self._worker, job.id)
                return
            state, error = "failure", trouble.sentence
        except EngineLost:
            raise
        except Exception as trouble:
            logger.exception("job %s failed", job.id)
            mistake = "the server made a mistake; its log says more"
            state = "failure"
            error = disk_full().sentence if is_disk_full(trouble) else mistake
        ended = await asyncio.to_thread(self._database.end_job, self._worker, job.id, state, error)
        await self._tell()
        if ended:
            self._service.metrics.jobs.labels(job.kind, state).inc()
            facts = {"kind": job.kind, "state": state}
            logger.info("job %s ended: %s", job.id, error or state, extra={"facts": facts})
            await self._told_after(await self.find(job.owner, job.id))

    async def _told_after(self, job: Job) -> None:
        try:
            await self.webhooks.send(job)
        except Exception:
            logger.exception("the webhook of job %s failed", job.id)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _progress(job: Job) -> tuple[str, int]:
    return job.state, job.pages_done


def result_key(job_id: str) -> str:
    """Where a job's result is."""
    return f"results/{job_id[:2]}/{job_id}.json"
