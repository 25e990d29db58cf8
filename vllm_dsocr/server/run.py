"""The service as a process of its own in front of servers: `dsocr gateway`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from vllm_dsocr.engine import Engine
from vllm_dsocr.fleet.discovery import discovery, split_servers
from vllm_dsocr.fleet.routing import BalancedEngine, Replica
from vllm_dsocr.server.settings import Settings


def run_gateway(
    servers: Sequence[str],
    model: str | None,
    settings: Settings,
    host: str,
    port: int,
    concurrency: int | None,
    log_level: str,
) -> int:
    """Serves until it is told to stop; 2, and one sentence, when it cannot begin."""
    import uvicorn

    from vllm_dsocr.server.app import create_app

    def make(url: str) -> Replica:
        return replica(url, model, concurrency)

    plain, names = split_servers(servers)
    engine = BalancedEngine([make(url) for url in plain], model, discovery(names, make))
    config = uvicorn.Config(
        create_app(engine, settings),
        host=host,
        port=port,
        log_level=log_level,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        print("dsocr gateway: it did not start; the log above says why", file=sys.stderr)
        return 2
    return 0


def replica(url: str, model: str | None, concurrency: int | None) -> Replica:
    """A server behind the gateway."""

    async def connect() -> Engine:
        from vllm_dsocr.server_engine import ServerEngine

        limit: dict[str, Any] = {"max_in_flight": concurrency} if concurrency else {}
        return await ServerEngine.connect(with_version(url), model, max_retries=0, **limit)

    return Replica(url, connect)


def with_version(url: str) -> str:
    """The API's root; people leave its /v1 out."""
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"
