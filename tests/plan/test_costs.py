"""The cost model against torch's FLOP counter, real parameter counts and the cache's real size."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vllm_dsocr.config import MODES, Resolution, VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages, encode_views
from vllm_dsocr.encoder.attention import Forms, attend
from vllm_dsocr.encoder.attention.forms import by_head
from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.page_cost import page_cost
from vllm_dsocr.plan.sizes import DecoderSizes, ModelSizes
from vllm_dsocr.plan.vision_cost import executed_flops, view_flops, vision_parameters

DATA = Path(__file__).parent.parent / "data"
CLOSE = 0.02


@pytest.fixture(scope="module")
def sizes():
    return ModelSizes.from_file(DATA / "tiny-random")


@pytest.fixture(scope="module")
def model():
    return DeepseekOCRForCausalLM.from_pretrained(DATA / "tiny-random", dtype=torch.float32).eval()


@pytest.fixture
def without_bias(monkeypatch):
    """The sum that makes a bias of relative positions is no product, whatever form computes it."""
    plain = by_head(lambda q, k, v, *_: attend(q, k, v, None, "sdpa"))
    monkeypatch.setattr(Forms, "__call__", lambda forms, grid: plain(grid))


def counted(call):
    # torch's counter does not see the CPU's flash kernel; the plain one's products it counts
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("side", [MODES["tiny"].base_size, MODES["large"].base_size])
def test_views_of_the_published_towers(side, without_bias):
    with torch.device("meta"):
        tower = nn.Module()
        build_vision_tower(tower, VisionSizes())
        views = torch.zeros(1, 3, side, side)
    flops = counted(lambda: encode_views(tower, views))
    assert view_flops(VisionSizes(), side) == pytest.approx(flops, rel=CLOSE)


@pytest.mark.parametrize("side", [640, 1024])
def test_kernels_execute_little_more_than_is_needed(side):
    """What they multiply exactly is counted in Triton's interpreter, tests/encoder."""
    needed, executed = (f(VisionSizes(), side) for f in (view_flops, executed_flops))
    assert needed < executed < 1.05 * needed


def test_a_page_with_tiles_on_the_tiny_towers(sizes, model, without_bias):
    plan = plan_tiles(250, 350, Resolution(256, 128, crop_mode=True))
    global_view, tiles = torch.zeros(3, 256, 256), torch.zeros(plan.num_tiles, 3, 128, 128)
    page = PageViews(global_view, tiles, plan.rows, plan.cols)
    flops = counted(lambda: embed_pages(model.model, [page]))
    assert plan.num_tiles > 1
    assert page_cost(sizes, plan, 1).vision == pytest.approx(flops, rel=CLOSE)


@pytest.mark.parametrize("new", [1, 100, 700])
def test_the_decoder(sizes, model, new):
    ids = torch.zeros(1, new, dtype=torch.long)
    flops = counted(lambda: model(ids, logits_to_keep=1, use_cache=False))
    assert decoder_cost.forward_flops(sizes.decoder, new) == pytest.approx(flops, rel=CLOSE)


def test_a_step_with_a_cache_and_the_cache_itself(sizes, model):
    with torch.no_grad():
        cache = model(torch.zeros(1, 300, dtype=torch.long)).past_key_values
    stored = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert stored == 300 * decoder_cost.cache_numbers(sizes.decoder)
    one = torch.zeros(1, 1, dtype=torch.long)
    flops = counted(lambda: model(one, past_key_values=cache))
    assert decoder_cost.forward_flops(sizes.decoder, 1, 300) == pytest.approx(flops, rel=CLOSE)


def is_vision(name):
    parts = ("sam_model", "vision_model", "projector", "image_newline", "view_seperator")
    return name.split(".")[1] in parts


@pytest.mark.parametrize("config", [{}, json.loads((DATA / "tiny-random/config.json").read_text())])
def test_parameters_are_those_of_the_model(config):
    sizes = ModelSizes.from_config(config)
    with torch.device("meta"):
        model = DeepseekOCRForCausalLM(DeepseekOCRConfig(**config))
    numbers = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        numbers[is_vision(name)] += parameter.numel()
    assert vision_parameters(sizes.vision) == numbers[True]
    assert decoder_cost.parameters(sizes.decoder) == numbers[False]


def test_published_decoder_sizes_are_those_of_the_configuration():
    config, sizes = DeepseekOCRConfig(), DecoderSizes()
    assert all(getattr(config, name) == getattr(sizes, name) for name in DecoderSizes.__slots__)
