"""An OpenAI-compatible server as an Engine. Needs the openai client.

Sends pages losslessly as data URLs, lets the client back off on 429, 5xx and broken connections,
and asks through `extra_body` for what vLLM and this package understand. Knows nothing of files.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

from vllm_dsocr.config import EOS_TOKEN, IMAGE_TOKEN
from vllm_dsocr.engine import (
    Completion,
    EngineError,
    EngineLost,
    Finish,
    Request,
    guard_options,
)
from vllm_dsocr.render.figures import png_bytes

try:
    import openai
    from openai.types.chat import ChatCompletion
except ImportError as error:
    raise ImportError("talking to a server needs: pip install 'vllm-dsocr[client]'") from error

MAX_IN_FLIGHT = 16
MAX_RETRIES = 8  # the client's back-off then spans about 40 s
TIMEOUT_SECONDS = 600.0
# What no other page would get past either: no such model, no key, a wrong address.
_HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)


class ServerEngine:
    """Pages read by the server a client is connected to. Use `connect` to make one."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, max_in_flight: int) -> None:
        self.model = model
        self.max_in_flight = max_in_flight
        self.versions: dict[str, str] = {}
        self._client = client
        self._prompt_lengths: dict[str, int | None] = {}

    @classmethod
    async def connect(
        cls,
        url: str,
        model: str | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_retries: int = MAX_RETRIES,
        timeout: float = TIMEOUT_SECONDS,
    ) -> ServerEngine:
        """The server at `url`, which ends in /v1; the key is taken from OPENAI_API_KEY.

        model: None takes the first one the server lists.  Raises EngineLost when there is none.
        """
        client = openai.AsyncOpenAI(
            base_url=url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=max_retries,
            timeout=timeout,
        )
        return cls(client, model or await _first_model(client), max_in_flight)

    async def __aenter__(self) -> ServerEngine:
        """Nothing to load; what serves is asked for its version, which only vLLM has."""
        answer = await self._extension("GET", "version")
        if isinstance(answer.get("version"), str):
            self.versions["server"] = f"vLLM {answer['version']}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def complete(self, request: Request) -> Completion:
        """One chat completion. Raises EngineError or EngineLost."""
        url = await asyncio.to_thread(_image_url, request)
        try:
            answer = await self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": _content(url, request.prompt)}],
                temperature=request.temperature,
                seed=request.seed,
                max_tokens=request.max_tokens or openai.omit,
                extra_body=_extra_body(request),
            )
        except openai.OpenAIError as error:
            raise _translated(error) from error
        return await self._completion(answer, request.prompt)

    async def _completion(self, answer: ChatCompletion, prompt: str) -> Completion:
        if not answer.choices:
            raise EngineError("the server answered without a choice")
        choice, usage = answer.choices[0], answer.usage
        text, finish = choice.message.content or "", _finish(choice.finish_reason)
        if usage is None:
            return Completion(text, finish, num_text_tokens=0)
        num_vision_tokens = await self._num_vision_tokens(usage.prompt_tokens, prompt)
        return Completion(text, finish, usage.completion_tokens, num_vision_tokens)

    async def _num_vision_tokens(self, num_prompt_tokens: int, prompt: str) -> int | None:
        """What the prompt has beyond its text."""
        if prompt not in self._prompt_lengths:
            # Image tags without images are refused; another special token is as long.
            text = prompt.replace(IMAGE_TOKEN, EOS_TOKEN)
            answer = await self._extension(
                "POST", "tokenize", {"model": self.model, "prompt": text}
            )
            self._prompt_lengths[prompt] = answer.get("count")
        length = self._prompt_lengths[prompt]
        return None if length is None else num_prompt_tokens - (length - 1)

    async def _extension(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Asks what vLLM offers beside the OpenAI API; {} from a server that does not."""
        url = self._client.base_url.join(f"../{path}")
        client = self._client.with_options(max_retries=0)
        try:
            ask = client.post if method == "POST" else client.get
            answer = await ask(str(url), cast_to=object, **({"body": body} if body else {}))
        except openai.OpenAIError:
            return {}
        return answer if isinstance(answer, dict) else {}


async def _first_model(client: openai.AsyncOpenAI) -> str:
    try:
        async for model in client.models.list():
            return model.id
    except openai.OpenAIError as error:
        raise EngineLost(f"no answer from {client.base_url}: {error}") from error
    raise EngineLost(f"{client.base_url} lists no model")


def _image_url(request: Request) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_bytes(request.image)).decode()}"


def _content(url: str, prompt: str) -> list[dict[str, Any]]:
    """The server puts the image tag, and a line break, where the image stands."""
    text = prompt.removeprefix(IMAGE_TOKEN).lstrip("\n")
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def _extra_body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"skip_special_tokens": False}  # tags and table cells are special tokens
    if request.mode is not None:
        body["mm_processor_kwargs"] = {"mode": request.mode}
    if request.guard is not None:
        body["vllm_xargs"] = guard_options(request.guard)
    return body


def _finish(reason: str | None) -> Finish:
    if reason in ("error", "content_filter"):
        return "abort"
    return reason if reason in ("length", "repetition", "abort") else "stop"


def _translated(error: openai.OpenAIError) -> EngineError | EngineLost:
    if isinstance(error, openai.APITimeoutError):
        return EngineError("the server did not answer in time")
    sentence = " ".join(_message(error).split())
    if isinstance(error, (openai.APIConnectionError, *_HOPELESS)):
        return EngineLost(f"the server cannot be used: {sentence}")
    return EngineError(sentence)


def _message(error: openai.OpenAIError) -> str:
    """The server's own words where it has some."""
    body = getattr(error, "body", None)
    words = body.get("message") if isinstance(body, dict) else None
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
    return str(words or cause or error)
