"""Muon in fp32: torch.optim.Muon's rule without its bf16 products.

`torch.optim.Muon` orthogonalises in bf16, which processors without bf16 units emulate slowly.
Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def orthogonalised(gradient: Tensor) -> Tensor:
    """The nearest half-orthogonal matrix, roughly (Newton-Schulz, arXiv 2502.16982)."""
    a, b, c = COEFFICIENTS
    flip = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if flip else gradient
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if flip else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for 2-D parameters."""

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update with the gradients in `.grad`; a gradient of zeros changes nothing."""
        for group in self.param_groups:
            for p in group["params"]:
                if not p.grad.any():
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"]
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalised(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                tall = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.add_(update, alpha=-group["lr"] * tall)
