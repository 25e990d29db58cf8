"""A checkpoint so small that hundreds of pages are read within a minute; what it says is noise.

The noise depends on the page, which is all that a test of where pages go has to know.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM

TINY = Path(__file__).parents[1] / "data" / "tiny-random"
_STEEP = 25.0  # weights that large make different pages give different text


def smallest_checkpoint(folder: Path) -> Path:
    """A folder with random weights of one layer a part, and the tiny checkpoint's tokenizer."""
    config = json.loads((TINY / "config.json").read_text())
    widths = config["vision_config"]["width"]
    widths["sam_vit_b"] |= {"layers": 1, "global_attn_indexes": []}
    widths["clip-l-14-224"] |= {"layers": 1}
    for part in (config, config["language_config"]):
        part |= {"num_hidden_layers": 1}
    torch.manual_seed(0)
    model = DeepseekOCRForCausalLM(DeepseekOCRConfig.from_dict(config))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(_STEEP)
    folder.mkdir()
    model.save_pretrained(folder)
    for path in TINY.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, folder)
    return folder
