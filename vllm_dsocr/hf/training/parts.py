"""Names of parameters -> the parts of the model that learn, and what they keep for the way back.

Knows the model's names, nothing of data or of the Trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch.utils.checkpoint import checkpoint

from vllm_dsocr.hf.model import DeepseekOCRForCausalLM

PARTS = ("vision", "projector", "language")
# Prefixes of parameter names; newline and separator embeddings belong to what joins the parts.
VISION = ("model.sam_model.", "model.vision_model.")
PROJECTOR = ("model.projector.", "model.image_newline", "model.view_seperator")
NEVER_USED = "model.vision_model.embeddings.patch_embedding."


def part_of(name: str) -> str:
    """`vision`, `projector` or `language`, by the name of a parameter, adapters included."""
    name = name.removeprefix("base_model.model.")
    if name.startswith(VISION):
        return "vision"
    return "projector" if name.startswith(PROJECTOR) else "language"


def freeze(model: DeepseekOCRForCausalLM, parts: Sequence[str]) -> None:
    """Lets all parts learn but these; what no pass uses never does."""
    for name, parameter in model.named_parameters():
        learns = part_of(name) not in parts and not name.startswith(NEVER_USED)
        parameter.requires_grad_(learns)


def checkpoint_towers(model: DeepseekOCRForCausalLM) -> None:
    """Makes the blocks of both towers forget their activations and compute them again.

    `gradient_checkpointing_enable` of transformers does so for the decoder only.
    """
    towers = model.model.sam_model.blocks, model.model.vision_model.transformer.layers
    for block in (block for tower in towers for block in tower):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
