"""A cache too small for what runs: requests are put aside and taken up again, guard and all."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("vllm")

from vllm import LLM, SamplingParams

from tests.plugin.engines import prompt, start
from vllm_dsocr.repetition import NGramGuard, NGramRule

READ = "<image>\nFree OCR."
TOKENS = 300
RULE = {"ngram_size": 3, "window_size": 60, "whitelist_token_ids": []}
LAYERS, HIDDEN, BYTES = 3, 64, 4  # of the tiny checkpoint, in fp32


def answers(engine: LLM, pages: list[Image.Image]) -> list[list[int]]:
    params = SamplingParams(
        temperature=0, max_tokens=TOKENS, ignore_eos=True, logit_bias={300: 100, 301: 100},
        extra_args=RULE,
    )  # fmt: skip
    requests = [prompt(READ, page, mode="tiny") for page in pages] * 4
    outputs = engine.generate(requests, params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_answers_are_those_of_an_engine_with_room(
    llm: LLM, checkpoint: Path, pages: dict[str, Image.Image]
) -> None:
    read = [pages["v3_small"], pages["v2_wide"]]
    tokens = 1200  # of 8 requests with about 380 each
    small = start(
        checkpoint,
        kv_cache_memory_bytes=tokens * 2 * LAYERS * HIDDEN * BYTES,
        max_model_len=512,
        enable_prefix_caching=False,
        disable_log_stats=False,
    )
    got = answers(small, read)
    preempted = [m.value for m in small.get_metrics() if m.name == "vllm:num_preemptions"]
    assert sum(preempted) > 0
    assert got == answers(llm, read)
    for ids in got:
        assert allowed(ids)


def allowed(ids: list[int]) -> bool:
    seen: list[int] = []
    guard = NGramGuard(NGramRule(3, 60), seen)
    for token in ids:
        if token in guard.banned():
            return False
        seen.append(token)
    return True
