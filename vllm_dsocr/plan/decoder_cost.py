"""Sizes of the decoder and numbers of tokens -> FLOPs, parameters, bytes of the KV cache.

FLOPs as torch counts them: two per multiplication and addition, attention over the whole square.
Knows nothing of pages or GPUs.
"""

from __future__ import annotations

from vllm_dsocr.plan.sizes import DecoderSizes


def forward_flops(sizes: DecoderSizes, new: int, past: int = 0, logits: int = 1) -> int:
    """`new` tokens after `past` cached ones; `logits` positions go through the head."""
    maps = 2 * new * (active_parameters(sizes) - _norms(sizes))
    width = sizes.num_attention_heads * sizes.head_size
    attention = 4 * new * (new + past) * width * sizes.num_hidden_layers
    return maps + attention + 2 * logits * sizes.hidden_size * sizes.vocab_size


def parameters(sizes: DecoderSizes) -> int:
    """All numbers, embedding and head included."""
    tables = 2 * sizes.vocab_size * sizes.hidden_size
    return tables + _always(sizes) + sizes.num_moe_layers * sizes.n_routed_experts * _expert(sizes)


def active_parameters(sizes: DecoderSizes) -> int:
    """Numbers one token meets, without embedding and head."""
    chosen = sizes.num_moe_layers * sizes.num_experts_per_tok * _expert(sizes)
    return _always(sizes) + chosen


def touched_parameters(sizes: DecoderSizes, batch: int) -> float:
    """Numbers read from memory in a step of `batch` tokens whose experts are drawn evenly."""
    share = 1 - (1 - sizes.num_experts_per_tok / sizes.n_routed_experts) ** batch
    routed = sizes.num_moe_layers * sizes.n_routed_experts * _expert(sizes)
    return _always(sizes) + sizes.vocab_size * sizes.hidden_size + share * routed


def cache_numbers(sizes: DecoderSizes) -> int:
    """Numbers in the KV cache per token."""
    return 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_size


def _always(sizes: DecoderSizes) -> int:
    """Attention, norms, dense layers, routers and shared experts."""
    hidden = sizes.hidden_size
    heads = 2 * sizes.num_attention_heads + 2 * sizes.num_key_value_heads
    attention = sizes.num_hidden_layers * heads * sizes.head_size * hidden
    dense = sizes.num_dense_layers * 3 * hidden * sizes.intermediate_size
    shared = sizes.n_shared_experts * _expert(sizes)
    moe = sizes.num_moe_layers * (hidden * sizes.n_routed_experts + shared)
    return attention + dense + moe + _norms(sizes)


def _norms(sizes: DecoderSizes) -> int:
    return (2 * sizes.num_hidden_layers + 1) * sizes.hidden_size


def _expert(sizes: DecoderSizes) -> int:
    return 3 * sizes.hidden_size * sizes.moe_intermediate_size
