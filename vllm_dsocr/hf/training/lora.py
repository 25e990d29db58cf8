"""Adapters on parts of the model, and adapters merged into a full checkpoint, with PEFT.

Knows PEFT and this model; which names vLLM takes is `adapter_names.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import BitsAndBytesConfig

from vllm_dsocr.adapter_names import WEIGHTS_NAME, split_name
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor

_LAYER = r"model\.layers\.\d+"
_TOWERS = (
    r"model\.sam_model\.blocks\.\d+\.(attn|mlp)\.\w+",
    r"model\.vision_model\.transformer\.layers\.\d+\.(self_attn|mlp)\.\w+",
)
# What a part means, as patterns of module names. vLLM serves the first two.
LORA_PARTS = {
    "language": rf"{_LAYER}\.(self_attn|mlp|mlp\.shared_experts)\.\w+_proj",
    "experts": rf"{_LAYER}\.mlp\.experts\.\d+\.\w+_proj",
    "projector": r"model\.projector\.layers",
    "vision": "|".join(_TOWERS),
}


# What the weights below the adapters are kept in. 4bit is NF4 of bitsandbytes (QLoRA).
BASES = ("float32", "bfloat16", "4bit")
# Left as they are by 4bit: what is read outside its module, small, or most sensitive.
NOT_IN_4_BIT = ["lm_head", "gate", "sam_model", "vision_model", "projector"]


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """parts: keys of LORA_PARTS. The update is weighted with alpha / rank, rslora: / sqrt(rank).

    target_modules: names, a pattern or `all-linear` instead of parts.  dora: with a magnitude.
    modules_to_save: modules that are trained whole and saved with the adapter.
    base: one of BASES.  adapter: go on from this one, whose own settings hold.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    parts: tuple[str, ...] = ("language",)
    target_modules: tuple[str, ...] | str | None = None
    modules_to_save: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False
    base: str = BASES[0]
    adapter: str | None = None


def loading(settings: LoraSettings) -> dict[str, Any]:
    """Arguments of `from_pretrained` for the base. Raises ImportError with the install hint."""
    if settings.base != "4bit":
        return {"dtype": getattr(torch, settings.base)}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError("4bit needs bitsandbytes: pip install 'vllm-dsocr[qlora]'") from error
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=NOT_IN_4_BIT,
    )
    return {"dtype": dtype, "quantization_config": quantized}


def add_lora(model: DeepseekOCRForCausalLM, settings: LoraSettings) -> torch.nn.Module:
    """The model with adapters, which alone learn. Raises ImportError with the install hint."""
    peft = _peft()
    if settings.adapter:
        return peft.PeftModel.from_pretrained(model, settings.adapter, is_trainable=True)
    target = settings.target_modules
    if target is None:
        target = "|".join(f"({LORA_PARTS[part]})" for part in settings.parts)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target if isinstance(target, str) else list(target),
        modules_to_save=list(settings.modules_to_save) or None,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
    )
    return peft.get_peft_model(model, config)


def base_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model under the adapters, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_with_adapter(adapter: Path, base: str | None = None) -> torch.nn.Module:
    """The base checkpoint in its own dtype with the adapter on it, whatever its names are like.

    base: by default the one the adapter names. Raises ValueError for tensors without a place.
    """
    peft = _peft()
    config = peft.LoraConfig.from_pretrained(str(adapter))
    model = DeepseekOCRForCausalLM.from_pretrained(
        base or config.base_model_name_or_path, dtype="auto"
    )
    if _is_of_this_model(adapter):
        return peft.PeftModel.from_pretrained(model, str(adapter))
    tensors, modules = _renamed(adapter)
    # The list of what is there, since a pattern was made for the names of another training code.
    config.target_modules = modules
    adapted = peft.get_peft_model(model, config)
    left = peft.set_peft_model_state_dict(adapted, tensors).unexpected_keys
    if left:
        raise ValueError(f"the model has no place for {left[0]} and {len(left) - 1} more tensors")
    return adapted


def merge(adapter: Path, output: Path, base: str | None = None) -> None:
    """Writes a full checkpoint: the base with the adapter worked into its weights."""
    adapted = load_with_adapter(adapter, base)
    source = adapted.get_base_model().name_or_path
    adapted.merge_and_unload().save_pretrained(output)
    DeepseekOCRProcessor.from_pretrained(source).save_pretrained(output)


def _is_of_this_model(adapter: Path) -> bool:
    """Do all tensors have the names that PEFT gives them for this model?"""
    with safe_open(adapter / WEIGHTS_NAME, "pt") as file:
        names = list(file.keys())
    own = ("base_model.model.model.", "base_model.model.lm_head.")
    return all(n.startswith(own) and ".default" not in n for n in names) and not any(
        n.startswith(f"{own[0]}language_model.") for n in names
    )


def _renamed(adapter: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under PEFT's names for this model, and the modules they belong to."""
    tensors, modules = {}, set()
    for name, tensor in load_file(adapter / WEIGHTS_NAME).items():
        module, kind = split_name(name)
        tensors[f"base_model.model.{module}.{kind}"] = tensor
        modules.add(module)
    return tensors, sorted(modules)


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'vllm-dsocr[train]'") from error
    return peft
