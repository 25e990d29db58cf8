"""vLLM in this process as an Engine, with continuous batching. Knows nothing of files."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TextPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from vllm_dsocr import tracing
from vllm_dsocr.config import IMAGE_TOKEN
from vllm_dsocr.engine import (
    Completion,
    EngineError,
    EngineLost,
    Finish,
    NoAdapter,
    Request,
    Token,
    guard_options,
)
from vllm_dsocr.plugin.lifeline import held

MAX_IN_FLIGHT = 64  # until the engine is there to say how many it runs at once
WAITING = 2  # pages made ready while all others are read
MOST_IN_FLIGHT = 256  # each holds its page in memory, 12 MB for A4 at 200 dpi
# vLLM ends a request in error, to be sent again, when an earlier one with the same page was refused
# after the page was cached.
ATTEMPTS = 2


class VllmEngine:
    """The checkpoint `model` (folder or name on the hub); `engine_args` are vLLM's own.

    max_in_flight: None takes what the engine runs at once, up to MOST_IN_FLIGHT, and a few to come.
    """

    def __init__(self, model: str, max_in_flight: int | None = None, **engine_args: Any) -> None:
        self.model = model
        self.max_in_flight = max_in_flight or MAX_IN_FLIGHT
        self._stated = max_in_flight is not None
        self.versions = {"vllm": vllm.__version__, "torch": torch.__version__}
        self._engine_args = engine_args
        self._numbers = itertools.count()

    async def __aenter__(self) -> VllmEngine:
        """Starts the engine. Raises EngineLost when it does not start."""
        try:
            args = AsyncEngineArgs(model=self.model, **self._engine_args)
            self._engine = await asyncio.to_thread(_start, args)
        except Exception as error:  # vLLM and the hub raise what they like
            raise EngineLost(f"vLLM does not start with {self.model}: {_line(error)}") from error
        if not self._stated:
            scheduler = self._engine.vllm_config.scheduler_config
            self.max_in_flight = min(scheduler.max_num_seqs, MOST_IN_FLIGHT) + WAITING
        self._image_token_id = self._engine.get_tokenizer().convert_tokens_to_ids(IMAGE_TOKEN)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._engine.shutdown()

    async def complete(self, request: Request) -> Completion:
        """Raises EngineError for a request vLLM refuses, EngineLost when its engine has died."""
        for _ in range(ATTEMPTS):
            output = await self._answer(request)
            if output.outputs[0].finish_reason != "error":
                return self._completion(output)
        raise EngineError("vLLM gave up on the page for a fault of its own; its log says why")

    async def _answer(self, request: Request) -> RequestOutput:
        name = f"page-{next(self._numbers)}"
        try:
            (prompt,) = await self._engine.renderer.render_cmpl_async([_prompt(request)])
            answers = self._engine.generate(
                prompt,
                _sampling(request),
                name,
                lora_request=self._adapter(request.adapter),
                trace_headers=await self._trace_headers(),
            )
            outputs = [output async for output in answers]  # one: the final one
        except EngineDeadError as error:
            raise EngineLost("vLLM's engine has died; its log says why") from error
        except (EngineGenerateError, VLLMValidationError, ValueError) as error:
            reason = error.__cause__ if isinstance(error, EngineGenerateError) else error
            raise EngineError(_line(reason or error)) from error
        return outputs[-1]

    async def _trace_headers(self) -> Mapping[str, str] | None:
        return (tracing.headers() or None) if await self._engine.is_tracing_enabled() else None

    def _adapter(self, name: str | None) -> LoRARequest | None:
        """Raises NoAdapter for one that is not there."""
        if name is None:
            return None
        raise NoAdapter(f"there is no adapter {name!r}")

    def _completion(self, output: RequestOutput) -> Completion:
        answer = output.outputs[0]
        return Completion(
            text=answer.text,
            finish=_finish(answer.finish_reason),
            num_text_tokens=len(answer.token_ids),
            num_vision_tokens=list(output.prompt_token_ids or ()).count(self._image_token_id),
            tokens=_tokens(answer),
        )


class ServedEngine(VllmEngine):
    """The engine that a server of this process has already; it is left running.

    names: what the server calls the model.  loras: the adapters it has, which come and go.
    """

    def __init__(
        self, client: EngineClient, names: Sequence[str], loras: Mapping[str, LoRARequest]
    ) -> None:
        super().__init__(names[0])
        self.names = names
        self._engine = client
        self._loras = loras
        self.max_in_flight = client.vllm_config.scheduler_config.max_num_seqs

    async def __aenter__(self) -> ServedEngine:
        tokenizer = self._engine.get_tokenizer()
        if inspect.isawaitable(tokenizer):
            tokenizer = await tokenizer
        self._image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    @property
    def adapters(self) -> Mapping[str, str]:
        """What tells the adapters of each name apart: one may be replaced while it is served."""
        return {name: _version(lora) for name, lora in self._loras.items()}

    def _adapter(self, name: str | None) -> LoRARequest | None:
        lora = self._loras.get(name) if name is not None else None
        return lora or super()._adapter(name)


def _version(lora: LoRARequest) -> str:
    """Its folder, and when that was last written where it is one of this machine."""
    files = Path(lora.lora_path).glob("adapter_*")
    written = max((file.stat().st_mtime_ns for file in files), default=0)
    return f"{lora.lora_path} {written}"


def _start(args: AsyncEngineArgs) -> AsyncLLM:
    with held():
        return AsyncLLM.from_engine_args(args)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _prompt(request: Request) -> TextPrompt:
    prompt = TextPrompt(prompt=request.prompt, multi_modal_data={"image": request.image})
    if request.mode is not None:
        prompt["mm_processor_kwargs"] = {"mode": request.mode}
    return prompt


def _sampling(request: Request) -> SamplingParams:
    """Layout tags and table cells are special tokens, and have to stay in the text."""
    return SamplingParams(
        temperature=request.temperature,
        seed=request.seed,
        max_tokens=request.max_tokens,
        skip_special_tokens=False,
        logprobs=0 if request.logprobs else None,  # of the tokens it writes, and no others
        extra_args=guard_options(request.guard) if request.guard else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _tokens(answer: CompletionOutput) -> tuple[Token, ...]:
    if answer.logprobs is None:
        return ()
    pairs = zip(answer.token_ids, answer.logprobs, strict=False)
    found = (by_id.get(token_id) for token_id, by_id in pairs if by_id is not None)
    return tuple(Token(t.decoded_token or "", min(t.logprob, 0.0)) for t in found if t is not None)


_FINISHES: dict[str | None, Finish] = {
    "stop": "stop",
    "length": "length",
    "repetition": "repetition",
}


def _finish(reason: str | None) -> Finish:
    return _FINISHES.get(reason, "abort")
