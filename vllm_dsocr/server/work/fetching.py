"""A URL a client names -> its bytes, from named hosts only and never from inside the network.

The name is resolved once, every address is checked, and the connection goes to an address that was
checked: a name that changes its answer in between gains nothing. Redirects go the same way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import httpx

from vllm_dsocr.server.errors import bad_request, too_large, unreadable

MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """Fetches what the operator allows. `private_hosts` may have private addresses."""

    def __init__(
        self, allow_hosts: Collection[str], private_hosts: Collection[str], max_bytes: int
    ) -> None:
        self._allow_hosts = {host.lower() for host in allow_hosts}
        self._private_hosts = {host.lower() for host in private_hosts}
        self._max_bytes = max_bytes

    async def fetch(self, url: str) -> tuple[str, bytes]:
        """(name, bytes) of what the URL gives. Raises ApiError: refused, no answer, too large."""
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._ask(client, url)
                if answer.next_url is None:
                    return _name(url), answer.data
                url = answer.next_url
        raise unreadable("the URL redirects too often")

    async def _ask(self, client: httpx.AsyncClient, url: str) -> _Answer:
        host, port, address = await self._resolve(url)
        parts = urlsplit(url)
        literal = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
        given_port = "" if port == _DEFAULT_PORTS[parts.scheme] else f":{port}"
        request = client.build_request(
            "GET",
            target,
            headers={"Host": f"{host}{given_port}"},
            extensions={"sni_hostname": host},
        )
        try:
            answer = await client.send(request, stream=True, follow_redirects=False)
            try:
                return await self._take(answer, url)
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise unreadable("the URL does not answer") from error

    async def _take(self, answer: httpx.Response, url: str) -> _Answer:
        if answer.is_redirect:
            return _Answer(b"", str(httpx.URL(url).join(answer.headers["location"])))
        if answer.status_code != 200:
            raise unreadable(f"the URL answers with status {answer.status_code}")
        data = bytearray()
        async for piece in answer.aiter_bytes():
            data += piece
            if len(data) > self._max_bytes:
                raise too_large(f"the document is larger than {self._max_bytes:,} bytes")
        return _Answer(bytes(data), None)

    async def _resolve(self, url: str) -> tuple[str, int, str]:
        """(host, port, checked address) of a URL that may be fetched."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise bad_request("the URL is malformed") from error
        if parts.scheme not in _DEFAULT_PORTS or not host:
            raise bad_request("only http and https URLs are fetched")
        if host not in self._allow_hosts:
            raise bad_request(
                "URLs of this host are not fetched; upload the file, or have the operator allow it"
            )
        port = port or _DEFAULT_PORTS[parts.scheme]
        addresses = await _addresses(host, port)
        if host not in self._private_hosts and not all(_is_public(a) for a in addresses):
            raise bad_request("the URL's host has a private address")
        return host, port, addresses[0]


class _Answer:
    def __init__(self, data: bytes, next_url: str | None) -> None:
        self.data = data
        self.next_url = next_url


async def _addresses(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise unreadable("the URL's host is not known") from error
    return [str(info[4][0]) for info in found]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (mapped is None or mapped.is_global)


def _name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name or "document"
