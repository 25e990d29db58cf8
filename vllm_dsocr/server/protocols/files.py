"""Files as products upload them before they ask for OCR: `/v1/files`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile

from vllm_dsocr.server.auth import owner
from vllm_dsocr.server.routes import OcrRoute, service_of
from vllm_dsocr.server.service import clean_name
from vllm_dsocr.server.storage.tables import StoredFile
from vllm_dsocr.server.work.reading import file_key

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OcrRoute)
Owner = Annotated[str, Depends(owner)]


def file_object(file: StoredFile) -> dict[str, Any]:
    """A file as Mistral's and OpenAI's clients read it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "size_bytes": file.size,
        "created_at": int(file.created),
        "filename": file.name,
        "purpose": file.purpose,
        "sample_type": "ocr_input",
        "source": "upload",
        "deleted": False,
    }


@router.post("")
async def upload(
    request: Request,
    owner: Owner,
    file: UploadFile,
    purpose: Annotated[str, Form(max_length=64)] = "ocr",
) -> dict[str, Any]:
    """Keeps a file for later requests."""
    data = await file.read()
    stored = await service_of(request).store(owner, file.filename or "", data, clean_name(purpose))
    return file_object(stored)


@router.get("")
async def list_files(
    request: Request,
    owner: Owner,
    page: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The client's files, newest first."""
    database = service_of(request).database
    files = await asyncio.to_thread(database.files, owner, page_size, page * page_size)
    total = await asyncio.to_thread(database.num_files, owner)
    return {"object": "list", "data": [file_object(file) for file in files], "total": total}


@router.get("/{file_id}")
async def retrieve(request: Request, owner: Owner, file_id: str) -> dict[str, Any]:
    return file_object(await service_of(request).find(owner, file_id))


@router.get("/{file_id}/url")
async def signed_url(request: Request, owner: Owner, file_id: str, expiry: int = 24) -> Any:
    """A URL that `/v1/ocr` takes; reading it by other means needs the key as well."""
    file = await service_of(request).find(owner, file_id)
    return {"url": str(request.url_for("file_content", file_id=file.id))}


@router.get("/{file_id}/content", name="file_content")
async def content(request: Request, owner: Owner, file_id: str) -> Response:
    """The bytes as they were sent, never to be opened as a page of this server."""
    service = service_of(request)
    file = await service.find(owner, file_id)
    data = await asyncio.to_thread(service.blobs.read, file_key(file.sha256))
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}")
async def delete(request: Request, owner: Owner, file_id: str) -> dict[str, Any]:
    service = service_of(request)
    file = await service.find(owner, file_id)
    await service.forget(file)
    return {"id": file.id, "object": "file", "deleted": True}
