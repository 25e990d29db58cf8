"""Rows sorted by expert -> each through its own expert's feed-forward: (S, D) -> (S, D).

One by one, or as one grouped product for all experts, which asks the host for nothing and starts
three kernels instead of three per expert. Both give the same numbers. Knows nothing of routers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

GROUPED = "grouped_mm"  # transformers' name for it, of `experts_implementation`
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ALIGNMENT = 8  # elements of bf16 that the kernel reads at once
# Rows per expert. Below it some experts get none, and theirs is most of the work of a product that
# copies all weights together.
WORTHWHILE = 4


def one_by_one(experts: nn.ModuleList, rows: Tensor, counts: Tensor, all_: bool) -> Tensor:
    """counts: (E,), rows of each expert. all_: run those without any too."""
    groups = zip(experts, rows.split(counts.tolist()), strict=True)
    return torch.cat([expert(group) for expert, group in groups if len(group) or all_])


def grouped(experts: nn.ModuleList, rows: Tensor, counts: Tensor) -> Tensor:
    """The same; see `can_group`. Under autocast in its type."""
    if torch.is_autocast_enabled(rows.device.type):
        rows = rows.to(torch.get_autocast_dtype(rows.device.type))
    ends = counts.cumsum(0).int()

    def linear(x: Tensor, projection: str) -> Tensor:
        weights = [getattr(expert, projection).weight for expert in experts]
        return _GroupedLinear.apply(x, ends, *weights)

    gate, up, down = PROJECTIONS
    return linear(F.silu(linear(rows, gate)) * linear(rows, up), down)


def pays(rows: Tensor, num_experts: int) -> bool:
    """Is there a fast kernel for these rows, and enough of them?

    On a CPU torch goes through the groups one by one as well, after a copy of all weights.
    """
    if rows.device.type != "cuda" or len(rows) < WORTHWHILE * num_experts:
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else rows.dtype
    new_enough = torch.cuda.get_device_capability(rows.device) >= (8, 0)
    return dtype == torch.bfloat16 and new_enough and hasattr(F, "grouped_mm")


def can_group(experts: nn.ModuleList, device: torch.device) -> bool:
    """Are all weights there as they are: no adapters, no 4 bit, no hooks that fetch them?"""
    modules = (getattr(expert, name) for expert in experts for name in PROJECTIONS)
    return all(_is_plain(module, device) for module in modules)


def _is_plain(module: nn.Module, device: torch.device) -> bool:
    if type(module) is not nn.Linear or module._forward_pre_hooks or module._forward_hooks:
        return False
    if hasattr(module, "_hf_hook"):  # of accelerate, which puts weights in their place
        return False
    weight = module.weight
    return weight.device == device and not any(size % ALIGNMENT for size in weight.shape)


class _GroupedLinear(torch.autograd.Function):
    """(S, K) in E groups -> (S, N). Weights are laid together anew on the way back, not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, ends, *weights)
        return F.grouped_mm(x, _together(weights, x.dtype).transpose(-2, -1), offs=ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, ends, *weights = ctx.saved_tensors
        grad = grad.contiguous()
        needs_x, _, *needs_weights = ctx.needs_input_grad
        of_x, of_weights = None, [None] * len(weights)
        if needs_x:
            of_x = F.grouped_mm(grad, _together(weights, grad.dtype), offs=ends)
        if any(needs_weights):
            stacked = F.grouped_mm(grad.t(), x, offs=ends)  # (E, N, K)
            of_weights = [g.to(w.dtype) for g, w in zip(stacked.unbind(), weights, strict=True)]
        return of_x, None, *of_weights


def _together(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([weight.to(dtype) for weight in weights])  # (E, N, K)
