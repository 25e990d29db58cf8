"""Adapters of the decoder. vLLM's CPU build has none for experts, so the decoder here is dense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("vllm")

from vllm.lora.request import LoRARequest

from tests.plugin.engines import continuations, prompt, start

RANK, ALPHA = 4, 8
ADAPTED = [
    *(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"),
    *(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")),
]
Weights = dict[str, Tensor]


def dense_part(weights: Weights) -> Weights:
    """Vision and the first layer of the decoder, which has no experts; fp32."""
    later = ("model.layers.1.", "model.layers.2.")
    kept = {name: value for name, value in weights.items() if not name.startswith(later)}
    return {n: v.float() if v.is_floating_point() else v for n, v in kept.items()}


def write_checkpoint(path: Path, source: Path, weights: Weights) -> Path:
    shutil.copytree(source, path)
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    config["language_config"]["num_hidden_layers"] = config["num_hidden_layers"] = 1
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def write_adapter(path: Path, deltas: dict[str, tuple[Tensor, Tensor]]) -> Path:
    """In the layout of peft, with the official module names."""
    path.mkdir()
    tensors = {}
    for name, (down, up) in deltas.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    save_file(tensors, path / "adapter_model.safetensors")
    targets = sorted({name.rpartition(".")[2] for name in deltas})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def test_adapter_of_the_decoder_equals_merged_weights(
    checkpoint: Path, pages: dict[str, Image.Image], tmp_path: Path
) -> None:
    weights = dense_part(load_file(checkpoint / "model.safetensors"))
    generator = torch.Generator().manual_seed(0)
    deltas = {}
    for name in ADAPTED:
        rows, cols = weights[f"{name}.weight"].shape
        down = torch.randn(RANK, cols, generator=generator) / 5
        deltas[name] = down, torch.randn(rows, RANK, generator=generator) / 5
    merged = {
        f"{n}.weight": weights[f"{n}.weight"] + ALPHA / RANK * b @ a for n, (a, b) in deltas.items()
    }
    adapter = LoRARequest("a", 1, str(write_adapter(tmp_path / "adapter", deltas)))
    request = [prompt("<image>\nFree OCR.", pages["v3_small"], mode="tiny")]

    adapted = start(write_checkpoint(tmp_path / "plain", checkpoint, weights), enable_lora=True)
    baked = start(write_checkpoint(tmp_path / "merged", checkpoint, {**weights, **merged}))
    with_adapter = continuations(adapted, request, lora_request=adapter)
    assert with_adapter == continuations(baked, request)
    assert with_adapter != continuations(adapted, request)
