"""The encoder on this device against reference data of the official code, stage by stage, in fp32.

Golden tensors of `tests/data` (or DSOCR_PARITY_DATA) and the checkpoint they were made with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.gpu.bench import Bench, Row, relative_rms
from vllm_dsocr.config import MODES, PageOptions, VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.source import open_image

DATA = Path(os.environ.get("DSOCR_PARITY_DATA", Path(__file__).parents[2] / "tests" / "data"))
MOST_RMS = 1e-4
PREFIX = "model."
PARTS = ("sam_model.", "vision_model.", "projector.", "image_newline", "view_seperator")


@torch.inference_mode()
def run(bench: Bench) -> Iterator[Row]:
    """One row per mode that the data hold."""
    (weights,) = DATA.glob("*/model.safetensors")
    tower = tower_of(weights.parent).to(bench.device)
    for path in sorted((DATA / "golden").glob("encoder_*.json")):
        document = json.loads(path.read_text())
        expected = load_file(path.with_name(document["tensors"]))
        image = open_image(DATA / document["image"])
        for case in document["cases"]:
            options = PageOptions(MODES[case["mode"]], resampler="pillow")
            page = page_tensors(image, options)
            views = PageViews(page.global_view, page.tiles, page.plan.rows, page.plan.cols)
            want = expected[f"{case['mode']}/image_embeds"]
            error = relative_rms(embed_pages(tower, [views])[0].cpu(), want)
            name = f"official embeddings, {path.stem.removeprefix('encoder_')}: {case['mode']}"
            yield Row(name, error=error, allowed=MOST_RMS)


def tower_of(checkpoint: Path) -> nn.Module:
    """Its vision part in fp32."""
    config = json.loads((checkpoint / "config.json").read_text())
    sizes = VisionSizes.from_config(config["vision_config"], config["projector_config"])
    tower = nn.Module()
    build_vision_tower(tower, sizes)
    stored = load_file(checkpoint / "model.safetensors")
    named = {name.removeprefix(PREFIX): tensor.float() for name, tensor in stored.items()}
    tower.load_state_dict({k: v for k, v in named.items() if k.startswith(PARTS)}, strict=False)
    return tower.eval()
