"""vLLM engines in the test process: started with one call, asked with another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vllm import LLM, RequestOutput, SamplingParams

import vllm_dsocr

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the other tests keep their cores
    "VLLM_LOGGING_LEVEL": "WARNING",
}
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 64 << 20,
    "mm_processor_kwargs": {"resampler": "pillow", "alpha": "drop"},  # the reference's pixels
    "seed": 0,
}

_started: list[LLM] = []  # a collected engine takes the process groups of the others with it


def register() -> None:
    """What the entry point does in an installed environment."""
    vllm_dsocr.register()


def start(checkpoint: Path, **options: Any) -> LLM:
    """An engine in fp32 with exact pixels."""
    register()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        _started.append(LLM(str(checkpoint), **{**OPTIONS, **options}))
    return _started[-1]


def prompt(text: str, *images: Image.Image, **page_options: Any) -> dict[str, Any]:
    """One request of `LLM.generate`."""
    request: dict[str, Any] = {"prompt": text, "mm_processor_kwargs": page_options}
    return {**request, "multi_modal_data": {"image": list(images)}} if images else request


def complete(
    llm: LLM, prompts: Sequence[Any], tokens: int = 16, **options: Any
) -> list[RequestOutput]:
    """Greedy continuations of exactly that many tokens."""
    greedy = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    return llm.generate(list(prompts), greedy, use_tqdm=False, **options)


def continuations(llm: LLM, prompts: Sequence[Any], **options: Any) -> list[list[int]]:
    """Ids of `complete`."""
    return [list(o.outputs[0].token_ids) for o in complete(llm, prompts, **options)]
