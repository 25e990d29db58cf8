"""Requests to every route of the service, good ones with something changed: no 5xx, no path."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from tests.fake_engine import FakeEngine
from tests.fuzz.files import damaged, whole
from tests.fuzz.values import STRINGS, changed, text
from tests.page.pdfs import page_image
from tests.service.conftest import serve
from vllm_dsocr.server.app import create_app
from vllm_dsocr.server.settings import Settings


def _page_url() -> str:
    buffer = io.BytesIO()
    page_image(1, (32, 32)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


PAGE = _page_url()
DOCUMENT = {"type": "image_url", "image_url": PAGE}
BODIES: dict[str, Any] = {
    "/v1/ocr": {"model": "fake", "document": DOCUMENT, "pages": [0], "include_image_base64": True},
    "/v1/ocr/jobs": {"document": DOCUMENT, "task": "free", "mode": "tiny"},
    "/v1/convert/source": {
        "sources": [{"kind": "file", "base64_string": PAGE.split(",")[1], "filename": "a.png"}],
        "options": {"to_formats": ["md", "json"], "page_range": [1, 2]},
    },
    "/v1/batches": {"input_file_id": "x", "endpoint": "/v1/ocr", "model": "fake"},
}
PATHS = (
    "/v1/files/{}", "/v1/files/{}/content", "/v1/files/{}/url", "/v1/ocr/jobs/{}", "/v1/result/{}",
    "/v1/status/poll/{}?wait=0", "/v1/batches/{}", "/{}",
)  # fmt: skip


@contextmanager
def requests() -> Iterator[Callable[[Random], None]]:
    """One service on a free port."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder) / "data", draw_processes=1)
        app = create_app(FakeEngine(), settings, CollectorRegistry())
        with serve(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            yield lambda rng: check(rng, client, Path(folder))


def check(rng: Random, client: httpx.Client, folder: Path) -> None:
    sent = rng.choice([_json, _upload, _process, _visit])(rng, client, folder)
    if sent is None:
        return
    assert sent.status_code < 500, (str(sent.request.url), sent.status_code, sent.text[:500])
    if sent.status_code >= 400:
        assert str(folder) not in sent.text and "Traceback" not in sent.text, sent.text[:500]


def _json(rng: Random, client: httpx.Client, folder: Path) -> httpx.Response:
    path = rng.choice(list(BODIES))
    body = json.dumps(changed(rng, BODIES[path])).encode()
    if rng.random() < 0.1:
        body = damaged(rng, body)
    return client.post(path, content=body, headers={"content-type": "application/json"})


def _upload(rng: Random, client: httpx.Client, folder: Path) -> httpx.Response:
    path = rng.choice(["/v1/files", "/v1/convert/file", "/v1/convert/file/async"])
    name = rng.choice([text(rng), rng.choice(STRINGS), "a.pdf"])
    field = rng.choice(["file", "files", "files"])
    data = {
        rng.choice(["purpose", "to_formats", "page_range"]): rng.choice([*STRINGS, "ocr", "md"])
    }
    name = name.encode("utf-8", "replace").decode()
    return client.post(path, files={field: (name, damaged(rng, whole(rng, folder)))}, data=data)


def _process(rng: Random, client: httpx.Client, folder: Path) -> httpx.Response:
    kind = rng.choice(["application/pdf", "image/png", "text/html", "", "x" * 300])
    headers = {"content-type": kind, "x-filename": rng.choice(["a.pdf", "..%2f..%2fa", "%00"])}
    return client.put("/process", content=damaged(rng, whole(rng, folder)), headers=headers)


def _visit(rng: Random, client: httpx.Client, folder: Path) -> httpx.Response | None:
    path = rng.choice(PATHS).format(rng.choice([*STRINGS, text(rng)]))
    try:
        return client.request(rng.choice(["GET", "DELETE", "POST", "PUT", "PATCH"]), path)
    except (httpx.InvalidURL, UnicodeError):  # what no client sends
        return None
