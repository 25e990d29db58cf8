"""A request of the OpenAI API as it came -> the answer of the least loaded server as it comes.

As long as nothing has been passed on, a server that goes away or answers 5xx is replaced by
another; after that a stream ends with an error event. Knows of a body what it costs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx

from vllm_dsocr.engine import EngineError, EngineFault, EngineLost
from vllm_dsocr.fleet.replicas import ANSWER_SECONDS, Replica, Replicas
from vllm_dsocr.server_engine import api_key, api_url

# Servers close idle connections, vLLM's after 5 s: one must not be taken up in that very moment.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=2.0)
EVENTS = "text/event-stream"
_PASSED_ON = ("content-type", "retry-after")
_ERROR_EVENT = b'data: {"error"'


@dataclass(frozen=True, slots=True)
class Question:
    """path: below the API's root, such as `chat/completions`."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """chunks: what follows `body`, of an answer that is streamed; `close` ends it at the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    chunks: AsyncIterator[bytes] | None = None
    close: Callable[[], Awaitable[None]] | None = None


class FaultyAnswer(EngineFault):
    """A server's own fault in its own words."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the server answers {answer.status}")
        self.answer = answer


class OutOfTime(EngineError):
    """The server has not begun to answer in time; another would take as long."""


class Forwarder:
    """Puts questions to replicas, which are named by their URLs. Enter it first."""

    def __init__(self, replicas: Replicas, seconds: float) -> None:
        """seconds: longest that a server may be silent."""
        self._replicas = replicas
        self._seconds = seconds
        self._key = api_key()

    async def __aenter__(self) -> Forwarder:
        timeout = httpx.Timeout(self._seconds, connect=ANSWER_SECONDS)
        self._client = httpx.AsyncClient(timeout=timeout, limits=LIMITS)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def send(
        self, question: Question, num_tokens: int = 0, model: str | None = None
    ) -> Answer:
        """The answer, read to its end unless it is a stream, of which the first event is there.

        num_tokens: of vision.  model: where that is an adapter, servers that have it are asked.
        Raises EngineLost when no server is left, OutOfTime, EngineFault.
        """

        async def put(replica: Replica) -> Answer:
            return await self._put(replica, question)

        try:
            return await self._replicas.ask(num_tokens, put, model)
        except FaultyAnswer as fault:
            return fault.answer

    async def _put(self, replica: Replica, question: Question) -> Answer:
        try:
            response = await self._client.send(self._request(replica, question), stream=True)
            try:
                return await self._answer(replica, response)
            except BaseException:
                await response.aclose()
                raise
        except httpx.ConnectError as error:
            raise EngineLost(f"nobody listens: {error}") from error
        except httpx.ReadTimeout as error:
            raise OutOfTime(f"the server was silent for {self._seconds:g} s") from error
        except httpx.TransportError as error:
            await replica.look()
            raise EngineFault(f"the connection broke: {error}") from error

    def _request(self, replica: Replica, question: Question) -> httpx.Request:
        return self._client.build_request(
            question.method,
            f"{api_url(replica.name)}/{question.path}",
            content=question.body,
            headers={
                **question.headers,
                "authorization": f"Bearer {self._key}",
                "accept-encoding": "identity",
            },
        )

    async def _answer(self, replica: Replica, response: httpx.Response) -> Answer:
        headers = {n: response.headers[n] for n in _PASSED_ON if n in response.headers}
        if response.headers.get("content-type", "").startswith(EVENTS):
            chunks = response.aiter_raw()
            first = await anext(chunks, b"")
            if _is_fault(first):
                raise EngineFault("the server's engine failed before it wrote a word")
            rest = self._rest(replica, response, chunks)
            return Answer(response.status_code, headers, first, rest, response.aclose)
        answer = Answer(response.status_code, headers, await response.aread())
        if answer.status >= 500 or answer.status == 429:
            raise FaultyAnswer(answer)
        return answer

    async def _rest(
        self, replica: Replica, response: httpx.Response, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Its page has been encoded, so that it is no load any more."""
        try:
            with replica.carrying(0):
                async with replica.unless_gone():
                    async for chunk in chunks:
                        yield chunk
        except (httpx.HTTPError, EngineLost) as error:
            yield error_event(f"the server went away in the middle of its answer: {error}")
        finally:
            await response.aclose()


def error_event(sentence: str) -> bytes:
    """The end of a stream that ended too soon, as clients of OpenAI's API understand it."""
    error = {"message": sentence, "type": "InternalServerError", "param": None, "code": 500}
    return f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()


def _is_fault(event: bytes) -> bool:
    """Whether a stream begins with an error that is not the request's."""
    if not event.startswith(_ERROR_EVENT):
        return False
    try:
        code = json.loads(event.removeprefix(b"data:").partition(b"\n")[0])["error"].get("code")
    except (ValueError, AttributeError):
        return True
    return not (isinstance(code, int) and 400 <= code < 500)
