"""transformers as an Engine: one page at a time, in a thread of its own. Knows nothing of files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import transformers

from vllm_dsocr.config import EOS_TOKEN
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request, Token
from vllm_dsocr.hf.logits import LogprobRecorder, NGramGuardProcessor, serving_rule
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

MAX_NEW_TOKENS = 8192
MAX_IN_FLIGHT = 2  # one is read, the next is made ready


class HfEngine:
    """The checkpoint `model` (folder or name on the hub) on `device`, by default the GPU if any.

    Greedy unless asked otherwise, under the same repetition guard as serving. On a CPU in fp32.
    """

    def __init__(self, model: str, device: str | None = None) -> None:
        self.model = model
        self.max_in_flight = MAX_IN_FLIGHT
        self.versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._thread = ThreadPoolExecutor(1, "dsocr-hf")

    async def __aenter__(self) -> HfEngine:
        """Loads the weights. Raises EngineLost when there are none."""
        try:
            await self._in_thread(self._load)
        except (OSError, ValueError) as error:
            raise EngineLost(f"cannot load {self.model}: {error}") from error
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def complete(self, request: Request) -> Completion:
        """Raises EngineError for options or a prompt that cannot be."""
        try:
            return await self._in_thread(self._complete, request)
        except ValueError as error:  # OptionError and PromptError are such
            raise EngineError(str(error)) from error

    def _load(self) -> None:
        dtype = torch.float32 if self._device.type == "cpu" else "auto"
        model = DeepseekOCRForCausalLM.from_pretrained(self.model, dtype=dtype)
        self._model = model.to(self._device).eval()
        self._processor = DeepseekOCRProcessor.from_pretrained(self.model)
        self._vocabulary = self._processor.tokenizer.get_vocab()

    @torch.inference_mode()
    def _complete(self, request: Request) -> Completion:
        options: dict[str, Any] = {"mode": request.mode} if request.mode else {}
        inputs = self._processor(request.prompt, request.image, **options)
        length = inputs["input_ids"].shape[1]
        eos = self._vocabulary[EOS_TOKEN]
        recorders = [LogprobRecorder()] if request.logprobs else []
        ids = self._model.generate(
            **_on_device(inputs, self._device),
            **_sampling(request),
            max_new_tokens=self._max_new_tokens(request, length),
            logits_processor=[
                *recorders,
                NGramGuardProcessor(serving_rule(self._vocabulary, request.guard), length),
            ],
            eos_token_id=eos,
            pad_token_id=eos,
        )[0, length:].tolist()
        return Completion(
            text=self._processor.tokenizer.decode(ids, skip_special_tokens=False),
            finish="stop" if ids and ids[-1] == eos else "length",
            num_text_tokens=len(ids),
            num_vision_tokens=int(inputs["images_seq_mask"].sum()),
            tokens=tuple(token for r in recorders for token in self._tokens(ids, r)),
        )

    def _tokens(self, ids: list[int], recorder: LogprobRecorder) -> Iterator[Token]:
        texts = self._processor.tokenizer.batch_decode([[i] for i in ids])
        return map(Token, texts, recorder.logprobs(ids[-1]))

    def _max_new_tokens(self, request: Request, prompt_length: int) -> int:
        room = self._model.config.max_position_embeddings - prompt_length
        if room < 1:
            raise EngineError(f"the prompt has {prompt_length} tokens, which leaves no room")
        return min(room, request.max_tokens or MAX_NEW_TOKENS)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)


def _on_device(inputs: Any, device: torch.device) -> dict[str, Any]:
    """Views stay where they are: the model moves them."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


def _sampling(request: Request) -> dict[str, Any]:
    if not request.temperature:
        return {"do_sample": False}
    torch.manual_seed(request.seed)
    return {"do_sample": True, "temperature": request.temperature}
