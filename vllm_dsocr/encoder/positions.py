"""Learned position tables resized to the grid of the page at hand.

Turns (side, side) tables made for one page size into another; knows nothing of the towers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_grid(table: Tensor, side: int) -> Tensor:
    """(1, s, s, D) -> (1, side, side, D), antialiased bicubic in fp32, as the official code."""
    if table.shape[1] == side:
        return table
    grid = table.permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return grid.to(table.dtype).permute(0, 2, 3, 1)
