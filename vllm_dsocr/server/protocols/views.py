"""What the web page shows of a job: pages as they are done, their pictures, every format.

The document is the one the job read; pages are found under their keys as soon as they are there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.record import page_from_record
from vllm_dsocr.page.source import PageError
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.render.colors import label_color
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.formats import FORMATS
from vllm_dsocr.render.html.pages import data_url, page_text
from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.errors import not_found, unreadable
from vllm_dsocr.server.protocols import mistral
from vllm_dsocr.server.routes import OcrRoute, jobs_of, service_of
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.storage.tables import StoredFile
from vllm_dsocr.server.work.reading import file_key

router = APIRouter(prefix="/v1/ocr/jobs/{job_id}", tags=["jobs"], route_class=OcrRoute)
Owner = Annotated[str, Depends(owner)]

MAX_PAGES_AT_ONCE = 50
PICTURE_WIDTH = 1000  # px at most
# Formats that need nothing but the read pages.
DOWNLOADS = tuple(
    name for name in ("md", "html", "txt", "json", "jsonl", "chunks", "docling") if name in FORMATS
)


@dataclass(frozen=True, slots=True)
class View:
    """A job's document and how it is read."""

    service: Service
    file: StoredFile
    settings: ReadSettings

    def page(self, number: int) -> Page | None:
        """The page, once it was read."""
        record = self.service.database.page(self.settings.page_key(self.file.sha256, number))
        return None if record is None else page_from_record(record)

    def html(self, page: Page) -> str:
        """The page's text, nothing in it active."""
        figure = self.service.figure_reader(self.file, self.settings)
        return "".join(
            page_text(page, lambda item: data_url(figure(item), "image/png"), label_color)
        )


async def view_of(request: Request, owner: str, job_id: str) -> View:
    """The client's own job. Raises ApiError."""
    service = service_of(request)
    job = await jobs_of(request).find(owner, job_id, mistral.JOB_KIND)
    body = mistral.OcrRequest.model_validate(job.body)
    file = await mistral.stored_document(service, owner, body)
    return View(service, file, body.read_settings(service))


@router.get("/pages")
async def pages(
    request: Request,
    owner: Owner,
    job_id: str,
    numbers: Annotated[list[int], Query(min_length=1, max_length=MAX_PAGES_AT_ONCE)],
) -> dict[str, Any]:
    """Those of the pages (from 1) that were read, as HTML and with their boxes."""
    view = await view_of(request, owner, job_id)
    return {"object": "list", "data": await asyncio.to_thread(_pages, view, numbers)}


def _pages(view: View, numbers: Sequence[int]) -> list[dict[str, Any]]:
    found = (view.page(number) for number in numbers)
    return [
        {
            "number": page.number,
            "status": page.status,
            "width": page.width,
            "height": page.height,
            "html": view.html(page),
            "boxes": [
                {
                    "block": f"{page.number}-{index}",
                    "label": block.label,
                    "color": label_color(block.label or ""),
                    "box": box.corners,
                }
                for index, block in enumerate(page.blocks)
                for box in block.boxes
            ],
        }
        for page in found
        if page is not None
    ]


@router.get("/pages/{number}/image")
async def picture(request: Request, owner: Owner, job_id: str, number: int) -> Response:
    """The page's picture, small enough for a screen."""
    view = await view_of(request, owner, job_id)
    try:
        data = await view.service.reading.picture(
            file_key(view.file.sha256), number, view.settings.dpi, PICTURE_WIDTH
        )
    except PageError as error:
        raise unreadable(str(error)) from error
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/download/{name}")
async def download(request: Request, owner: Owner, job_id: str, name: str) -> Response:
    """The whole document in a format, once the job has ended well."""
    if name not in DOWNLOADS:
        raise not_found("format")
    view = await view_of(request, owner, job_id)
    jobs = jobs_of(request)
    answer = await jobs.result(await jobs.find(owner, job_id, mistral.JOB_KIND))
    numbers = [page["index"] + 1 for page in answer["pages"]]
    data = await asyncio.to_thread(_render, view, name, numbers)
    headers = {
        "Content-Disposition": f'attachment; filename="{FORMATS[name].file}"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, media_type=FORMATS[name].media_type, headers=headers)


def _render(view: View, name: str, numbers: Sequence[int]) -> bytes:
    pages = [view.page(n) or Page(n, "failed", reason="it could not be read") for n in numbers]
    figure = view.service.figure_reader(view.file, view.settings)
    document = FinishedDocument(
        title=view.file.name,
        pages=lambda: pages,
        figure=figure,
        about={"source": {"name": view.file.name, "sha256": view.file.sha256}},
        link=lambda item: data_url(figure(item), "image/png"),
    )
    return FORMATS[name].data(document)
