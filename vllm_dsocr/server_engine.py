"""An OpenAI-compatible server as an Engine. Needs the openai client.

Sends pages losslessly as data URLs, lets the client back off on 429, 5xx and broken connections,
and asks through `extra_body` for what vLLM and this package understand. What a server answers is
taken apart here and nowhere else: anything may come back. Knows nothing of files.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_dsocr import tracing
from vllm_dsocr.config import EOS_TOKEN, IMAGE_TOKEN
from vllm_dsocr.engine import (
    Completion,
    EngineError,
    EngineFault,
    EngineLost,
    Finish,
    NoAdapter,
    Request,
    Token,
    guard_options,
)
from vllm_dsocr.render.figures import png_bytes

try:
    import openai
except ImportError as error:
    raise ImportError("talking to a server needs: pip install 'vllm-dsocr[client]'") from error

MAX_IN_FLIGHT = 16
_logger = logging.getLogger(__name__)
MAX_RETRIES = 8  # the client's back-off then spans about 40 s
TIMEOUT_SECONDS = 600.0
_PROBE_SECONDS = 10.0
# What no other page would get past either: no such model, no key, a wrong address.
_HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError)


def api_url(url: str) -> str:
    """The address of the API at a server: what a person typed, with the scheme and /v1 it has."""
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    url = url.removesuffix("/chat/completions").removesuffix("/models")
    return url if url.count("/") > 2 else f"{url}/v1"


def api_key() -> str:
    """What opens the servers."""
    return os.environ.get("OPENAI_API_KEY", "none")


class ServerEngine:
    """Pages read by the server a client is connected to. Use `connect` to make one.

    names: what else the server calls the model.  adapters: those of it that the server has, each
    with where the server took it from. Both as of the last `list_models`.
    """

    def __init__(self, client: openai.AsyncOpenAI, model: str, max_in_flight: int) -> None:
        self.model = model
        self.names: Sequence[str] = ()
        self.adapters: Mapping[str, str] = {}
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
        """The server at `url`; the key is taken from OPENAI_API_KEY.

        model: None takes the first one the server lists.  Raises EngineLost when there is none.
        """
        client = openai.AsyncOpenAI(
            base_url=api_url(url),
            api_key=api_key(),
            max_retries=max_retries,
            timeout=timeout,
        )
        return cls(client, model or await _first_model(client), max_in_flight)

    async def __aenter__(self) -> ServerEngine:
        """Nothing to load; what serves is asked for its version, which only vLLM has."""
        answer = await self._ask("GET", "../version")
        if isinstance(answer.get("version"), str):
            self.versions["server"] = f"{answer.get('name', 'vLLM')} {answer['version']}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def list_models(self) -> None:
        """Looks up names and adapters, which come and go. What does not answer has what it had."""
        cards = _cards(await self._ask("GET", "models"))
        if cards:
            self.names, self.adapters = _names(cards, self.model), _adapters(cards, self.model)

    async def complete(self, request: Request) -> Completion:
        """One chat completion. Raises EngineError or EngineLost."""
        body = await asyncio.to_thread(_body, request, self.model)
        try:
            options: Any = {"headers": tracing.headers()}
            answer = await self._client.post(
                "/chat/completions", cast_to=object, body=body, options=options
            )
        except openai.APITimeoutError as error:
            raise EngineError("the server did not answer in time") from error
        except openai.APIConnectionError as error:
            await self._check_alive(error)
            raise EngineFault(f"the connection broke: {_sentence(error)}") from error
        except openai.NotFoundError as error:
            if request.adapter is None:
                raise EngineLost(f"the server cannot be used: {_sentence(error)}") from error
            raise NoAdapter(_sentence(error)) from error
        except _HOPELESS as error:
            raise EngineLost(f"the server cannot be used: {_sentence(error)}") from error
        except openai.InternalServerError as error:  # any 5xx
            raise EngineFault(_sentence(error)) from error
        except openai.OpenAIError as error:
            raise EngineError(_sentence(error)) from error
        except (ValueError, RecursionError) as error:  # no JSON, or half of it
            raise EngineError("the server's answer is no JSON") from error
        return await self._completion(answer, request.prompt)

    async def _check_alive(self, error: openai.APIConnectionError) -> None:
        """Raises EngineLost when nobody listens any more; one broken connection is not that."""
        client = self._client.with_options(max_retries=0, timeout=_PROBE_SECONDS)
        try:
            await client.get("/models", cast_to=object)
        except openai.APIConnectionError:
            raise EngineLost(f"the server cannot be used: {_sentence(error)}") from error
        except (openai.OpenAIError, ValueError):
            return

    async def _completion(self, answer: object, prompt: str) -> Completion:
        """The completion in an answer. Raises EngineError for what is none."""
        choice = _choice(answer)
        text, finish = _text(choice["message"].get("content")), _finish(choice.get("finish_reason"))
        usage = answer.get("usage") if isinstance(answer, Mapping) else None
        usage = usage if isinstance(usage, Mapping) else {}
        num_prompt, num_text = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        num_vision = None if num_prompt is None else await self._num_vision(num_prompt, prompt)
        tokens = _tokens(choice.get("logprobs"))
        return Completion(text, finish, num_text or 0, num_vision, tokens)

    async def _num_vision(self, num_prompt_tokens: int, prompt: str) -> int | None:
        """What the prompt has beyond its text."""
        if prompt not in self._prompt_lengths:
            # Image tags without images are refused; another special token is as long.
            text = prompt.replace(IMAGE_TOKEN, EOS_TOKEN)
            answer = await self._ask("POST", "../tokenize", {"model": self.model, "prompt": text})
            self._prompt_lengths[prompt] = _count(answer, "count")
        length = self._prompt_lengths[prompt]
        return None if length is None else num_prompt_tokens - (length - 1)

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """Asks once what not every server has (`../` is beside the OpenAI API); {} from others."""
        url = self._client.base_url.join(path)
        client = self._client.with_options(max_retries=0, timeout=_PROBE_SECONDS)
        try:
            ask: Any = client.post if method == "POST" else client.get
            answer = await ask(str(url), cast_to=object, **({"body": body} if body else {}))
        except (openai.OpenAIError, ValueError):
            return {}
        return answer if isinstance(answer, Mapping) else {}


async def _models(client: openai.AsyncOpenAI) -> object:
    """What the server lists. A server may be about to start: that it is waited for is said."""
    if client.max_retries:
        try:
            return await client.with_options(max_retries=0).get("/models", cast_to=object)
        except openai.APIConnectionError as error:
            _logger.warning("no answer from %s yet: %s", client.base_url, _sentence(error))
        except openai.OpenAIError:
            pass
    return await client.get("/models", cast_to=object)


async def _first_model(client: openai.AsyncOpenAI) -> str:
    try:
        answer = await _models(client)
    except openai.AuthenticationError as error:
        raise EngineLost(
            f"{client.base_url} wants a key: OPENAI_API_KEY has none of its"
        ) from error
    except openai.OpenAIError as error:
        raise EngineLost(f"no answer from {client.base_url}: {_sentence(error)}") from error
    except ValueError as error:
        raise EngineLost(f"{client.base_url} answers, but not with JSON") from error
    cards = _cards(answer)
    if not cards:
        raise EngineLost(f"{client.base_url} lists no model; name one with --model")
    return str(cards[0]["id"])


def _cards(answer: object) -> list[Mapping[str, Any]]:
    """The models of a list, each with a name."""
    models = answer.get("data") if isinstance(answer, Mapping) else None
    cards = models if isinstance(models, list) else []
    return [c for c in cards if isinstance(c, Mapping) and isinstance(c.get("id"), str)]


def _names(cards: Sequence[Mapping[str, Any]], model: str) -> tuple[str, ...]:
    """Names of the same weights: vLLM says of each where it has them from."""
    roots = {card["id"]: card.get("root") for card in cards if card.get("parent") is None}
    return tuple(name for name, root in roots.items() if root and root == roots.get(model))


def _adapters(cards: Sequence[Mapping[str, Any]], model: str) -> dict[str, str]:
    """Cards that vLLM gives a parent; the model itself may be one of them."""
    found = (card for card in cards if card.get("parent") and card["id"] != model)
    return {card["id"]: str(card.get("root")) for card in found}


def _choice(answer: object) -> Mapping[str, Any]:
    """The first choice, which has a message. Raises EngineError."""
    if not isinstance(answer, Mapping):
        raise EngineError(f"the server's answer is no chat completion: {_shown(answer)}")
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise EngineError(f"the server's answer has no choice with a message: {_shown(answer)}")
    return choice


def _text(content: object) -> str:
    """The text of a message, which some servers send in parts. Raises EngineError."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise EngineError(f"the server's answer is no text: {_shown(content)}")
    return content


