"""Who asks: an API key as Bearer token, X-Api-Key header or, for WebSockets, query parameter.

Without keys everybody is let in, whatever they send, and all are one owner.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from fastapi import Request
from fastapi.requests import HTTPConnection
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_dsocr.server.errors import ApiError


def owner_of(connection: HTTPConnection, api_keys: Sequence[str]) -> str:
    """The owner of what this client stores. Raises ApiError 401."""
    if not api_keys:
        return ""
    given = _given(connection).encode()
    for key in api_keys:
        if secrets.compare_digest(given, key.encode()):
            return hashlib.sha256(key.encode()).hexdigest()
    raise ApiError(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})


def owner(request: Request) -> str:
    """FastAPI dependency: the owner, which `Authenticated` middleware has found out."""
    return str(request.scope.get("dsocr_owner", ""))


def _given(connection: HTTPConnection) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return connection.headers.get("x-api-key") or connection.query_params.get("api_key", "")


class ApiKeyHeader:
    """Middleware: docling's header `X-Api-Key`, and `?api_key=` of WebSockets, as Bearer tokens.

    For servers whose own check looks for those only: `vllm serve --middleware` names this class.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = dict(scope["headers"])
            key = headers.get(b"x-api-key") or _query_key(scope)
            if key and b"authorization" not in headers:
                bearer = (b"authorization", b"Bearer " + key)
                scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self._app(scope, receive, send)


def _query_key(scope: Scope) -> bytes:
    if scope["type"] != "websocket":
        return b""
    return QueryParams(scope["query_string"]).get("api_key", "").encode("latin-1", "ignore")
