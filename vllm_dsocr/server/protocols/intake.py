"""How a request names a document -> a stored file of the client.

What is sent inline or fetched is forgotten once it was read, unless a job carries it on.
Inline as a data URL or base64, by the id of an upload, by a URL that this server gave for one (no
network needed), or by a URL of a host the operator allows.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from vllm_dsocr.server.errors import bad_request, unreadable
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.tables import StoredFile

INLINE = "ocr/inline"  # a purpose no client can give: theirs have no slash
_URL_SAFE = str.maketrans("-_", "+/")
_OWN_URL = re.compile(r"/v1/files/(?P<id>[0-9a-f]{32})/content")


async def from_url(service: Service, owner: str, url: str, name: str = "") -> StoredFile:
    """The document behind a URL of any kind. Raises ApiError."""
    if url[:5].lower() == "data:":
        suffix, data = await asyncio.to_thread(parse_data_url, url)
        return await service.store(owner, name or f"document{suffix}", data, INLINE)
    own = _OWN_URL.fullmatch(_path_of(url))
    if own is not None:
        return await service.find(owner, own["id"])
    found_name, data = await service.fetcher.fetch(url)
    return await service.store(owner, name or found_name, data, INLINE)


async def from_base64(service: Service, owner: str, text: str, name: str) -> StoredFile:
    """The document in base64. Raises ApiError."""
    data = await asyncio.to_thread(decode_base64, text)
    return await service.store(owner, name, data, INLINE)


@asynccontextmanager
async def read_once(service: Service, file: StoredFile) -> AsyncIterator[StoredFile]:
    """A document for as long as it is read; what was sent for this alone is forgotten then."""
    try:
        yield file
    finally:
        if file.purpose == INLINE:
            await asyncio.shield(service.forget(file))


def parse_data_url(url: str) -> tuple[str, bytes]:
    """(file suffix, bytes) of `data:TYPE;base64,DATA`. Raises ApiError."""
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise bad_request("the data URL has no comma, so it has no data")
    media_type = head.partition(";")[0].strip().lower()
    suffix = mimetypes.guess_extension(media_type) or ""
    if head.lower().endswith(";base64"):
        return suffix, decode_base64(unquote(data) if "%" in data else data)
    return suffix, unquote_to_bytes(data)


def decode_base64(text: str) -> bytes:
    """Of either alphabet, with or without padding and line breaks. Raises ApiError."""
    text = "".join(text.split()).rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable("the document is not valid base64") from error


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise bad_request("the URL is malformed") from error
