"""`create_app(engine, settings)`: the service as a FastAPI application of its own.

`attach` and `start` are its two halves, which vLLM's server uses to take the same routes in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry, make_asgi_app

from vllm_dsocr import __version__
from vllm_dsocr.engine import Engine
from vllm_dsocr.server.housekeeping import keep_house
from vllm_dsocr.server.protocols import ROUTERS, health, register_jobs
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.settings import Settings
from vllm_dsocr.server.work.jobs import Jobs
from vllm_dsocr.server.work.webhooks import Webhooks

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Documents in, text out: the OCR protocols of Mistral, docling-serve and Open WebUI, with jobs and \
files of their own, read by one model.
"""


def create_app(
    engine: Engine, settings: Settings, registry: CollectorRegistry = REGISTRY
) -> FastAPI:
    """The service over an engine, which is entered when the application starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with start(app, engine, settings, registry):
            yield

    app = FastAPI(
        title="vllm-dsocr", version=__version__, description=DESCRIPTION, lifespan=lifespan
    )
    attach(app)
    app.mount("/metrics", make_asgi_app(registry))
    return app


def attach(app: FastAPI, own_process: bool = True) -> None:
    """Adds the routes; a server that has a life of its own answers for its health itself."""
    for router in (*ROUTERS, *([health.router] if own_process else [])):
        app.include_router(router)


@asynccontextmanager
async def start(
    app: FastAPI, engine: Engine, settings: Settings, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Makes the routes of `app` work for as long as it is entered."""
    service = Service(engine, settings, registry)
    jobs = Jobs(service, Webhooks(settings.webhook_hosts, settings.webhook_secret))
    register_jobs(jobs)
    app.state.dsocr_service, app.state.dsocr_jobs = service, jobs
    async with service.running():
        tasks = [
            asyncio.create_task(jobs.run(), name="jobs"),
            asyncio.create_task(keep_house(service, jobs), name="housekeeping"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
