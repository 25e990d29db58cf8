"""`dns+http://NAME:PORT` -> the servers behind every address that NAME has at the moment.

What a headless service of Kubernetes, or `docker compose up --scale`, gives. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from vllm_dsocr.fleet.replicas import Replica

logger = logging.getLogger(__name__)
PREFIX = "dns+"

MakeReplica = Callable[[str], Replica]


def split_servers(urls: Sequence[str]) -> tuple[list[str], list[str]]:
    """(URLs of servers, URLs whose host names many)."""
    plain = [url for url in urls if not url.startswith(PREFIX)]
    return plain, [url.removeprefix(PREFIX) for url in urls if url.startswith(PREFIX)]


def discovery(
    urls: Sequence[str], make: MakeReplica
) -> Callable[[], Awaitable[Sequence[Replica]]] | None:
    """Asks the name service each time; None where nothing has to be found out."""
    if not urls:
        return None
    made: dict[str, Replica] = {}
    answered: dict[str, list[str]] = {}

    async def discover() -> Sequence[Replica]:
        for url in urls:
            found = await _addresses(url)
            if found is not None:  # a name service that fails is no reason to let servers go
                answered[url] = found
        names = [name for found in answered.values() for name in found]
        for name in set(made) - set(names):
            del made[name]
        return [made.setdefault(name, make(name)) for name in names]

    return discover


async def _addresses(url: str) -> list[str] | None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        logger.warning("%s is not known: %s", parts.hostname, error)
        return None
    addresses = sorted({str(info[4][0]) for info in found})
    return [parts._replace(netloc=f"{_literal(a)}:{port}").geturl() for a in addresses]


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address
