"""Model sizes, a page's TilePlan and the length of its text -> what reading that page takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_dsocr.config import VisionSizes
from vllm_dsocr.page.geometry import TilePlan
from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.sizes import ModelSizes
from vllm_dsocr.plan.vision_cost import executed_flops, view_flops, vision_parameters
from vllm_dsocr.plan.vision_memory import vision_peak

PROMPT_TOKENS = 12  # BOS and the words of the usual prompts


@dataclass(frozen=True, slots=True)
class PageCost:
    """vision, prefill, decode: FLOPs needed.  cache_bytes: of the KV cache of the complete text.

    vision_executed: what the encoder's kernels multiply for it on a GPU, see vision_cost.

    vision_bytes: of the encoder's tensors at their peak, for all pages it takes in one step.
    activation_bytes: the same, or an estimate of the prefill's where that is more.
    """

    image_tokens: int
    text_tokens: int
    vision: int
    vision_executed: int
    prefill: int
    decode: int
    cache_bytes: int
    vision_bytes: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Of the whole page."""
        return self.vision + self.prefill + self.decode

    @property
    def tokens(self) -> int:
        """Length of the sequence at its end."""
        return self.image_tokens + PROMPT_TOKENS + self.text_tokens


def page_cost(
    sizes: ModelSizes, plan: TilePlan, text_tokens: int, width: int = 2, pages: int = 1
) -> PageCost:
    """What one page takes; `width` bytes per number (2: bf16), `pages` encoded in one step."""
    decoder, prompt = sizes.decoder, plan.num_image_tokens + PROMPT_TOKENS
    vision_bytes = vision_peak(sizes.vision, plan, pages, width=width)
    return PageCost(
        image_tokens=plan.num_image_tokens,
        text_tokens=text_tokens,
        vision=encoder_flops(sizes, plan),
        vision_executed=_vision_flops(executed_flops, sizes, plan),
        prefill=decoder_cost.forward_flops(decoder, prompt),
        decode=_decode_flops(sizes, prompt, text_tokens),
        cache_bytes=width * (prompt + text_tokens) * decoder_cost.cache_numbers(decoder),
        vision_bytes=vision_bytes,
        activation_bytes=max(vision_bytes, width * _prefill_peak(sizes, prompt)),
    )


def model_bytes(sizes: ModelSizes, width: int = 2) -> int:
    """The weights."""
    return width * (decoder_cost.parameters(sizes.decoder) + vision_parameters(sizes.vision))


def encoder_flops(sizes: ModelSizes, plan: TilePlan) -> int:
    """Of all views of one page: what is needed."""
    return _vision_flops(view_flops, sizes, plan)


def _vision_flops(
    flops: Callable[[VisionSizes, int], int], sizes: ModelSizes, plan: TilePlan
) -> int:
    whole = flops(sizes.vision, plan.resolution.base_size)
    return whole + plan.num_tiles * flops(sizes.vision, plan.resolution.image_size)


def _decode_flops(sizes: ModelSizes, prompt: int, text_tokens: int) -> int:
    # The first token comes from the prefill; cost is linear in the past, so its mean will do.
    steps = max(0, text_tokens - 1)
    return steps * decoder_cost.forward_flops(sizes.decoder, 1, prompt + text_tokens // 2)


def _prefill_peak(sizes: ModelSizes, prompt: int) -> int:
    # Residual and norm, then gate and up of whichever feed-forward is widest.
    decoder = sizes.decoder
    experts = decoder.num_experts_per_tok + decoder.n_shared_experts
    widest = max(decoder.intermediate_size, experts * decoder.moe_intermediate_size)
    return prompt * (2 * decoder.hidden_size + 2 * widest)
