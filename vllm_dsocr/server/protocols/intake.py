"""How a request names a document -> a stored file of the client.

Inline as a data URL or base64, by the id of an upload, by a URL that this server gave for one (no
network needed), or by a URL of a host the operator allows.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import re
from urllib.parse import unquote_to_bytes, urlsplit

from vllm_dsocr.server.errors import bad_request, unreadable
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.tables import StoredFile

PURPOSE = "ocr"
_OWN_URL = re.compile(r"/v1/files/(?P<id>[0-9a-f]{32})/content")


async def from_url(service: Service, owner: str, url: str, name: str = "") -> StoredFile:
    """The document behind a URL of any kind. Raises ApiError."""
    if url[:5].lower() == "data:":
        suffix, data = await asyncio.to_thread(parse_data_url, url)
        return await service.store(owner, name or f"document{suffix}", data, PURPOSE)
    own = _OWN_URL.fullmatch(_path_of(url))
    if own is not None:
        return await service.find(owner, own["id"])
    found_name, data = await service.fetcher.fetch(url)
    return await service.store(owner, name or found_name, data, PURPOSE)


async def from_base64(service: Service, owner: str, text: str, name: str) -> StoredFile:
    """The document in base64. Raises ApiError."""
    data = await asyncio.to_thread(decode_base64, text)
    return await service.store(owner, name, data, PURPOSE)


def parse_data_url(url: str) -> tuple[str, bytes]:
    """(file suffix, bytes) of `data:TYPE;base64,DATA`. Raises ApiError."""
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise bad_request("the data URL has no comma, so it has no data")
    media_type = head.partition(";")[0].strip().lower()
    suffix = mimetypes.guess_extension(media_type) or ""
    if head.lower().endswith(";base64"):
        return suffix, decode_base64(data)
    return suffix, unquote_to_bytes(data)


def decode_base64(text: str) -> bytes:
    """Raises ApiError for what is no base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable("the document is not valid base64") from error


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise bad_request("the URL is malformed") from error
