"""OpenAI's API of the servers behind a gateway: every request goes to the least loaded of them.

Those that name an adapter go to servers that have it.
Bodies and answers are passed on as they are, errors of this process have OpenAI's form. A client
that hangs up ends the request at the server too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from vllm_dsocr import tracing
from vllm_dsocr.engine import EngineError, EngineLost
from vllm_dsocr.fleet.chat_cost import chat_facts
from vllm_dsocr.fleet.forwarding import Answer, Forwarder, OutOfTime, Question
from vllm_dsocr.server.errors import ApiError, engine_gone, out_of_time
from vllm_dsocr.server.routes import OcrRoute, until_disconnect

_PASSED_ON = ("content-type", "accept", "x-request-id", "traceparent", "tracestate")


class ChatRoute(OcrRoute):
    """A route whose errors look like OpenAI's."""

    @staticmethod
    def error_body(sentence: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": sentence, "type": kind, "param": None, "code": status}
        return {"error": error, **body}


router = APIRouter(tags=["chat"], route_class=ChatRoute)


@router.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """A chat completion, streamed or not; images of it are what it costs."""
    body = await request.body()
    return await _pass_on(request, "chat/completions", body)


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """A completion of a text."""
    return await _pass_on(request, "completions", await request.body())


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """What one of the servers lists; all serve the same."""
    return await _pass_on(request, "models", await request.body())


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """vLLM's: the tokens of a text."""
    return await _pass_on(request, "../tokenize", await request.body())


async def _pass_on(request: Request, path: str, body: bytes) -> Response:
    forwarder: Forwarder = request.app.state.dsocr_forwarder
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers |= tracing.headers()  # where this process traces, the server's spans are below its own
    facts = await asyncio.to_thread(chat_facts, body)
    question = Question(request.method, path, body, headers)
    try:
        answer = await until_disconnect(request, forwarder.send(question, *facts))
    except EngineLost as error:
        raise engine_gone() from error
    except OutOfTime as error:
        raise out_of_time(str(error)) from error
    except EngineError as error:
        raise ApiError(502, str(error)) from error
    if answer.chunks is None:
        return Response(answer.body, answer.status, dict(answer.headers))
    return _Stream(answer)


class _Stream(StreamingResponse):
    """Leaves its source when it is left, even before a word of it was sent."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(_all(answer), answer.status, dict(answer.headers))
        self._answer = answer

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            if self._answer.close is not None:
                await self._answer.close()


async def _all(answer: Answer) -> AsyncIterator[bytes]:
    yield answer.body
    if answer.chunks is not None:
        async for chunk in answer.chunks:
            yield chunk
