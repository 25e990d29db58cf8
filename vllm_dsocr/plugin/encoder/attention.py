"""Which attention the vision encoder takes under vLLM: what a flag says, else what was measured.

    --mm-encoder-attn-backend, the switch `attention` -> form and kernel, or AUTO
    AUTO -> every form tried at start -> by shape the fastest that is right

Measuring happens once, when the model is made and before vLLM profiles its memory; rank 0 decides
for all ranks of its tensor-parallel group, so that their numbers agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed.parallel_state import get_tp_group, model_parallel_is_initialized
from vllm.logger import init_logger
from vllm.platforms import current_platform

from vllm_dsocr.config import SamSizes
from vllm_dsocr.encoder.attention import AUTO, FORMS, PLAIN, Form, Forms, Grid
from vllm_dsocr.encoder.attention.channels import as_channels
from vllm_dsocr.encoder.attention.choice import Trial, fastest, try_forms
from vllm_dsocr.encoder.attention.forms import by_head
from vllm_dsocr.encoder.attention.fused import HALF
from vllm_dsocr.plugin.setup.switches import SECTION, switches

logger = init_logger(f"vllm.{__name__}")  # vLLM shows its own loggers only

MOST_FLASH_DIM = 256


class Attention(NamedTuple):
    """Names of SAM's form, AUTO to measure, and of CLIP's kernel."""

    form: str
    plain: str


# What the flag's names mean here; None is no flag.
BACKENDS = {
    None: Attention(AUTO, "sdpa"),
    "TORCH_SDPA": Attention("channels", "sdpa"),
    "TRITON_ATTN": Attention("fused-128", "sdpa"),
    "FLASH_ATTN": Attention("channels-flash", "flash_attn"),
}


def wanted(vllm_config: VllmConfig) -> Attention:
    """What the flags ask for. Raises ValueError for names that mean nothing here."""
    multimodal = vllm_config.model_config.multimodal_config
    named = multimodal.mm_encoder_attn_backend if multimodal else None
    name = None if named is None else named.name
    if name not in BACKENDS:
        known = ", ".join(sorted(key for key in BACKENDS if key))
        raise ValueError(
            f"--mm-encoder-attn-backend {name} is none that DeepSeek-OCR's encoder has; "
            f"it has {known}, and measures without the flag"
        )
    if name == "FLASH_ATTN" and not current_platform.is_cuda_alike():
        raise ValueError("--mm-encoder-attn-backend FLASH_ATTN needs a GPU")
    form = switches(vllm_config.additional_config).attention or BACKENDS[name].form
    register_forms()
    if form != AUTO and form not in FORMS:
        known = ", ".join((AUTO, *FORMS))
        raise ValueError(
            f"additional_config: {SECTION}.attention must be one of {known}, got {form!r}"
        )
    return Attention(form, BACKENDS[name].plain)


def register_forms() -> None:
    """Add what vLLM brings: its bundled flash-attn, and its own kernel for global attention."""
    PLAIN["flash_attn"] = bundled_flash
    flash = by_head(partial(as_channels, backend="flash_attn", tokens_first=True))
    FORMS.setdefault("channels-flash", Form(flash, _flash_fits))
    FORMS.setdefault("vllm", Form(by_head(vllm_kernel), _vllm_fits))


def bundled_flash(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """vLLM's own flash-attn; q, k, v: (B, heads, N, d)."""
    from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
    from vllm.v1.attention.ops.vit_attn_wrappers import vit_flash_attn_wrapper

    tokens_first = (t.transpose(1, 2).contiguous() for t in (q, k, v))  # CLIP's are copied
    version = get_flash_attn_version(head_size=q.shape[-1])
    return vit_flash_attn_wrapper(*tokens_first, len(q), False, version, scale).transpose(1, 2)


def vllm_kernel(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """vLLM's fused kernel, which takes the scores of positions ready made."""
    from vllm.model_executor.models.deepencoder import deepencoder_rel_pos_attention

    scale = q.shape[-1] ** -0.5
    return deepencoder_rel_pos_attention(q, k, v, rel_h, rel_w, rel_w.shape[-1], scale)


def _flash_fits(grid: Grid) -> bool:
    room = grid.head_dim + 2 * grid.size
    return grid.qkv.is_cuda and grid.qkv.dtype in HALF and room <= MOST_FLASH_DIM


def _vllm_fits(grid: Grid) -> bool:
    from vllm.triton_utils import HAS_TRITON

    power_of_two = grid.head_dim & (grid.head_dim - 1) == 0
    return HAS_TRITON and grid.qkv.is_cuda and grid.qkv.dtype in HALF and power_of_two


def choose(forms: Forms, sizes: SamSizes, sides: Iterable[int], like: Tensor) -> list[Trial]:
    """Fill `forms` for views of `sides` px, on the device and in the dtype of `like`.

    Nothing is measured where a form is named. All ranks of a group must call it.
    """
    if forms.name != AUTO or like.is_meta:
        return []
    trials = try_forms(sizes, sides, like.device, like.dtype)
    chosen = fastest(trials)
    if model_parallel_is_initialized():
        chosen = get_tp_group().broadcast_object(chosen, src=0)
    forms.chosen.update(chosen)
    logger.info("Attention of the vision encoder: %s.", described(forms, trials))
    if like.is_cuda:
        torch.cuda.empty_cache()
    return trials


def described(forms: Forms, trials: Iterable[Trial] = ()) -> str:
    """What serves each shape, with its time and those of the others where they were measured."""
    if forms.name != AUTO:
        return f"{forms.name}, as named"
    if not forms.chosen:
        return "the usual form of the device"
    shapes = []
    for (side, window), form in forms.chosen.items():
        name = f"windows of {window}" if window else f"{side} x {side}"
        tried = [t for t in trials if t.shape == (side, window)]
        times = ", ".join(
            f"{t.form} {t.seconds * 1e3:.2f} ms" if t.seconds else f"{t.form} {t.note}"
            for t in tried
        )
        shapes.append(f"{name} {form}" + (f" ({times})" if times else ""))
    return "; ".join(shapes)


def in_force(vllm_config: VllmConfig) -> str:
    """A sentence for reports: what the flags ask for, before a server has started."""
    attention = wanted(vllm_config)
    if attention.form == AUTO:
        return "measured at start; the fastest form that agrees with the definition serves"
    return f"{attention.form} over patches, {attention.plain} over tokens, as named"
