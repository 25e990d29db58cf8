"""The training pass: the model's own weights, run on page strips, giving what training needs.

    strip -> patches -> SAM blocks -> neck (fine features) -> convolutions -> CLIP -> projector
          -> rows with newlines -> decoder layers -> hidden states and attention probabilities

Two things differ from `DeepseekOCRForCausalLM.forward`, neither in the result for a full page: a
strip is a full-width band of a 640 px page and takes its band of the position tables, so that what
cheap strips teach holds for the page; experts and attention run dense, with probabilities kept.
Strips are as high as whole attention windows, and no block attends over the whole page: the
convolutions and CLIP join the windows. Knows nothing of losses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_dsocr.config import DOWNSAMPLE_RATIO, PATCH_SIZE
from vllm_dsocr.hf import DeepseekOCRForCausalLM


class Features(NamedTuple):
    """fine: (B, h, w, neck) per 16 px; coarse: (B, h/4, w/4, D) per 64 px, for the decoder."""

    fine: Tensor
    coarse: Tensor


class Decoded(NamedTuple):
    """hidden: per layer (B, S, D), the last one normed; probs: per layer (B, heads, S, S);
    balance: the routers' load balance loss."""

    hidden: list[Tensor]
    probs: list[Tensor]
    balance: Tensor


