"""Towers, projector and assembled embeddings against the official code, stage by stage, fp32."""

import pytest
import torch

from tests.parity.loader import each_case, resolution
from vllm_dsocr.config import PageOptions
from vllm_dsocr.encoder.assembly import PageViews, embed_pages, normalise
from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.page.pixels import page_tensors

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def tower(checkpoint):
    return DeepseekOCRForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval().model


def stages(tower, views):
    """What each part makes of a stack of views."""
    sam = tower.sam_model(normalise(views, tower.image_newline))
    clip = tower.vision_model(sam)
    features = torch.cat((clip[:, 1:], sam.flatten(2).transpose(1, 2)), dim=-1)
    return {"sam": sam, "clip": clip, "proj": tower.projector(features)}


@torch.no_grad()
@each_case("encoder_*.json")
def test_every_stage_is_the_official_one(case, data, tower):
    expected = data.tensors(case.document)
    options = PageOptions(resolution(case["mode"]), resampler="pillow")
    page = page_tensors(data.image(case.document["image"]), options)
    assert [page.plan.cols, page.plan.rows] == case["grid_wh"]
    views = {"global": page.global_view[None], "local": page.tiles}
    for part, pixels in views.items():
        for stage, value in stages(tower, pixels).items() if len(pixels) else ():
            name = f"{case['mode']}/{stage}_{part}"
            torch.testing.assert_close(value, expected[name], **CLOSE, msg=lambda m, n=name: n + m)
    pages = [PageViews(page.global_view, page.tiles, page.plan.rows, page.plan.cols)]
    embeddings = embed_pages(tower, pages)[0]
    torch.testing.assert_close(embeddings, expected[f"{case['mode']}/image_embeds"], **CLOSE)


@torch.no_grad()
@each_case("encoder_*.json", lambda case: case["mode"] != "gundam")
def test_the_fast_resampler_stays_near(case, data, tower):
    """Pixels within 2/255 move random towers little: relative rms under 1 %."""
    expected = data.tensors(case.document)[f"{case['mode']}/image_embeds"]
    page = page_tensors(
        data.image(case.document["image"]), PageOptions(resolution(case["mode"]), "torch")
    )
    embeddings = embed_pages(tower, [PageViews(page.global_view, page.tiles, 1, 1)])[0]
    assert (embeddings - expected).square().mean() < 1e-4 * expected.square().mean()
