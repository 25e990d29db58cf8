"""The service as a process of its own in front of servers: `dsocr gateway`."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vllm_dsocr import tracing
from vllm_dsocr.engine import Engine, EngineLost
from vllm_dsocr.fleet.discovery import discovery, split_servers
from vllm_dsocr.fleet.replicas import ANSWER_SECONDS, Replica
from vllm_dsocr.fleet.routing import BalancedEngine
from vllm_dsocr.server.logs import write_json
from vllm_dsocr.server.settings import Settings

# A client that takes up an idle connection in the moment that it is closed gets no answer. Pools
# give theirs up after 5 s (httpx, and uvicorn closes them then), load balancers after 60 s.
KEEP_ALIVE_SECONDS = 75


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

    from vllm_dsocr.server.gateway import create_gateway

    def make(url: str) -> Replica:
        return replica(url, model, concurrency)

    try:
        tracing.export_if_asked("dsocr-gateway")
    except ImportError as error:
        print(f"dsocr gateway: {error}", file=sys.stderr)
        return 2
    as_json = settings.log_format == "json"
    if as_json:
        write_json("", log_level)
    plain, names = split_servers(servers)
    engine = BalancedEngine([make(url) for url in plain], model, discovery(names, make))
    config = uvicorn.Config(
        create_gateway(engine, settings),
        host=host,
        port=port,
        log_level=log_level,
        log_config=None if as_json else uvicorn.config.LOGGING_CONFIG,
        access_log=not as_json,  # ours has the request's id
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
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
        return await ServerEngine.connect(url, model, max_retries=1, **limit)

    async def check() -> None:
        await check_health(url)

    return Replica(url, connect, check)


@lru_cache
def _certificates() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


async def check_health(url: str) -> None:
    """Raises EngineLost for a server that says it is not well, or says nothing at all.

    A server without such a route is well as long as it answers; TimeoutError when it does not.
    """
    import httpx

    from vllm_dsocr.server_engine import api_url

    certificates = _certificates() if url.startswith("https") else False  # slow to load
    health = httpx.URL(api_url(url) + "/").join("../health")
    try:
        async with httpx.AsyncClient(verify=certificates, timeout=ANSWER_SECONDS) as client:
            answer = await client.get(health)
    except httpx.TimeoutException as error:
        raise TimeoutError from error
    except httpx.TransportError as error:
        raise EngineLost(f"nobody answers: {error}") from error
    if answer.status_code >= 500:
        raise EngineLost(f"it says it is not well: {answer.status_code}")
