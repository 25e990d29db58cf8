from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm")

from vllm import LLM
from vllm.config import ModelConfig
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.interfaces import supports_eagle3

from tests.plugin.engines import complete, continuations, prompt, register, start
from vllm_dsocr.config import MODES, VisionSizes
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plugin.model import DeepseekOCRForCausalLM, vision_sizes

READ = "<image>\nFree OCR."
TEXT = "What is written on a page?"
Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def requests(pages: dict[str, Image.Image], half_and_half: Image.Image) -> Requests:
    """One image in every mode, several images, no image."""
    page, wide, small = pages["v1_page"], pages["v2_wide"], pages["v3_small"]
    return [
        *(prompt(READ, page, mode=mode) for mode in MODES),
        prompt("<image>\n<image>\nFree OCR.", wide, small),
        prompt("<image>\n<image>\nFree OCR.", small, wide),
        prompt(TEXT),
        prompt(READ, half_and_half),
    ]


@pytest.fixture(scope="module")
def alone(llm: LLM, requests: Requests) -> list[list[int]]:
    """What each request gives in an engine that does nothing else."""
    return [continuations(llm, [request])[0] for request in requests]


def test_requests_of_all_kinds_are_told_apart(alone: list[list[int]]) -> None:
    assert len({tuple(ids) for ids in alone}) == len(alone)


def test_mixed_modes_in_one_batch(llm: LLM, requests: Requests, alone: list[list[int]]) -> None:
    llm.reset_prefix_cache()  # else there is nothing to encode
    assert continuations(llm, requests) == alone


def test_cached_prefixes_and_pages(llm: LLM, requests: Requests, alone: list[list[int]]) -> None:
    outputs = complete(llm, requests)
    assert [list(output.outputs[0].token_ids) for output in outputs] == alone
    assert sum(output.num_cached_tokens for output in outputs) > 1000


def test_chunked_prefill_without_caches(
    checkpoint: Path, requests: Requests, alone: list[list[int]]
) -> None:
    chunked = start(
        checkpoint,
        max_num_batched_tokens=64,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
    )
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


def test_pages_beyond_the_context_are_refused(llm: LLM) -> None:
    column = Image.new("RGB", (144, 1296))
    huge = prompt(READ, column, base_size=1280, image_size=1280, crop_mode=True)
    with pytest.raises(VLLMValidationError, match="longer than the maximum model length"):
        complete(llm, [huge])


def test_unknown_weights_are_refused(llm: LLM) -> None:
    def load(model: DeepseekOCRForCausalLM) -> None:
        model.load_weights([("model.sam_model.stray", torch.zeros(1))])

    with pytest.raises(ValueError, match="stray"):
        llm.apply_model(load)


def test_a_drafter_sees_layers_of_the_decoder(llm: LLM) -> None:
    def check(model: DeepseekOCRForCausalLM) -> None:
        assert supports_eagle3(model)
        usual = model.get_eagle3_default_aux_hidden_state_layers()
        assert len(usual) == 3
        model.set_aux_hidden_state_layers((1,))
        try:
            assert model.language_model.model.aux_hidden_state_layers == (1,)
        finally:
            model.set_aux_hidden_state_layers(())

    llm.apply_model(check)


@pytest.mark.slow  # an engine of its own
def test_server_without_images_serves_text(llm: LLM, checkpoint: Path) -> None:
    without = start(checkpoint, limit_mm_per_prompt={"image": 0})
    assert continuations(without, [prompt(TEXT)]) == continuations(llm, [prompt(TEXT)])


def test_sizes_are_the_checkpoints_or_the_official_ones(checkpoint: Path, tmp_path: Path) -> None:
    register()
    tiny = vision_sizes(ModelConfig(str(checkpoint)))
    assert (tiny.sam.width, tiny.sam.neck_channels, tiny.clip.layers) == (48, 32, 3)
    assert (tiny.projector_input, tiny.projector_output) == (128, 64)
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((checkpoint / "config.json").read_text())
    del config["vision_config"], config["projector_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vision_sizes(ModelConfig(str(tmp_path))) == VisionSizes()
