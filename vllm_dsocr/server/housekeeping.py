"""Now and then: what is older than an operator keeps is deleted."""

from __future__ import annotations

import asyncio
import logging
import time

from vllm_dsocr.server.service import Service
from vllm_dsocr.server.work.jobs import Jobs
from vllm_dsocr.server.work.reading import figure_key

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN = 60.0


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
    for file in await asyncio.to_thread(service.database.files_before, moment):
        await service.forget(file)
    await asyncio.to_thread(_delete_pages, service, moment)


def _delete_pages(service: Service, moment: float) -> None:
    pages = service.database.pages_before(moment)
    for page in pages:
        for index in range(int(page.record.get("num_figures", 0))):
            service.blobs.delete(figure_key(page.key, index))
    service.database.delete_pages([page.key for page in pages])
