"""What one block of SAM attends over, and the same laid out head by head.

Grid -> by_head -> q, k, v, rel_h, rel_w -> some attention -> to_patches -> (N, side, side, width)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_dsocr.encoder.windows import from_windows, to_windows


@dataclass
class Grid:
    """Projected patches and what their attention needs beside them.

    qkv: (N, side, side, 3 * heads * d), queries, keys, values. fill: (3 * heads * d,), what the
    projection makes of the padding of windows, its bias. tables: (2, 2 * size - 1, d), embeddings
    of distances between rows and between columns, `distances` made them. window: 0 for attention
    over the whole grid.
    """

    qkv: Tensor
    fill: Tensor
    tables: Tensor
    heads: int
    window: int = 0

    def take(self) -> Tensor:
        """The projection, which the grid holds no longer: once cut or copied, it is to be free."""
        qkv = self.qkv
        del self.qkv
        return qkv

    @property
    def side(self) -> int:
        return self.qkv.shape[1]

    @property
    def size(self) -> int:
        """Patches along a side of what attends together."""
        return self.window or self.side

    @property
    def head_dim(self) -> int:
        return self.tables.shape[-1]

    @property
    def trains(self) -> bool:
        """Whether gradients are asked for."""
        return torch.is_grad_enabled() and (self.qkv.requires_grad or self.tables.requires_grad)


ByHead = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def distances(table: Tensor, size: int) -> Tensor:
    """(L, d) embeddings of relative distances -> (2 * size - 1, d).

    A table made for another size is resized linearly in fp32, as the official code does.
    """
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    resized = F.interpolate(table.float().T[None], size=length, mode="linear")
    return resized[0].T.to(table.dtype)


def relative_table(table: Tensor, size: int) -> Tensor:
    """(2 * size - 1, d) -> (size, size, d), entry [query, key]."""
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def relative_scores(q: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of every query against every key row and column.

    q: (B, heads, size*size, d), unscaled. Returns rel_h, rel_w: (B, heads, size*size, size).
    """
    size = (tables.shape[1] + 1) // 2
    grid = q.unflatten(2, (size, size))
    rel_h = torch.einsum("bnhwd,hkd->bnhwk", grid, relative_table(tables[0], size))
    rel_w = torch.einsum("bnhwd,wkd->bnhwk", grid, relative_table(tables[1], size))
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def head_by_head(grid: Grid, attention: ByHead) -> Tensor:
    """(N, side, side, width) by an attention that wants its heads apart and windows cut.

    It is given q, k, v, each (G, heads, size*size, d), and rel_h, rel_w; G counts windows. The
    grid is used up.
    """
    side, size = grid.side, grid.size
    qkv = grid.take()
    if grid.window:
        qkv = to_windows(qkv, grid.window, grid.fill)
    heads = qkv.flatten(1, 2).unflatten(-1, (3, grid.heads, -1))
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
    out = attention(q, k, v, *relative_scores(q, grid.tables))
    out = out.transpose(1, 2).flatten(2).unflatten(1, (size, size))
    if not grid.window:
        return out
    # Packed: from rows with gaps torch would make one product per row of the grid.
    return from_windows(out, grid.window, side).contiguous()
