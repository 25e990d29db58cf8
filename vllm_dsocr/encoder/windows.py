"""A grid of patches cut into square windows, and put together again.

Turns (N, side, side, D) into (N*n*n, window, window, D) and back; knows nothing of attention.
"""

from __future__ import annotations

from torch import Tensor


def to_windows(x: Tensor, window: int, fill: Tensor) -> Tensor:
    """(N, side, side, D) -> (N*n*n, window, window, D), padded with `fill` (D,) right and below.

    The padding is not masked: padded keys take part in the attention, as in training.
    """
    pad = -x.shape[1] % window
    x = _pad(x, pad, fill) if pad else x
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(0, 2)


def _pad(x: Tensor, pad: int, fill: Tensor) -> Tensor:
    count, side, _, width = x.shape
    padded = fill.to(x.dtype).expand(count, side + pad, side + pad, width).clone()
    padded[:, :side, :side] = x
    return padded


def from_windows(windows: Tensor, window: int, side: int) -> Tensor:
    """Undo `to_windows`: (N*n*n, window, window, D) -> (N, side, side, D)."""
    count = -(-side // window)
    x = windows.unflatten(0, (-1, count, count)).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)
    return x[:, :side, :side]
