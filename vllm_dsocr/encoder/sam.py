"""SAM-ViT tower: normalised pixels (N, 3, S, S) -> feature map (N, C, q, q), q = ceil(S // 16 / 4).

Patch embedding, mostly windowed transformer blocks, neck, two stride-2 convolutions
(arXiv 2304.02643; compressor of arXiv 2510.18234). Parameter names are the checkpoint's.
Knows nothing of pages, tiles or dtype policy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_dsocr.config import PATCH_SIZE, SamSizes
from vllm_dsocr.encoder.attention import Forms, Grid
from vllm_dsocr.encoder.attention.grid import distances
from vllm_dsocr.encoder.positions import Constants, resize_grid

LAYER_NORM_EPS = 1e-6
MLP_RATIO = 4  # config.json's mlp_ratio (3.7362) is not what the checkpoint has


class PatchEmbed(nn.Module):
    """Pixels (N, 3, S, S) -> patches (N, S/16, S/16, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).permute(0, 2, 3, 1).contiguous()  # all blocks keep the layout


class Attention(nn.Module):
    """Multi-head attention over (N, side, side, width), in windows or (window 0) over all of it."""

    def __init__(self, sizes: SamSizes, window: int, forms: Forms) -> None:
        super().__init__()
        self.heads, self.window, self.forms = sizes.heads, window, forms
        side = window or sizes.pos_size // PATCH_SIZE
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, sizes.width // sizes.heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, sizes.width // sizes.heads))
        self.constants = Constants()

    def forward(self, x: Tensor) -> Tensor:
        # Windows are cut after the projection, so that padding costs no product: what the
        # projection makes of a zero is its bias.
        tables = self.constants(self.window or x.shape[1], self._tables)
        grid = Grid(self.qkv(x), self._of_zero(x), tables, self.heads, self.window)
        return self.proj(self.forms(grid))

    def _of_zero(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias
        # An offloaded bias is there only while its own module runs.
        return bias if bias.device == x.device else self.qkv(x.new_zeros(x.shape[-1]))

    def _tables(self, size: int) -> Tensor:
        return torch.stack([distances(table, size) for table in (self.rel_pos_h, self.rel_pos_w)])


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, MLP_RATIO * width)
        self.lin2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))


class Block(nn.Module):
    """Pre-norm transformer block; window 0 attends over the whole grid."""

    def __init__(self, sizes: SamSizes, window: int, forms: Forms) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(sizes, window, forms)
        self.norm2 = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (N, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, LAYER_NORM_EPS)
        return x.permute(0, 3, 1, 2)


class SamVit(nn.Module):
    """The whole tower; square views of any side that is a multiple of 16 px."""

    def __init__(self, sizes: SamSizes, forms: Forms | None = None) -> None:
        super().__init__()
        side, forms = sizes.pos_size // PATCH_SIZE, forms or Forms()
        neck, (mid, out) = sizes.neck_channels, sizes.downsample_channels
        self.forms = forms
        self.patch_embed = PatchEmbed(sizes.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, sizes.width))
        self.blocks = nn.ModuleList(
            Block(sizes, 0 if i in sizes.global_attn_indexes else sizes.window_size, forms)
            for i in range(sizes.layers)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(sizes.width, neck, kernel_size=1, bias=False),
            LayerNorm2d(neck),
            nn.Conv2d(neck, neck, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(neck),
        )
        self.net_2 = nn.Conv2d(neck, mid, kernel_size=3, stride=2, padding=1, bias=False)
        self.net_3 = nn.Conv2d(mid, out, kernel_size=3, stride=2, padding=1, bias=False)
        self.constants = Constants()

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        x = x + self.constants(x.shape[1], lambda side: resize_grid(self.pos_embed, side))
        for block in self.blocks:
            x = block(x)
        x = self.neck(x.permute(0, 3, 1, 2))
        return self.net_3(self.net_2(x))
