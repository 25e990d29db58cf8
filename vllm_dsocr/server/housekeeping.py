"""Now and then: what is older than an operator keeps is deleted."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from vllm_dsocr.document.record import page_from_record
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.work.jobs import Jobs
from vllm_dsocr.server.work.reading import figure_key, file_key

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN = 60.0
_ID = re.compile(rb"[0-9a-f]{32}")


async def keep_house(service: Service, jobs: Jobs) -> None:
    """Deletes old results, files and pages until cancelled."""
    while True:
        service.size_gate()
        try:
            await clean(service, jobs, time.time() - service.settings.keep_seconds)
            service.metrics.queue.set(await asyncio.to_thread(service.database.num_waiting))
        except Exception:
            logger.exception("housekeeping failed; it is tried again")
        await asyncio.sleep(_SECONDS_BETWEEN)


async def clean(service: Service, jobs: Jobs, moment: float) -> None:
    """Deletes what was done before that moment."""
    await jobs.delete(await asyncio.to_thread(service.database.jobs_ended_before, moment))
    old = await asyncio.to_thread(service.database.files_before, moment)
    used = await asyncio.to_thread(_used, service) if old else set()
    for file in old:
        if file.id not in used:
            await service.forget(file)
    await asyncio.to_thread(_delete_pages, service, moment)


def _used(service: Service) -> set[str]:
    """Files that work under way needs: those that its jobs and the lines of batches name."""
    bodies = service.database.bodies_under_way()
    used = file_ids(bodies)
    for body in bodies:
        if isinstance(file_id := body.get("input_file_id"), str):
            used |= _named_in(service, file_id)
    return used


def _named_in(service: Service, file_id: str) -> set[str]:
    """Whatever in a file may be the id of another, by itself or in a URL."""
    file = service.database.file(None, file_id)
    try:
        data = service.blobs.read(file_key(file.sha256)) if file else b""
    except FileNotFoundError:
        return set()
    return {match.decode() for match in _ID.findall(data)}


def file_ids(value: Any) -> set[str]:
    """Stored files that bodies of jobs name, under whatever kind of job."""
    if isinstance(value, dict):
        named = {item for key, item in value.items() if key.endswith("file_id")}
        value = list(value.values())
        return {item for item in named if isinstance(item, str)} | file_ids(value)
    return set().union(*map(file_ids, value)) if isinstance(value, list) else set()


def _delete_pages(service: Service, moment: float) -> None:
    pages = service.database.pages_before(moment)
    for page in pages:
        for figure in page_from_record(page.record).figures:
            service.blobs.delete(figure_key(page.key, figure.index))
    service.database.delete_pages([page.key for page in pages])
