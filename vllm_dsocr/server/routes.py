"""What holds for every route of ours, in whichever application it is mounted.

The client is known, the body is bounded, a refusal is one sentence with a request id, an accident
is a 500 that says nothing of this machine, and who hangs up stops what was done for him.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from vllm_dsocr import tracing
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.server.auth import owner_of
from vllm_dsocr.server.errors import (
    ApiError,
    bad_request,
    busy,
    disk_full,
    engine_gone,
    is_disk_full,
    too_large,
)
from vllm_dsocr.server.logs import about
from vllm_dsocr.server.service import Service
from vllm_dsocr.server.work.jobs import Jobs

logger = logging.getLogger(__name__)
access = logging.getLogger("vllm_dsocr.access")  # heard where lines are JSON
Handle = Callable[[Request], Coroutine[Any, Any, Response]]
T = TypeVar("T")

_CLIENT_CLOSED_REQUEST = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BODY_SLACK = 1 << 20  # what surrounds a file in a body


def service_of(request: Request) -> Service:
    """The application's service. Raises ApiError 503 where no model of ours is served."""
    service: Service | None = getattr(request.app.state, "dsocr_service", None)
    if service is None:
        raise engine_gone()
    return service


def jobs_of(request: Request) -> Jobs:
    """The application's jobs."""
    jobs: Jobs = request.app.state.dsocr_jobs
    return jobs


class OcrRoute(APIRoute):
    """A route of this service."""

    @staticmethod
    def error_body(sentence: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
        """The body of an error, which a protocol may add to."""
        return body

    def get_route_handler(self) -> Handle:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            request_id = _request_id(request)
            name, started = f"{request.method} {self.path_format}", time.monotonic()
            with (
                about(request_id=request_id),
                tracing.span(name, request.headers, request_id=request_id),
            ):
                answer = await self._answer(handle, request, request_id)
                answer.headers["X-Request-Id"] = request_id
                _count(request, self.path_format, answer.status_code)
                seconds = round(time.monotonic() - started, 3)
                facts = {"status": answer.status_code, "seconds": seconds}
                access.info("%s: %d", name, answer.status_code, extra={"facts": facts})
            return answer

        return handler

    async def _answer(self, handle: Handle, request: Request, request_id: str) -> Response:
        body = _Body(request.receive)
        try:
            service = service_of(request)
            request.scope["dsocr_owner"] = owner_of(request, service.settings.api_keys)
            limit = body_limit(service.settings.max_file_bytes)
            _check_length(request, limit)
            receive = body.bounded(service, limit)
            return await handle(Request(request.scope, receive))
        except Exception as error:
            return error_response(error, request_id, self.error_body)
        finally:
            body.release()


def _count(request: Request, route: str, status: int) -> None:
    service: Service | None = getattr(request.app.state, "dsocr_service", None)
    if service is not None:
        service.metrics.requests.labels(route, str(status)).inc()


def body_limit(max_file_bytes: int) -> int:
    """A body may be a file in base64 and what stands around it."""
    return max_file_bytes * 4 // 3 + _BODY_SLACK


def error_response(
    error: Exception,
    request_id: str,
    shaped: Callable[[str, int, dict[str, Any]], dict[str, Any]] = lambda _, __, body: body,
) -> Response:
    """The answer to a request that went wrong. shaped: gives the body a protocol's form."""
    known = _as_api_error(error)
    if known is None:
        logger.exception("request %s failed", request_id, exc_info=error)
        known = ApiError(500, "the server made a mistake; its log says more")
    known.sentence = printable(known.sentence)
    detail: Any = known.sentence
    if isinstance(error, RequestValidationError):
        detail = [_validation(item) for item in error.errors()]
    elif known.status == 422:
        detail = [
            {
                "loc": ["body", *filter(None, [known.where])],
                "msg": known.sentence,
                "type": "value_error",
            }
        ]
    body = {"detail": detail, "message": known.sentence, "request_id": request_id}
    body = shaped(known.sentence, known.status, body)
    return JSONResponse(body, known.status, headers=known.headers)


def _as_api_error(error: BaseException) -> ApiError | None:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException) and error.__cause__ is not None:
        # FastAPI says 400 for whatever ended the reading of a body; the cause may know better.
        cause = error.__cause__
        if isinstance(cause, ApiError) or is_disk_full(cause):
            return _as_api_error(cause)
    if isinstance(error, RequestValidationError):
        first = _validation(error.errors()[0])
        place = ".".join(str(part) for part in first["loc"])
        return ApiError(422, f"{place}: {first['msg']}")
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), error.headers)
    if isinstance(error, PromptError):
        return bad_request(str(error))
    return disk_full() if is_disk_full(error) else None


def _validation(item: dict[str, Any]) -> dict[str, Any]:
    """Without the input, which may be a whole file."""
    loc = [printable(part) if isinstance(part, str) else part for part in item["loc"]]
    return {"loc": loc, "msg": printable(item["msg"]), "type": item["type"]}


def printable(text: str) -> str:
    """What clients sent and get back: JSON may hold halves of characters, an answer may not."""
    return text.encode("utf-8", "replace").decode()[:300]


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _check_length(request: Request, limit: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdecimal() and int(length) > limit:
        raise too_large(f"the request is larger than {limit:,} bytes")


class _Body:
    """A request's body as it comes in, bounded for itself and together with all others."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0
        self._service: Service | None = None

    def bounded(self, service: Service, limit: int) -> Receive:
        self._service = service
        most = service.settings.max_incoming_bytes

        async def receive() -> Message:
            message = await self._receive()
            size = len(message.get("body", b""))
            self._size += size
            service.incoming_bytes += size
            if self._size > limit:
                raise too_large(f"the request is larger than {limit:,} bytes")
            others = service.incoming_bytes - self._size
            if others and others + self._size > most:  # one alone always gets in
                raise busy()
            return message

        return receive

    def release(self) -> None:
        if self._service is not None:
            self._service.incoming_bytes -= self._size
        self._size = 0


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """What the work comes to; it is cancelled when the client hangs up. The body must be read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(_CLIENT_CLOSED_REQUEST, "the client has hung up")
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