def encode_strips(
    model: DeepseekOCRForCausalLM, strips: Tensor, top: int, frozen: bool = False
) -> Features:
    """Normalised grey strips (B, H, 640) lying `top` px below the page's upper edge -> features.

    frozen: no gradient reaches what makes the fine features.
    """
    sam, tower = model.model.sam_model, model.model
    window = model.config.vision_sizes.sam.window_size
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        x, grid = _window_patches(sam, strips, top // PATCH_SIZE, window)
        for block in sam.blocks:
            x = x + _window_attention(block.attn, block.norm1(x), window)
            x = x + block.mlp(block.norm2(x))
        fine = sam.neck(_to_raster(x, grid, window).permute(0, 3, 1, 2))
    features = sam.net_3(sam.net_2(fine))
    local = features.flatten(2).transpose(1, 2)
    row = top // (PATCH_SIZE * DOWNSAMPLE_RATIO)
    both = torch.cat((_clip(tower.vision_model, local, features.shape[2:], row), local), dim=-1)
    coarse = tower.projector(both).unflatten(1, features.shape[2:])
    return Features(fine.permute(0, 2, 3, 1), coarse)


def _window_patches(
    sam: nn.Module, strips: Tensor, row: int, window: int
) -> tuple[Tensor, tuple[int, int]]:
    """(B, H, W) -> (B * windows, window * window, width) with positions, and the grid (h, w)."""
    batch, height, width = strips.shape
    grid = (height // PATCH_SIZE, width // PATCH_SIZE)
    cut = strips.view(batch, -1, window, PATCH_SIZE, grid[1] // window, window, PATCH_SIZE)
    patches = cut.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(0, 2)
    proj = sam.patch_embed.proj
    # Grey pixels fill all three channels.
    x = F.linear(patches, proj.weight.sum(1).flatten(1), proj.bias)
    position = sam.pos_embed[:, row : row + grid[0], : grid[1]]
    position = _to_windows(position, window)
    return (x.unflatten(0, (batch, -1)) + position).flatten(0, 1), grid


def _to_windows(x: Tensor, window: int) -> Tensor:
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)
    return x.flatten(3, 4).flatten(0, 2)


def _to_raster(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """(B * windows, window * window, C) -> (B, h, w, C)."""
    counts = (-1, grid[0] // window, grid[1] // window)
    x = x.unflatten(0, counts).unflatten(3, (window, window)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def _window_attention(attn: nn.Module, x: Tensor, window: int) -> Tensor:
    """(N, window * window, C) -> the same; relative positions are extra features of q and k."""
    q, k, v = attn.qkv(x).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    cells = q.unflatten(2, (window, window))
    rel_h = torch.einsum("bnhwd,hkd->bnhwk", cells, _relative(attn.rel_pos_h, window)).flatten(2, 3)
    rel_w = torch.einsum("bnhwd,wkd->bnhwk", cells, _relative(attn.rel_pos_w, window)).flatten(2, 3)
    eye = torch.eye(window, dtype=k.dtype)
    places = torch.cat((eye.repeat_interleave(window, 0), eye.repeat(window, 1)), dim=-1)
    q = torch.cat((q * q.shape[-1] ** -0.5, rel_h, rel_w), dim=-1)
    k = torch.cat((k, places.expand(*k.shape[:2], -1, -1)), dim=-1)
    probs = (q @ k.transpose(-1, -2)).softmax(-1)
    return attn.proj((probs @ v).transpose(1, 2).flatten(2))


def _relative(table: Tensor, size: int) -> Tensor:
    """A table of distances -> (size, size, d), entry [query, key]."""
    index = torch.arange(size)
    return table[index[:, None] - index[None, :] + size - 1]


def _clip(clip: nn.Module, local: Tensor, grid: torch.Size, row: int) -> Tensor:
    table = clip.embeddings.position_embedding.weight
    first = clip.embeddings.class_embedding + table[0]
    local = local + table[1 + row * grid[1] :][: local.shape[1]]
    x = torch.cat((first.expand(local.shape[0], 1, -1), local), dim=1)
    return clip.transformer(clip.pre_layrnorm(x))[:, 1:]


def page_embeddings(model: DeepseekOCRForCausalLM, coarse: Tensor) -> Tensor:
    """(B, rows, cols, D) -> (B, rows * (cols + 1) + 1, D): newline per row, separator."""
    batch, rows = coarse.shape[:2]
    newline = model.model.image_newline.expand(batch, rows, 1, -1)
    separator = model.model.view_seperator.expand(batch, 1, -1)
    return torch.cat((torch.cat((coarse, newline), dim=2).flatten(1, 2), separator), dim=1)


def decode(model: DeepseekOCRForCausalLM, x: Tensor) -> Decoded:
    """Embeddings (B, S, D) -> hidden states of every layer and how each one attended."""
    rotary = _rotary(model, x)
    hidden, probs, balance = [], [], x.new_zeros((), dtype=torch.float32)
    for layer in model.model.layers:
        attended, p = _causal_attention(layer.self_attn, _norm(layer.input_layernorm, x), rotary)
        x = x + attended
        y, load = _feed_forward(layer.mlp, _norm(layer.post_attention_layernorm, x))
        x, balance = x + y, balance + load
        hidden.append(x)
        probs.append(p)
    hidden[-1] = _norm(model.model.norm, x)
    return Decoded(hidden, probs, balance)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


def _rotary(model: DeepseekOCRForCausalLM, x: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = model.model.rotary_emb(x, torch.arange(x.shape[1])[None])
    return cos[:, None], sin[:, None]


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rotary[0] + torch.cat((-second, first), dim=-1) * rotary[1]


def _causal_attention(
    attn: nn.Module, x: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    q, k, v = (
        proj(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
        for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    scores = _rotate(q * attn.head_dim**-0.5, rotary) @ _rotate(k, rotary).transpose(-1, -2)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    probs = scores.masked_fill(future, float("-inf")).softmax(-1)
    return attn.o_proj((probs @ v).transpose(1, 2).flatten(2)), probs


def _feed_forward(mlp: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | float]:
    if not hasattr(mlp, "experts"):
        return mlp(x), 0.0
    scores, weights, chosen = mlp.gate(x)
    scores = scores.flatten(0, 1)
    dense = torch.zeros_like(scores).scatter(1, chosen, weights)
    parts = [*mlp.experts, mlp.shared_experts]
    gate, up = (torch.cat([getattr(p, n).weight for p in parts]) for n in ("gate_proj", "up_proj"))
    down = torch.cat([p.down_proj.weight for p in parts], dim=1)
    inner = F.silu(F.linear(x, gate)) * F.linear(x, up)
    size = mlp.experts[0].gate_proj.out_features
    shares = dense.to(x.dtype).view(*x.shape[:-1], -1).repeat_interleave(size, dim=-1)
    inner = torch.cat((inner[..., : shares.shape[-1]] * shares, inner[..., shares.shape[-1] :]), -1)
    used = (dense > 0).float().mean(0)
    return F.linear(inner, down), scores.shape[-1] * (used * scores.mean(0)).sum()
