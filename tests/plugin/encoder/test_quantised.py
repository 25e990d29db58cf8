"""fp8 layers of the encoder: vLLM's own, as far from bf16 as rounding to fp8 makes them.

Layers of vLLM want its process groups, which the shared engine has.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from PIL import Image
from torch import nn
from vllm import LLM
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.utils.torch_utils import set_default_torch_dtype

from benchmarks.encoder_fp8 import difference, round_linears
from tests.plugin.engines import continuations, prompt, register, start
from vllm_dsocr.config import ClipSizes, SamSizes, VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.plugin.encoder.quantised import PARTS, quantise

SIZES = VisionSizes(
    SamSizes(width=64, layers=3, heads=2, global_attn_indexes=(1,), downsample_channels=(32, 48)),
    ClipSizes(width=48, layers=3, heads=2, image_size=28),
    projector_input=96,
    projector_output=64,
)
LINEARS = 3 * 4 + 3 * 4 + 1
ON = {"additional_config": {"dsocr": {"quantize_encoder": True}}}


def encoder_in(method: str, ignored: str | None = None) -> dict[str, Any]:
    """Flags for fp8 in the encoder alone: this CPU has no fp8 experts."""
    targets = {f"{part}.*": method for part in PARTS if part != ignored}
    return {"quantization": "online", "quantization_config": {"targets": targets}}


def configured(checkpoint: Path, **flags: Any) -> VllmConfig:
    register()
    return EngineArgs(
        str(checkpoint), dtype="bfloat16", max_model_len=1024, **flags
    ).create_engine_config()


def tower_with_weights() -> nn.Module:
    torch.manual_seed(0)
    tower = nn.Module()
    build_vision_tower(tower, SIZES)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    return tower.to(torch.bfloat16).requires_grad_(False)


def quantised(tower: nn.Module, config: VllmConfig) -> tuple[nn.Module, int]:
    """The same weights, loaded as vLLM loads them into the layers it is given."""
    made = nn.Module()
    with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
        build_vision_tower(made, SIZES)
        swapped = quantise(made, config)
    stored = tower.state_dict()
    for name, parameter in list(made.named_parameters()):
        getattr(parameter, "weight_loader", default_weight_loader)(parameter, stored[name])
    return made, swapped


@pytest.fixture(scope="module")
def page() -> PageViews:
    torch.manual_seed(0)
    view, tiles = (torch.randint(0, 256, s).byte() for s in ((3, 128, 128), (2, 3, 64, 64)))
    return PageViews(view, tiles, 1, 2)


@torch.inference_mode()
def test_embeddings_are_those_of_rounded_weights(
    llm: LLM, checkpoint: Path, page: PageViews
) -> None:
    """Within what bf16 leaves open; and rounding itself moves them by no more than 8 %."""
    method = "fp8_per_channel"  # the CPU build has no kernel that rounds by tensor
    tower = tower_with_weights()
    made, swapped = quantised(tower, configured(checkpoint, **encoder_in(method), **ON))
    assert swapped == LINEARS
    (got,) = embed_pages(made, [page])
    (exact,) = embed_pages(copy.deepcopy(tower).float(), [page])
    (want,) = embed_pages(round_linears(tower.float(), method), [page])
    assert 0.01 < difference(want, exact) < 0.08
    assert difference(got.float(), want) < 0.6 * difference(want, exact)


def test_what_the_flags_leave_out_is_left(llm: LLM, checkpoint: Path) -> None:
    config = configured(checkpoint, **encoder_in("fp8_per_channel", "vision_model"), **ON)
    made, swapped = quantised(tower_with_weights(), config)
    assert swapped == LINEARS - 3 * 4
    assert not any(isinstance(m, ReplicatedLinear) for m in made.vision_model.modules())


def test_without_the_switch_the_encoder_is_as_it_was(checkpoint: Path) -> None:
    made, swapped = quantised(
        tower_with_weights(), configured(checkpoint, quantization="fp8_per_channel")
    )
    assert swapped == 0
    assert not any(isinstance(module, ReplicatedLinear) for module in made.modules())


def test_the_switch_alone_does_not_say_how(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="quantize_encoder needs --quantization"):
        configured(checkpoint, **ON)


@pytest.mark.slow  # an engine of its own
def test_an_engine_reads_with_it(checkpoint: Path) -> None:
    llm = start(checkpoint, dtype="bfloat16", **encoder_in("fp8_per_channel"), **ON)

    def weights(model: nn.Module) -> set[torch.dtype]:
        linears = [m for m in model.sam_model.modules() if isinstance(m, ReplicatedLinear)]
        return {linear.weight.dtype for linear in linears}

    assert llm.apply_model(weights) == [{torch.float8_e4m3fn}]
    pages = [prompt("<image>\nFree OCR.", Image.new("RGB", (900, 700), "white"))]
    assert len(continuations(llm, pages)[0]) == 16
