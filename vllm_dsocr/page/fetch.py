"""A URL -> a file on disk, from hosts that were named and from no other.

Redirects are followed only to named hosts, so that a page list cannot reach what lies behind a
firewall. Standard library only.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Collection
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from vllm_dsocr.page.source import PageError

MAX_BYTES = 1 << 30
_TIMEOUT_SECONDS = 60
_PIECE_BYTES = 1 << 20


def is_url(text: str) -> bool:
    """Whether an argument means something on the web."""
    return urlsplit(text).scheme in ("http", "https")


def fetch(
    url: str, folder: Path, allowed_hosts: Collection[str], max_bytes: int = MAX_BYTES
) -> Path:
    """Saves what the URL gives under its own last name in `folder`.

    Raises PageError: host not allowed, no answer, or more than `max_bytes`.
    """
    _check_host(url, allowed_hosts)
    name = PurePosixPath(unquote(urlsplit(url).path)).name.replace("\0", "") or "download"
    target = folder / name
    opener = urllib.request.build_opener(_NamedHosts(allowed_hosts))
    try:
        with opener.open(url, timeout=_TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            _copy(answer, file, max_bytes, url)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise PageError(f"cannot fetch {url}: {getattr(error, 'reason', error)}") from error
    return target


def _copy(answer: IO[bytes], file: IO[bytes], max_bytes: int, url: str) -> None:
    size = 0
    while piece := answer.read(_PIECE_BYTES):
        size += len(piece)
        if size > max_bytes:
            raise PageError(f"{url} is larger than {max_bytes:,} bytes")
        file.write(piece)


def _check_host(url: str, allowed_hosts: Collection[str]) -> None:
    host = urlsplit(url).hostname
    if not is_url(url) or host not in allowed_hosts:
        raise PageError(f"{url}: host {host!r} was not allowed; allow it by name")


class _NamedHosts(urllib.request.HTTPRedirectHandler):
    """Redirects, checked like first addresses."""

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._allowed_hosts = allowed_hosts

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_host(newurl, self._allowed_hosts)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
