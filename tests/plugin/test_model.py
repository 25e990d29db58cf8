from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("vllm")

from vllm import LLM
from vllm.config import ModelConfig
from vllm.lora.request import LoRARequest

from tests.plugin.engines import complete, continuations, engine, prompt, register
from vllm_dsocr.config import MODES, ClipSizes, SamSizes, VisionSizes
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plugin.model import DeepseekOCRForCausalLM, vision_sizes

READ = "<image>\nFree OCR."


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> LLM:
    return engine(checkpoint)


@pytest.fixture(scope="module")
def requests(
    pages: dict[str, Image.Image], half_and_half: Image.Image
) -> list[dict[str, Any]]:
    """One image in every mode, several images, no image."""
    page, wide, small = pages["v1_page"], pages["v2_wide"], pages["v3_small"]
    return [
        *(prompt(READ, page, mode=mode) for mode in MODES),
        prompt("<image>\n<image>\nFree OCR.", wide, small),
        prompt("<image>\n<image>\nFree OCR.", small, wide),
        prompt("What is written on a page?"),
        prompt(READ, half_and_half),
    ]


@pytest.fixture(scope="module")
def alone(llm: LLM, requests: list[dict[str, Any]]) -> list[list[int]]:
    """What each request gives in an engine that does nothing else."""
    return [continuations(llm, [request])[0] for request in requests]


def test_requests_of_all_kinds_are_told_apart(alone: list[list[int]]) -> None:
    assert len({tuple(ids) for ids in alone}) == len(alone)


def test_mixed_modes_in_one_batch(
    llm: LLM, requests: list[dict[str, Any]], alone: list[list[int]]
) -> None:
    llm.reset_prefix_cache()  # else the encoder has nothing to do
    assert continuations(llm, requests) == alone


def test_cached_prefixes_and_pages(
    llm: LLM, requests: list[dict[str, Any]], alone: list[list[int]]
) -> None:
    outputs = complete(llm, requests)
    assert [list(output.outputs[0].token_ids) for output in outputs] == alone
    assert all(output.num_cached_tokens for output in outputs if len(output.prompt_token_ids) > 64)


def test_chunked_prefill_without_caches(
    checkpoint: Path, requests: list[dict[str, Any]], alone: list[list[int]]
) -> None:
    options = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}
    chunked = engine(checkpoint, max_num_batched_tokens=64, **options)
    assert continuations(chunked, requests) == alone


def test_chat_sees_the_prompt_of_generate(llm: LLM, pages: dict[str, Image.Image]) -> None:
    page = pages["v3_small"]
    content = [{"type": "image_pil", "image_pil": page}, {"type": "text", "text": "Free OCR. "}]
    (chat,) = llm.chat([{"role": "user", "content": content}], use_tqdm=False)
    (generated,) = complete(llm, [prompt(READ, page)], tokens=1)
    assert chat.prompt_token_ids == generated.prompt_token_ids


def test_page_that_sums_to_zero_keeps_its_tiles(llm: LLM, half_and_half: Image.Image) -> None:
    (output,) = complete(llm, [prompt(READ, half_and_half)], tokens=4)
    plan = plan_tiles(*half_and_half.size, MODES["gundam"])
    assert (plan.rows, plan.cols) == (1, 2)
    assert output.prompt_token_ids.count(880) == plan.num_image_tokens


def test_bad_requests_leave_the_engine_alive(llm: LLM, pages: dict[str, Image.Image]) -> None:
    page = pages["v3_small"]
    for bad in (prompt("no tag", page), prompt(READ), prompt(READ, page, mode="huge")):
        with pytest.raises(ValueError, match="tags for|mode must be"):
            complete(llm, [bad])
    assert complete(llm, [prompt(READ, page)], tokens=1)


def test_unknown_weights_are_refused(llm: LLM) -> None:
    def load(model: DeepseekOCRForCausalLM) -> None:
        model.load_weights([("model.sam_model.stray", torch.zeros(1))])

    with pytest.raises(ValueError, match="stray"):
        llm.apply_model(load)


def test_server_without_images_serves_text(
    checkpoint: Path, llm: LLM, pages: dict[str, Image.Image]
) -> None:
    text = [prompt("What is written on a page?")]
    without = LLM(str(checkpoint), **_small_engine(limit_mm_per_prompt={"image": 0}))
    assert continuations(without, text) == continuations(llm, text)


def test_lora_of_the_decoder_equals_merged_weights(
    checkpoint: Path, pages: dict[str, Image.Image], tmp_path: Path
) -> None:
    weights, adapter = _dense_weights(checkpoint), tmp_path / "adapter"
    merged = _write_adapter(adapter, weights)
    plain = _write_checkpoint(tmp_path / "plain", checkpoint, weights)
    merged = _write_checkpoint(tmp_path / "merged", checkpoint, merged)
    request = [prompt(READ, pages["v3_small"], mode="tiny")]
    with_lora = LLM(str(plain), **_small_engine(enable_lora=True))
    lora = continuations(with_lora, request, lora_request=LoRARequest("a", 1, str(adapter)))
    assert lora == continuations(LLM(str(merged), **_small_engine()), request)
    assert lora != continuations(with_lora, request)
