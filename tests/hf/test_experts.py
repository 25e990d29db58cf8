"""Experts in one grouped product give the numbers they give one by one, forth and back."""

import copy

import pytest
import torch

from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM
from vllm_dsocr.hf.model import experts, moe
from vllm_dsocr.hf.model.experts import can_group, pays
from vllm_dsocr.hf.model.moe import MoE

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZES = {"hidden_size": 32, "moe_intermediate_size": 16, "n_routed_experts": 8,
         "num_experts_per_tok": 2, "n_shared_experts": 1}  # fmt: skip


@pytest.fixture
def layer():
    torch.manual_seed(0)
    config = DeepseekOCRConfig(**SIZES)
    config._experts_implementation = "grouped_mm"
    return MoE(config).train()


@pytest.fixture
def calls(monkeypatch):
    """Groups wherever it can, and notes it."""
    done = []
    monkeypatch.setattr(moe, "pays", lambda rows, num_experts: True)
    run = moe.grouped
    monkeypatch.setattr(moe, "grouped", lambda *args: done.append(args) or run(*args))
    return done


def gradients(layer, x, implementation, autocast=False):
    """Output, and gradients of everything, of one pass."""
    layer = copy.deepcopy(layer)
    layer.config._experts_implementation = implementation
    x = x.detach().clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        out = layer(x)
    out.float().square().mean().backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **grads}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tokens", [40, 3])  # with three, some experts get no token
def test_the_same_numbers_in_fp32(layer, calls, tokens, device):
    layer, x = layer.to(device), torch.randn(2, tokens, 32, device=device)
    torch.testing.assert_close(gradients(layer, x, "grouped_mm"), gradients(layer, x, "eager"))
    assert len(calls) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_is_as_close_to_fp32_as_one_by_one(layer, calls, autocast, device):
    layer, x = layer.to(device), torch.randn(2, 40, 32, device=device)
    exact = gradients(layer, x, "eager")
    if not autocast:
        layer, x = layer.bfloat16(), x.bfloat16()
    grouped = gradients(layer, x, "grouped_mm", autocast)
    loop = gradients(layer, x, "eager", autocast)
    assert len(calls) == 1
    for name, value in grouped.items():
        assert value.dtype == loop[name].dtype
        assert off(value, exact[name]) <= 1.2 * off(loop[name], exact[name]) + 1e-3


def off(value, exact):
    return ((value.float() - exact).norm() / exact.norm()).item()


def test_frozen_experts_get_no_gradients(layer, calls):
    layer.experts.requires_grad_(False)
    grads = gradients(layer, torch.randn(1, 40, 32), "grouped_mm")
    assert grads["experts.0.up_proj.weight"] is None and grads["x"].abs().sum() > 0
    assert len(calls) == 1


def test_nothing_is_kept_of_weights_laid_together(layer, calls):
    """Of the way back only parameters and rows are held."""
    kept = []
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(torch.randn(1, 10, 32, requires_grad=True))
    assert calls and max(kept) < SIZES["n_routed_experts"] * 32 * 16


def test_the_switch_is_transformers_own(tmp_path):
    config = DeepseekOCRConfig(**SIZES, vocab_size=64, num_hidden_layers=2, intermediate_size=16,
                               num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    with torch.device("meta"):
        model = DeepseekOCRForCausalLM(config)
    assert model.config._experts_implementation == "grouped_mm"
    model.set_experts_implementation("eager")
    assert model.model.layers[1].mlp.config._experts_implementation == "eager"


def test_only_plain_weights_that_are_there_are_grouped(layer):
    cpu = torch.device("cpu")
    assert can_group(layer.experts, cpu)
    assert not can_group(layer.experts, torch.device("meta"))
    hook = layer.experts[3].up_proj.register_forward_pre_hook(lambda module, args: None)
    assert not can_group(layer.experts, cpu)
    hook.remove()
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["up_proj"]), layer)
    assert not can_group(layer.experts, cpu)


def test_few_rows_and_a_cpu_go_one_by_one(monkeypatch):
    assert not pays(torch.randn(1000, 32, dtype=torch.bfloat16), 8)

    class OnGpu:
        device, dtype = torch.device("cuda"), torch.bfloat16

        def __init__(self, length):
            self.length = length

        def __len__(self):
            return self.length

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert pays(OnGpu(64 * experts.WORTHWHILE), 64)
    assert not pays(OnGpu(64 * experts.WORTHWHILE - 1), 64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not pays(OnGpu(10_000), 64)
