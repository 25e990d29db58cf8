"""Open WebUI's external document loader: `PUT /process`, raw bytes in, one text a page out."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Query, Request

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.protocols import intake
from vllm_dsocr.server.protocols.mistral_answer import AnswerOptions, page_answer
from vllm_dsocr.server.routes import OcrRoute, service_of, until_disconnect
from vllm_dsocr.server.work.reading import ReadDocument

router = APIRouter(tags=["loader"], route_class=OcrRoute)


@router.put("/process")
async def process(
    request: Request,
    owner: Annotated[str, Depends(owner)],
    model: Annotated[str | None, Query(max_length=512)] = None,
) -> list[dict[str, Any]]:
    """Reads the body; its name is in `X-Filename`, its type in `Content-Type`."""
    service = service_of(request)
    await service.check_model(model)
    data = await request.body()
    name = unquote(request.headers.get("x-filename", "")) or _name(request)
    async with service.place():
        named = await service.store(owner, name, data, intake.INLINE)
        async with intake.read_once(service, named) as file:
            settings = service.read_settings(model=model)
            document = await until_disconnect(request, service.read(file, settings))
    name = settings.adapter or service.model
    return [_page(page, document, name) for page in document.pages]


def _page(page: Page, document: ReadDocument, model: str) -> dict[str, Any]:
    return {
        "page_content": page_answer(page, AnswerOptions(), document.figure, 0)["markdown"],
        "metadata": {
            "source": document.stored.name,
            "page": page.number - 1,
            "page_label": str(page.number),
            "total_pages": len(document.pages),
            "status": page.status,
            "model": model,
            **({"reason": page.reason} if page.reason else {}),
        },
    }


def _name(request: Request) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0]
    return f"document{mimetypes.guess_extension(media_type) or ''}"
