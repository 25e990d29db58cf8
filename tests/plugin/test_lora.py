"""Adapters of a decoder with experts, written by PEFT, in a vLLM engine on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm")
pytest.importorskip("peft")

from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from tests.plugin.engines import continuations, prompt, register, start
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training.lora import LoraSettings, add_lora

PROMPT, MODE = "<image>\nFree OCR.", "tiny"

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="about vLLM's CPU build")


def greedy(model: torch.nn.Module, checkpoint: Path, page: Image.Image) -> list[int]:
    """16 ids of transformers."""
    processor = DeepseekOCRProcessor.from_pretrained(checkpoint, resampler="pillow", mode=MODE)
    inputs = processor(PROMPT, page)
    ids = model.eval().generate(**inputs, max_new_tokens=16, eos_token_id=-1, pad_token_id=2)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def random_adapter(checkpoint: Path, seed: int) -> torch.nn.Module:
    """On attention, dense and shared feed-forward of all layers; strong enough to be seen."""
    torch.manual_seed(seed)
    model = DeepseekOCRForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    adapted = add_lora(model, LoraSettings(rank=4, alpha=8))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return adapted


def test_a_batch_of_adapters_and_none_equals_transformers(
    checkpoint: Path, pages: dict[str, Image.Image], tmp_path: Path
) -> None:
    page, base = pages["v3_small"], DeepseekOCRForCausalLM.from_pretrained(checkpoint)
    expected, requests = [greedy(base.float(), checkpoint, page)], [None]
    for seed in (1, 2):
        adapted = random_adapter(checkpoint, seed)
        adapted.save_pretrained(tmp_path / str(seed))
        expected.append(greedy(adapted, checkpoint, page))
        requests.append(LoRARequest(str(seed), seed, str(tmp_path / str(seed))))
    assert len(set(map(tuple, expected))) == 3

    engine = start(checkpoint, enable_lora=True, max_loras=2)
    batch, order = [prompt(PROMPT, page, mode=MODE)] * 5, [1, 0, 2, 0, 1]
    lora = [requests[number] for number in order]
    assert continuations(engine, batch, lora_request=lora) == [expected[n] for n in order]


@pytest.mark.parametrize(("stated", "targets"), [(None, 7), (["o_proj"], 1)])
def test_experts_are_spared_and_a_slot_stays_empty(
    checkpoint: Path, stated: list[str] | None, targets: int
) -> None:
    register()
    arguments = EngineArgs(
        str(checkpoint), max_model_len=512, enable_lora=True, lora_target_modules=stated
    )
    lora = arguments.create_engine_config().lora_config
    assert len(lora.target_modules) == targets and "experts" not in lora.target_modules
    assert (lora.max_loras, lora.max_cpu_loras) == (2, 2)
