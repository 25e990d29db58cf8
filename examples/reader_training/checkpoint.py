"""The bundled reader's sizes -> an untrained model, and a trained model -> a checkpoint folder.

Files and tensor names are the official layout, so that vLLM and transformers load the folder like
the published checkpoint. Knows nothing of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vllm_dsocr.config import ARCHITECTURE, IMAGE_TOKEN, PAD_TOKEN, PATCH_SIZE
from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM

from .tokenizer import BOS_ID, EOS_ID, VOCAB_SIZE, write_json, write_tokenizer

DECODER = {
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "first_k_dense_replace": 1,
    "hidden_size": 256,
    "intermediate_size": 512,
    "kv_lora_rank": None,
    "lm_head": True,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 128,
    "n_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "rm_head": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "use_mla": False,
    "v_head_dim": 0,
    "vocab_size": VOCAB_SIZE,
}
SAM = {
    "downsample_channels": [192, 256],
    "global_attn_indexes": [],
    "heads": 4,
    "layers": 4,
    "neck_channels": 128,
    "width": 128,
    "window_size": 8,
}
CLIP = {"heads": 4, "image_size": 140, "layers": 2, "patch_size": 14, "width": 256}
VISION = {
    "image_size": 640,
    "mlp_ratio": 3.7362,
    "model_name": "deeplip_b_l",
    "model_type": "vision",
    "width": {"clip-l-14-224": CLIP, "sam_vit_b": SAM},
}
PROJECTOR = {
    "input_dim": 512,
    "model_type": "mlp_projector",
    "n_embed": 256,
    "projector_type": "linear",
}


def config_json() -> dict[str, Any]:
    """The reader's config.json."""
    return {
        "architectures": [ARCHITECTURE],
        "global_view_pos": "head",
        "language_config": {
            "architectures": ["DeepseekV2ForCausalLM"],
            **DECODER,
            "torch_dtype": "bfloat16",
        },
        "model_type": "deepseek_vl_v2",
        "projector_config": PROJECTOR,
        "tile_tag": "2D",
        "torch_dtype": "bfloat16",
        "vision_config": VISION,
        **DECODER,
    }


def processor_json() -> dict[str, Any]:
    """The reader's processor_config.json; `mode` names the resolution it was trained at."""
    return {
        "add_special_token": False,
        "downsample_ratio": 4,
        "ignore_id": -100,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_token": IMAGE_TOKEN,
        "mask_prompt": False,
        "mode": "small",
        "normalize": True,
        "pad_token": PAD_TOKEN,
        "patch_size": PATCH_SIZE,
        "processor_class": "DeepseekVLV2Processor",
        "sft_format": "deepseek",
    }


def new_model() -> DeepseekOCRForCausalLM:
    """The untrained reader in fp32."""
    settings = config_json()
    settings.pop("torch_dtype")
    return DeepseekOCRForCausalLM(DeepseekOCRConfig(**settings))


def save_checkpoint(state: dict[str, Tensor], folder: Path) -> None:
    """Write weights (floats as bf16, official names) and every file a server needs."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (t.to(torch.bfloat16) if t.is_floating_point() else t).contiguous()
        for name, t in state.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config_json())
    write_json(folder / "processor_config.json", processor_json())
    ends = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
    write_tokenizer(folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of `save_checkpoint`, in fp32."""
    weights = load_file(folder / "model.safetensors")
    return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}
