"""The web page: static files and nothing else; it talks to the same API as everybody."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from vllm_dsocr.config import MODES
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.server.errors import not_found
from vllm_dsocr.server.protocols.views import DOWNLOADS
from vllm_dsocr.server.routes import service_of

router = APIRouter(tags=["web page"], include_in_schema=False)

_TYPES = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def index() -> Response:
    return _file("index.html")


@router.get("/web/{name}")
async def asset(name: str) -> Response:
    if name not in _TYPES:
        return Response(str(not_found("file")), 404, media_type="text/plain")
    return _file(name)


@router.get("/web/settings/about.json")
async def about(request: Request) -> Response:
    """What the page offers, and whether a key is needed."""
    service = service_of(request)
    values = {
        "modes": list(MODES),
        "tasks": [task for task in TASKS if task != "locate"],
        "formats": list(DOWNLOADS),
        "needs_key": bool(service.settings.api_keys),
        "max_file_bytes": service.settings.max_file_bytes,
        "model": service.model,
    }
    return Response(json.dumps(values), media_type="application/json", headers=_HEADERS)


def _file(name: str) -> Response:
    return Response(_read(name), media_type=_TYPES[name], headers=_HEADERS)


@lru_cache
def _read(name: str) -> bytes:
    return files("vllm_dsocr.server").joinpath("web", name).read_bytes()
