"""Whether this process lives, whether it can read pages, which release it is. Open to all."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from vllm_dsocr import __version__
from vllm_dsocr.server.service import Service

probes = APIRouter(tags=["health"])  # of every server
router = APIRouter(tags=["health"])  # of a process of its own


@probes.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@probes.get("/readyz")
@probes.get("/ready", include_in_schema=False)
async def readyz(request: Request) -> JSONResponse:
    """Pages can be read: engine and database answer, and the server is not being drained."""
    service: Service | None = getattr(request.app.state, "dsocr_service", None)
    ready = (
        service is not None
        and service.is_ready
        and await asyncio.to_thread(service.database.is_alive)
    )
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/health")
async def health() -> dict[str, str]:
    """As `/livez`."""
    return {"status": "ok"}


@router.get("/version")
async def version() -> dict[str, str]:
    return {"name": "vllm-dsocr", "version": __version__}
