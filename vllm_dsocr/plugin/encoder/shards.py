"""Pages spread over tensor-parallel ranks: each encodes some, all get every page's embeddings.

For `mm_encoder_tp_mode=data`; without it every rank encodes every page. Weights of the encoder are
whole on every rank in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from vllm.distributed.communication_op import tensor_model_parallel_all_gather
from vllm.distributed.parallel_state import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)
from vllm.model_executor.models.vision import get_load_balance_assignment

from vllm_dsocr.config import PATCH_SIZE
from vllm_dsocr.encoder.assembly import PageViews, expected_tokens

Encode = Callable[[Sequence[PageViews]], list[Tensor]]


def num_patches(page: PageViews) -> int:
    """What the page costs the encoder."""
    return (page.global_view[0].numel() + page.tiles[:, 0].numel()) // PATCH_SIZE**2


def encode_sharded(encode: Encode, pages: Sequence[PageViews], like: Tensor) -> list[Tensor]:
    """(num_image_tokens, D) per page, in order, on every rank; like: any (D,) of the result."""
    ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
    order, counts, _ = get_load_balance_assignment([num_patches(p) for p in pages], ranks)
    starts = [sum(counts[:r]) for r in range(ranks + 1)]
    shares = [order[starts[r] : starts[r + 1]] for r in range(ranks)]
    tokens = [expected_tokens(page) for page in pages]
    longest = max(sum(tokens[i] for i in share) for share in shares)
    own = like.new_zeros(longest, like.shape[-1])
    if shares[rank]:
        encoded = torch.cat(encode([pages[i] for i in shares[rank]]))
        own[: len(encoded)] = encoded
    gathered = tensor_model_parallel_all_gather(own, dim=0).split(longest)
    result: dict[int, Tensor] = {}
    for share, part in zip(shares, gathered, strict=True):
        parts = part[: sum(tokens[i] for i in share)].split([tokens[i] for i in share])
        result |= dict(zip(share, parts, strict=True))
    return [result[i] for i in range(len(pages))]
