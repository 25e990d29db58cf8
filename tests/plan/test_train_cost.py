"""Memory and FLOPs of a training step against what one takes on this CPU, at small size."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.live_bytes import LiveBytes
from vllm_dsocr.cli import main
from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM
from vllm_dsocr.hf.model.loss import CHUNK
from vllm_dsocr.plan.sizes import ModelSizes
from vllm_dsocr.plan.train_cost import LOSS_CHUNK, TrainSetup, train_cost

NEAR = 0.10
TOKENS, ROWS = 384, 4
TOWERS = {
    "sam_vit_b": {"width": 32, "layers": 1, "heads": 2, "downsample_channels": [32, 32]},
    "clip-l-14-224": {"width": 32, "layers": 1, "heads": 2},
}
CONFIG = {
    "vocab_size": 2000,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 96,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "vision_config": {"width": TOWERS},
    "projector_config": {"input_dim": 64, "n_embed": 128},
}


def small_model(setup):
    torch.manual_seed(0)
    model = DeepseekOCRForCausalLM(DeepseekOCRConfig(**CONFIG)).train()
    model.lean_loss = setup.lean_loss
    if setup.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("model.sam_model.", "model.vision_model.")))
    return model


def loss_of(model):
    ids = torch.randint(0, CONFIG["vocab_size"], (ROWS, TOKENS))
    return model(ids, labels=ids, use_cache=False).loss


def measured_peak(setup):
    """Of the second step, when the optimiser has its states."""
    model = small_model(setup)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with LiveBytes() as live:
        for _ in range(2):
            live.peak = live.now
            optimiser.zero_grad(set_to_none=True)
            loss_of(model).backward()
            optimiser.step()
    return live.peak + sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lean", [True, False])
def test_the_peak_of_a_step(checkpointing, lean):
    setup = TrainSetup(rows=ROWS, checkpointing=checkpointing, lean_loss=lean)
    cost = train_cost(ModelSizes.from_config(CONFIG), TOKENS, TOKENS - 1, setup)
    assert cost.peak == pytest.approx(measured_peak(setup), rel=NEAR)
    assert cost.peak > 1.5 * (cost.parameters + cost.optimiser)  # it is not these that decide


def test_the_flops_of_a_step():
    setup = TrainSetup(rows=ROWS, lean_loss=False)
    model = small_model(setup)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(model).backward()
    cost = train_cost(ModelSizes.from_config(CONFIG), TOKENS, TOKENS, setup)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=NEAR)


def test_the_chunk_is_that_of_the_loss():
    assert LOSS_CHUNK == CHUNK


def test_the_command_states_it(capsys):
    assert main(["plan", "--train", "--mode", "base", "--rows", "2", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["modes"][0]
    arguments = ["--rows", "2", "--checkpointing", "--bf16", "--json"]
    assert main(["plan", "--train", "--mode", "base", *arguments]) == 0
    lean = json.loads(capsys.readouterr().out)["modes"][0]
    assert plain["tokens"] == lean["tokens"] == 2 * (273 + 12 + 1000)
    assert lean["flops"] > plain["flops"]
    assert lean["peak"] < 0.52 * plain["peak"]
    assert main(["plan", "--train"]) == 0
    assert "peak GiB" in capsys.readouterr().out
