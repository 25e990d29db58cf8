"""Mixture-of-experts feed-forward of the DeepSeek-V2 decoder (arXiv 2401.06066).

Hidden states (B, S, D) -> (B, S, D): top-k routed experts, always-on shared experts, router balance
loss while training. Parameter names are the checkpoint's. Knows nothing of attention or images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_dsocr.hf.configuration import DeepseekOCRConfig


class Mlp(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Router, routed experts and shared experts of one layer."""

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__()
        size = config.moe_intermediate_size
        self.config = config
        self.gate = nn.Linear(config.hidden_size, config.n_routed_experts, bias=False)
        self.experts = nn.ModuleList(
            Mlp(config.hidden_size, size) for _ in range(config.n_routed_experts)
        )
        if config.n_shared_experts:
            self.shared_experts = Mlp(config.hidden_size, size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        scores, weights, chosen = self.route(x)
        y = self.mix(x.flatten(0, 1), weights, chosen).view_as(x)
        if self.training and self.config.aux_loss_alpha:
            y = WithLoss.apply(y, self._balance_loss(scores, chosen))
        return y + self.shared_experts(x) if self.config.n_shared_experts else y

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) -> scores (B, S, E), weights and chosen expert ids (B*S, k); in fp32."""
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.gate.weight.float()).softmax(dim=-1)
        weights, chosen = scores.flatten(0, 1).topk(self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return scores, weights * self.config.routed_scaling_factor, chosen

    def mix(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs; x: (T, D)."""
        if len(self.experts) <= 2 * self.config.num_experts_per_tok:
            return self._mix_all(x, weights, chosen)
        return self._mix_grouped(x, weights, chosen)

    def _mix_all(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        # With few experts running all of them costs less than gathering, and shapes stay fixed.
        dense = weights.new_zeros(x.shape[0], len(self.experts)).scatter(1, chosen, weights)
        dense = dense.to(x.dtype)
        return sum(dense[:, i, None] * expert(x) for i, expert in enumerate(self.experts))

    def _mix_grouped(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        # Tokens sorted by expert: one product per expert, none per token.
        order = chosen.flatten().argsort(stable=True)
        rows = order // chosen.shape[1]
        counts = chosen.flatten().bincount(minlength=len(self.experts)).tolist()
        groups = x[rows].split(counts)
        pairs = zip(self.experts, groups, strict=True)
        out = torch.cat([expert(group) for expert, group in pairs if len(group)])
        out = out * weights.flatten()[order, None].to(out.dtype)
        return torch.zeros_like(x, dtype=out.dtype).index_add(0, rows, out)

    def _balance_loss(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """Expert balance loss (arXiv 2401.06066, eq. 12-14), per sequence if `seq_aux`."""
        experts = scores.shape[-1]
        if not self.config.seq_aux:
            scores = scores.flatten(0, 1)[None]
        chosen = chosen.view(scores.shape[0], -1)
        counts = scores.new_zeros(scores.shape[0], experts)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=counts.dtype))
        share = counts * experts / chosen.shape[1]  # 1 where the load is even
        return self.config.aux_loss_alpha * (share * scores.mean(dim=1)).sum(dim=1).mean()


class WithLoss(torch.autograd.Function):
    """Passes a tensor on and gives `loss` a gradient of one, without showing in the loss value."""

    @staticmethod
    def forward(ctx, tensor: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_dtype = loss.dtype
        ctx.loss_device = loss.device
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones((), dtype=ctx.loss_dtype, device=ctx.loss_device)
