"""CLIP-ViT tower over SAM features: (N, C, q, q) -> (N, 1 + q*q, C), class token first.

The transformer of CLIP ViT-L (arXiv 2103.00020) without its final norm; SAM's map takes the place
of its own patches, whose embedding stays in the checkpoint unused. Parameter names are the
checkpoint's, misspellings included. Knows nothing of pages or tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vllm_dsocr.config import ClipSizes
from vllm_dsocr.encoder.attention import attend
from vllm_dsocr.encoder.positions import Constants, resize_grid

LAYER_NORM_EPS = 1e-5
MLP_RATIO = 4


class Embeddings(nn.Module):
    """Puts the class token before the patches and adds positions."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        positions = (sizes.image_size // sizes.patch_size) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.zeros(sizes.width))
        self.patch_embedding = nn.Conv2d(
            3, sizes.width, kernel_size=sizes.patch_size, stride=sizes.patch_size, bias=False
        )
        self.patch_embedding.requires_grad_(False)  # never used
        self.position_embedding = nn.Embedding(positions, sizes.width)
        self.register_buffer("position_ids", torch.arange(positions)[None])
        self.constants = Constants()

    def forward(self, features: Tensor) -> Tensor:
        patches = features.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        side = features.shape[-1]
        return torch.cat((first, patches), dim=1) + self.constants(side, self._positions)

    def _positions(self, side: int) -> Tensor:
        # Asked for and not read: where weights are offloaded they come for a module's own pass.
        table = self.position_embedding(self.position_ids[0])
        own_side = int((table.shape[0] - 1) ** 0.5)
        grid = resize_grid(table[1:].view(1, own_side, own_side, -1), side)
        return torch.cat((table[:1], grid.flatten(0, 2)))[None]


class Attention(nn.Module):
    def __init__(self, sizes: ClipSizes, backend: str) -> None:
        super().__init__()
        self.heads, self.backend = sizes.heads, backend
        self.qkv_proj = nn.Linear(sizes.width, 3 * sizes.width)
        self.out_proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, tokens, d)
        out = attend(q, k, v, None, self.backend)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # CLIP's quick GELU


class Block(nn.Module):
    def __init__(self, sizes: ClipSizes, backend: str) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.self_attn = Attention(sizes, backend)
        self.layer_norm2 = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Transformer(nn.Module):
    def __init__(self, sizes: ClipSizes, backend: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(sizes, backend) for _ in range(sizes.layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ClipVit(nn.Module):
    """The whole tower."""

    def __init__(self, sizes: ClipSizes, backend: str = "sdpa") -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.pre_layrnorm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.transformer = Transformer(sizes, backend)

    def forward(self, features: Tensor) -> Tensor:
        return self.transformer(self.pre_layrnorm(self.embeddings(features)))
