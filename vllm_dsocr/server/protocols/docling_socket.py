"""docling-serve's WebSocket: a task's status when it is opened, at every change, until the end."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from vllm_dsocr.server.auth import owner_of
from vllm_dsocr.server.errors import ApiError
from vllm_dsocr.server.protocols.docling import JOB_KIND, task_status
from vllm_dsocr.server.storage.database import ENDED
from vllm_dsocr.server.work.jobs import Jobs

router = APIRouter()
_UPDATE_SECONDS = 5.0  # at the latest an update comes after that, changed or not
_POLICY_VIOLATION = 1008


@router.websocket("/v1/status/ws/{task_id}")
async def status_socket(socket: WebSocket, task_id: str) -> None:
    """Messages are {"message": "connection" | "update" | "error", "task": ..., "error": ...}."""
    jobs: Jobs = socket.app.state.dsocr_jobs
    try:
        owner = owner_of(socket, socket.app.state.dsocr_service.settings.api_keys)
    except ApiError:
        await socket.close(_POLICY_VIOLATION)
        return
    await socket.accept()
    try:
        await _follow(socket, jobs, owner, task_id)
        await socket.close()
    except ApiError as error:
        await socket.send_json({"message": "error", "task": None, "error": error.sentence})
        await socket.close()
    except WebSocketDisconnect:
        return


async def _follow(socket: WebSocket, jobs: Jobs, owner: str, task_id: str) -> None:
    job = await jobs.find(owner, task_id, JOB_KIND)
    await _send(socket, "connection", await task_status(jobs, job))
    while True:
        await _send(socket, "update", await task_status(jobs, job))
        if job.state in ENDED:
            return
        job = await jobs.next_change(job, _UPDATE_SECONDS)


async def _send(socket: WebSocket, message: str, task: dict[str, Any]) -> None:
    await socket.send_json({"message": message, "task": task, "error": None})
