"""Learned position tables resized to the grid of the page at hand.

Turns (side, side) tables made for one page size into another; knows nothing of the towers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Constants:
    """What a module makes of its weights for one side of a view, made once where a host says so.

    keep: False computes anew each time, as training needs it. What is kept is renewed in place, so
    that a recorded graph goes on reading it.
    """

    def __init__(self) -> None:
        self.keep = False
        self._made: dict[int, tuple[Tensor, Callable[[int], Tensor]]] = {}

    def __call__(self, side: int, make: Callable[[int], Tensor]) -> Tensor:
        if not self.keep:
            return make(side)
        if side not in self._made:
            self._made[side] = make(side), make
        return self._made[side][0]

    def renew(self) -> None:
        for side, (made, make) in self._made.items():
            made.copy_(make(side))


def keep_constants(module: nn.Module) -> None:
    """The weights of `module` stay as they are; to be called again when they have changed."""
    with torch.inference_mode():
        for part in module.modules():
            constants = getattr(part, "constants", None)
            if isinstance(constants, Constants):
                constants.keep = True
                constants.renew()


def resize_grid(table: Tensor, side: int) -> Tensor:
    """(1, s, s, D) -> (1, side, side, D), antialiased bicubic in fp32, as the official code."""
    if table.shape[1] == side:
        return table
    grid = table.permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return grid.to(table.dtype).permute(0, 2, 3, 1)
