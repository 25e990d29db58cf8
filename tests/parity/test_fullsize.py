"""The published sizes: every tensor's name and shape, tower values with recipe weights."""

import zlib

import numpy as np
import pytest
import torch

from tests.parity.loader import each_case, sha256
from vllm_dsocr.config import VisionSizes
from vllm_dsocr.encoder.assembly import build_vision_tower, normalise
from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM

NORMS = (".norm1.", ".norm2.", ".layer_norm1.", ".layer_norm2.", ".pre_layrnorm.")
NORMS_2D = ("sam_model.neck.1.", "sam_model.neck.3.")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def recipe_weight(name, shape, salt):
    """The value `fullsize.json` documents for a tensor: seeded by its name."""
    leaf = name.rsplit(".", 1)[-1]
    if any(part in name for part in NORMS + NORMS_2D):
        return np.full(shape, float(leaf == "weight"), np.float32)
    std = 0.02
    if leaf in ("rel_pos_h", "rel_pos_w"):
        std = 0.5
    elif leaf in ("pos_embed", "class_embedding") or "position_embedding" in name:
        std = 0.1
    random = np.random.RandomState(zlib.crc32((salt + name).encode()))
    return (random.standard_normal(shape) * std).astype(np.float32)


def recipe_image(size, k):
    """The documented picture as (1, 3, size, size) uint8."""
    y, x = np.mgrid[0:size, 0:size].astype(np.int64)
    red = x * 255 // (size - 1)
    green = ((x * x + k * y * y) // 97) % 256
    blue = ((x // 32 + y // 32) % 2) * 200 + (x * y // 1024) % 56
    return torch.from_numpy(np.stack([red, green, blue], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def tower(data):
    document = data.document("fullsize.json")
    module = torch.nn.Module()
    build_vision_tower(module, VisionSizes())
    for name, tensor in module.state_dict().items():
        recorded = document["param_sha256"].get(f"model.{name}")
        if recorded is None:
            continue  # newline and separator take no part, position_ids are no weight
        weight = recipe_weight(f"model.{name}", tuple(recorded["shape"]), document["salt"])
        weight = torch.from_numpy(weight)
        assert sha256(weight) == recorded["sha256_f32le"], name
        tensor.copy_(weight)
    return module.eval()


def assert_values(value, recorded):
    assert list(value.shape) == recorded["shape"]
    picked = value.flatten()[torch.tensor(recorded["flat_index"])]
    torch.testing.assert_close(picked, torch.tensor(recorded["value"]), **CLOSE)
    mean, std = value.double().mean().item(), value.double().std(correction=0).item()
    assert mean == pytest.approx(recorded["mean"], abs=1e-4)
    assert std == pytest.approx(recorded["std"], rel=1e-4)


@torch.no_grad()
@each_case("fullsize.json")
def test_towers_give_the_official_values(case, tower):
    candidates = (recipe_image(case["image_size"], k) for k in (1, 3))
    (pixels,) = (p for p in candidates if sha256(p) == case["pixels_u8_hwc_sha256"])
    sam = tower.sam_model(normalise(pixels.permute(2, 0, 1)[None], tower.image_newline))
    assert_values(sam, case["sam"])
    clip = tower.vision_model(sam)
    assert_values(clip, case["clip"])
    features = torch.cat((clip[:, 1:], sam.flatten(2).transpose(1, 2)), dim=-1)
    assert_values(tower.projector(features), case["projector"])


def test_names_and_shapes_are_those_of_the_published_checkpoint(data):
    with torch.device("meta"):
        model = DeepseekOCRForCausalLM(DeepseekOCRConfig())
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    document = data.document("fullsize_params.json")
    buffer = document["non_parameter_buffers"]
    assert set(ours) - set(document["params"]) <= set(buffer)
    assert {name: ours.get(name) for name in document["params"]} == document["params"]
    assert sum(p.numel() for p in model.parameters()) == document["n_parameters"]
