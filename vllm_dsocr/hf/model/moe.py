"""Mixture-of-experts feed-forward of the DeepSeek-V2 decoder (arXiv 2401.06066).

Hidden states (B, S, D) -> (B, S, D): top-k routed experts, always-on shared experts; router
balance loss where a pass with labels trains. Parameter names are the checkpoint's. Knows nothing of
attention or images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model.balance import Balance
from vllm_dsocr.hf.model.experts import GROUPED, can_group, grouped, one_by_one, pays


class Mlp(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Scores every expert and chooses k of them, in fp32 whatever the model runs in.

    No nn.Linear: quantisers and adapters that take all linear layers would take it too, and a
    choice made of rounded weights is another choice.
    """

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D) -> scores (B, S, E), weights and chosen expert ids (B*S, k)."""
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.weight.float()).softmax(dim=-1)
        weights, chosen = scores.flatten(0, 1).topk(self.config.num_experts_per_tok, dim=-1)
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return scores, weights * self.config.routed_scaling_factor, chosen


class MoE(nn.Module):
    """Router, routed experts and shared experts of one layer.

    balance: of the pass at hand, see DecoderLayer; without one there is no balance loss.
    """

    balance: Balance | None = None

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__()
        size = config.moe_intermediate_size
        self.config = config
        self.gate = Router(config)
        self.experts = nn.ModuleList(
            Mlp(config.hidden_size, size) for _ in range(config.n_routed_experts)
        )
        if config.n_shared_experts:
            self.shared_experts = Mlp(config.hidden_size, size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        scores, weights, chosen = self.gate(x)
        y = self.mix(x.flatten(0, 1), weights, chosen).view_as(x)
        if self.balance is not None and self.training and self.config.aux_loss_alpha:
            y = self.balance.attach(y, self._balance_loss(scores, chosen, self.balance))
        return y + self.shared_experts(x) if self.config.n_shared_experts else y

    def mix(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs, summed in fp32; x: (T, D)."""
        few = len(self.experts) <= 2 * self.config.num_experts_per_tok
        # What is exported must have one shape for every input: there, all experts run too.
        if few or torch.compiler.is_exporting():
            return self._mix_all(x, weights, chosen).to(x.dtype)
        return self._mix_sorted(x, weights, chosen).to(x.dtype)

    def _mix_all(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        # With few experts running all of them costs less than gathering, and shapes stay fixed.
        dense = weights.new_zeros(x.shape[0], len(self.experts)).scatter(1, chosen, weights)
        return sum(dense[:, i, None] * expert(x) for i, expert in enumerate(self.experts))

    def _mix_sorted(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        order = chosen.flatten().argsort(stable=True)
        rows = x[order // chosen.shape[1]]
        counts = chosen.flatten().bincount(minlength=len(self.experts))
        if self._in_groups(rows):
            out = grouped(self.experts, rows, counts)
        else:
            # In training those without a row take part: other ranks wait for their gradients.
            out = one_by_one(self.experts, rows, counts, self.training)
        out = out[order.argsort()].unflatten(0, chosen.shape)  # (T, k, D)
        return (out * weights[..., None]).sum(dim=1)  # weights are fp32, and so is the sum

    def _in_groups(self, rows: Tensor) -> bool:
        wanted = self.config._experts_implementation == GROUPED
        return wanted and pays(rows, len(self.experts)) and can_group(self.experts, rows.device)

    def _balance_loss(self, scores: Tensor, chosen: Tensor, balance: Balance) -> Tensor:
        """Expert balance loss (arXiv 2401.06066, eq. 12-14) of real tokens.

        Per sequence if `seq_aux`; else over all sequences of the pass, weighing as they do.
        """
        experts, k = scores.shape[-1], chosen.shape[-1]
        weights = balance.weights.to(scores)
        scores = scores.flatten(0, 1)  # (T, E)
        member = F.one_hot(balance.sequences.to(scores.device).flatten(), len(weights)).to(scores)
        if balance.tokens is not None:
            member = member * balance.tokens.to(scores).flatten()[:, None]
        picked = torch.zeros_like(scores).scatter(1, chosen, 1.0)
        with torch.autocast(scores.device.type, enabled=False):
            counts, sums = member.T @ picked, member.T @ scores  # (n, E)
        tokens = member.sum(0)[:, None]
        if not self.config.seq_aux:
            counts, sums, tokens = (t.sum(0, keepdim=True) for t in (counts, sums, tokens))
            weights = weights.sum(0, keepdim=True)
        tokens = tokens.clamp(min=1)
        share = counts * experts / (tokens * k)  # 1 where load is even
        return self.config.aux_loss_alpha * (weights @ (share * sums / tokens).sum(dim=1))


class DecoderLayer(LlamaDecoderLayer):
    """Llama's layer, which tells its experts what this pass's balance loss weighs.

    As an argument of the layer, so that a layer computed again in a checkpoint gets its own.
    """

    def forward(self, *args: Any, balance: Balance | None = None, **kwargs: Any) -> Tensor:
        self.mlp.balance = balance
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.mlp.balance = None
