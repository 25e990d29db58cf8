"""A model in training -> a folder that serves, in the dtype of its origin, processor included.

Knows file names, nothing of steps. What a run needs to go on exactly, weights in the precision they
are trained in, lies apart from what serves.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.lora import base_model

STATE = "trainer_state.json"  # what the Trainer writes last into a checkpoint
MASTER = "master"  # folder of a checkpoint: the weights as they are trained


def save_checkpoint(
    model: nn.Module,
    processor: DeepseekOCRProcessor,
    folder: Path,
    dtype: torch.dtype,
    state: dict[str, Any] | None = None,
) -> None:
    """The whole model in `dtype`, or of adapters the adapter.

    state: its tensors, where they had to be gathered from several ranks.
    """
    if model is not base_model(model):
        model.save_pretrained(folder, state_dict=state)
        return
    state = model.state_dict() if state is None else state
    model.save_pretrained(folder, state_dict={n: _as(t, dtype) for n, t in state.items()})
    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_master(model: nn.Module, folder: Path) -> None:
    """The weights bit by bit, for `resume`."""
    (folder / MASTER).mkdir(exist_ok=True)
    save_model(model, str(folder / MASTER / "model.safetensors"))


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def stored_dtype(checkpoint: str) -> torch.dtype:
    """The dtype the weights of a checkpoint are stored in."""
    return DeepseekOCRForCausalLM.config_class.from_pretrained(checkpoint).dtype or torch.float32


def last_checkpoint(folder: Path) -> Path | None:
    """The newest one that is whole: a run may have been killed while it wrote another."""
    found = [(_steps(state), state.parent) for state in folder.glob(f"checkpoint-*/{STATE}")]
    steps, newest = max(found, default=(-1, None))
    return newest if steps >= 0 else None


def _steps(state: Path) -> int:
    """Steps done; -1 where the file, the last one of a checkpoint, was not written to its end."""
    try:
        return json.loads(state.read_text(encoding="utf-8"))["global_step"]
    except ValueError:
        return -1
