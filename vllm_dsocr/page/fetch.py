"""A URL -> a file on disk. Needs httpx.

Only hosts that were named are asked, redirects included, so that neither a page list nor an answer
can reach what lies behind a firewall. A URL that a person typed names its host.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from vllm_dsocr.page.source import PageError

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 1 << 30
MAX_REDIRECTS = 10
_TIMEOUT_SECONDS = 60.0


def is_url(text: str) -> bool:
    """Whether an argument means something on the web."""
    return urlsplit(text).scheme in ("http", "https")


def url_name(url: str) -> str:
    """What to call the file behind a URL: the last part of its path."""
    try:
        name = PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:
        return "download"
    return "".join(letter for letter in name if letter.isprintable()) or "download"


def fetch(
    url: str,
    folder: Path,
    allowed_hosts: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
    typed: bool = False,
) -> Path:
    """Saves what the URL gives in `folder` as `url_name`.

    typed: by a person, whose own wish allows its host. Raises PageError: a host that was not
    allowed, no answer, an error for an answer, or more than `max_bytes`.
    """
    httpx = _httpx()
    target = folder / url_name(url)
    try:
        hosts = {*allowed_hosts, *([urlsplit(url).hostname] if typed else [])}
        with httpx.Client(timeout=_TIMEOUT_SECONDS) as client:
            _save(client, url, hosts, target, max_bytes)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, PageError):
            raise
        raise PageError(f"cannot fetch {url}: {error or type(error).__name__}") from error
    return target


def _save(
    client: httpx.Client, url: str, hosts: Collection[str | None], target: Path, max_bytes: int
) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        if not is_url(url) or urlsplit(url).hostname not in hosts:
            host = urlsplit(url).hostname
            raise PageError(f"{url}: host {host!r} was not allowed; allow it by name")
        with client.stream("GET", url) as answer:
            if answer.next_request is None:
                answer.raise_for_status()
                return _copy(answer, target, max_bytes)
            url = str(answer.next_request.url)
    raise PageError(f"cannot fetch {url}: more than {MAX_REDIRECTS} redirects")


def _copy(answer: httpx.Response, target: Path, max_bytes: int) -> None:
    size = 0
    with target.open("wb") as file:
        for piece in answer.iter_bytes():
            size += len(piece)
            if size > max_bytes:
                raise PageError(f"{answer.url} is larger than {max_bytes:,} bytes")
            file.write(piece)


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise ImportError("fetching URLs needs: pip install 'vllm-dsocr[client]'") from error
    return httpx
