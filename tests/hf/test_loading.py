"""Weights that lie elsewhere, or in fewer bits, or under adapters: the same answers."""

import copy

import pytest
import torch
from PIL import Image

from vllm_dsocr.hf import DeepseekOCRForCausalLM

accelerate = pytest.importorskip("accelerate")
PROMPT = "<image>\nFree OCR."


@pytest.fixture(scope="module")
def inputs(processor):
    tiles = {"mode": "gundam", "base_size": 256, "image_size": 128}
    return processor(PROMPT, Image.effect_noise((300, 200), 60), **tiles)


def read(model, inputs):
    settings = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 2}
    with torch.no_grad():
        return model(**inputs).logits, model.generate(**inputs, **settings).tolist()


@pytest.fixture(scope="module")
def expected(model, inputs):
    return read(model, inputs)


def check(model, inputs, expected):
    logits, ids = read(model, inputs)
    torch.testing.assert_close(logits, expected[0])
    assert ids == expected[1]


def test_weights_on_the_host(model, inputs, expected):
    """Every weight is on the meta device but while its own module runs."""
    check(accelerate.cpu_offload(copy.deepcopy(model), "cpu"), inputs, expected)


def test_weights_on_disk(tiny_path, inputs, expected, tmp_path):
    places = {"model.layers": "disk", "model.sam_model": "disk", "model.vision_model": "disk"}
    rest = ("embed_tokens", "norm", "rotary_emb", "projector", "image_newline", "view_seperator")
    places |= {f"model.{name}": "cpu" for name in rest} | {"lm_head": "cpu"}
    model = DeepseekOCRForCausalLM.from_pretrained(
        tiny_path, dtype=torch.float32, device_map=places, offload_folder=tmp_path
    )
    assert model.model.sam_model.pos_embed.device.type == "meta"
    check(model.eval(), inputs, expected)


def test_adapters_on_all_linear_layers_spare_the_router(model, inputs, expected):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules="all-linear", r=2, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    named = [name for name, _ in adapted.named_modules() if name.endswith("lora_A")]
    assert any("sam_model" in name for name in named)
    assert any(".experts." in name for name in named)
    assert not any(".gate." in name or "lm_head" in name for name in named)
    check(adapted, inputs, expected)  # adapters begin as zeros


def test_four_bits_are_of_the_linear_layers_alone(tiny_path, model, inputs):
    """The answer is that of the weights those bits stand for, and of all others as they are."""
    bits = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    few = DeepseekOCRForCausalLM.from_pretrained(
        tiny_path,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    ).eval()
    by_hand = copy.deepcopy(model)
    packed = {n: m for n, m in few.named_modules() if isinstance(m, bits.nn.Linear4bit)}
    assert any(".experts." in name for name in packed)
    assert not any(name.endswith((".gate", "lm_head")) for name in packed)
    for name, module in packed.items():
        weight = bits.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        by_hand.get_submodule(name).weight.data.copy_(weight)
    torch.testing.assert_close(read(few, inputs)[0], read(by_hand, inputs)[0], atol=1e-3, rtol=1e-3)