def _tokens(logprobs: object) -> tuple[Token, ...]:
    """The tokens of a choice; none where a server leaves them out or says something else."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    tokens = []
    for item in content if isinstance(content, list) else ():
        text = item.get("token") if isinstance(item, Mapping) else None
        logprob = item.get("logprob") if isinstance(item, Mapping) else None
        if not isinstance(text, str) or not isinstance(logprob, int | float):
            return ()
        if not math.isfinite(logprob):
            return ()
        tokens.append(Token(text, min(float(logprob), 0.0)))
    return tuple(tokens)


def _finish(reason: object) -> Finish:
    """Whatever ended the answer from outside left half of it."""
    if reason in ("abort", "error", "content_filter"):
        return "abort"
    if reason == "length":
        return "length"
    return "repetition" if reason == "repetition" else "stop"


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(answer: object) -> str:
    """The beginning of what came, on one line."""
    text = " ".join(str(answer).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


def _body(request: Request, model: str) -> dict[str, Any]:
    """The request as JSON values. Tags and table cells are special tokens, and have to stay."""
    image = base64.b64encode(png_bytes(request.image)).decode()
    # The server puts the image tag, and a line break, where the image stands.
    text = request.prompt.removeprefix(IMAGE_TOKEN).lstrip("\n")
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "text", "text": text},
    ]
    body: dict[str, Any] = {
        "model": request.adapter or model,
        "messages": [{"role": "user", "content": content}],
        "temperature": request.temperature,
        "seed": request.seed,
        "skip_special_tokens": False,
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.mode is not None:
        body["mm_processor_kwargs"] = {"mode": request.mode}
    if request.logprobs:
        body["logprobs"] = True
    if request.guard is not None:
        body["vllm_xargs"] = guard_options(request.guard)
    return body


def _sentence(error: openai.OpenAIError) -> str:
    """The server's own words where it has some, on one line."""
    body = getattr(error, "body", None)
    words = body.get("message") if isinstance(body, Mapping) else None
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
    return _shown(words or cause or error)
