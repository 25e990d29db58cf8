"""Parameters and their gradients -> fp32 master weights stepped by Muon and AdamW.

Matrices go to Muon (arXiv 2502.16982), everything else to AdamW. Parameters and gradients lie in
flat buffers: processes exchange gradients in one call, each steps its own slice of the parameters
and sends it round. Knows nothing of losses or schedules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .muon import Muon

ADAM_RATE_SHARE = 0.1  # AdamW's rate as a share of Muon's
ENCODER = ("model.sam_model.", "model.vision_model.", "model.projector.")
LOOKED_UP = ("embed_tokens", "lm_head", "mlp.gate.", "pos_embed", "position_embedding", "rel_pos")
SMALLEST_SIDE = 64
AVERAGED_STEPS = 60  # about so many last steps make the averaged weights


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates this parameter; tables and thin maps are AdamW's."""
    if parameter.ndim not in (2, 4) or any(part in name for part in LOOKED_UP):
        return False
    return min(parameter.flatten(1).shape) >= SMALLEST_SIDE


class Optimiser:
    """Steps named parameters; every process calls it in the same order."""

    def __init__(self, named: dict[str, nn.Parameter], rank: int, num_ranks: int) -> None:
        # Every num_ranks-th parameter has the same owner: like shapes are shared out evenly.
        slices = [list(named)[owner::num_ranks] for owner in range(num_ranks)]
        ordered = {name: named[name] for names in slices for name in names}
        sizes = [p.numel() for p in ordered.values()]
        self.params = torch.cat([p.detach().flatten() for p in ordered.values()])
        self.grads = torch.zeros_like(self.params)
        pieces = zip(self.params.split(sizes), self.grads.split(sizes), strict=True)
        for p, (data, grad) in zip(ordered.values(), pieces, strict=True):
            p.data, p.grad = data.view_as(p), grad.view_as(p)
        lengths = [sum(named[name].numel() for name in names) for names in slices]
        self.slices = self.params.split(lengths)
        self.own_grads = self.grads.split(lengths)[rank]
        self.rank = rank
        self.masters = self.slices[rank].to(torch.float32, copy=True)
        self.averages = self.masters.clone()
        self.steps = 0
        self.master_grads = torch.zeros_like(self.masters)
        self.optimisers = self._build({name: named[name] for name in slices[rank]})

    def _build(self, own: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """Muon and AdamW over views of the master weights, grouped by encoder or not."""
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        sizes = [p.numel() for p in own.values()]
        pieces = zip(self.masters.split(sizes), self.master_grads.split(sizes), strict=True)
        for (name, p), (master, grad) in zip(own.items(), pieces, strict=True):
            matrix = is_matrix(name, p)
            shape = p.flatten(1).shape if matrix else p.shape
            leaf = master.view(shape)
            leaf.grad = grad.view(shape)
            groups.setdefault((matrix, name.startswith(ENCODER)), []).append(leaf)
        muon, adam = (
            [{"params": v, "encoder": k[1]} for k, v in groups.items() if k[0] == matrix]
            for matrix in (True, False)
        )
        # torch's own Muon computes in bf16, which only pays where the weights do, too.
        muon_class = torch.optim.Muon if self.params.dtype == torch.bfloat16 else Muon
        return [
            muon_class(muon, lr=0.0, weight_decay=0.05, momentum=0.95),
            torch.optim.AdamW(adam, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, rate: float, encoder_share: float, max_norm: float) -> float:
        """One update; returns the norm of the mean gradient. `rate` is Muon's."""
        dist.all_reduce(self.grads)
        self.grads /= len(self.slices)
        norm = self.grads.float().norm()
        self.master_grads.copy_(self.own_grads)
        self.master_grads *= (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for optimiser, share in zip(self.optimisers, (1.0, ADAM_RATE_SHARE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share * (encoder_share if group["encoder"] else 1.0)
            optimiser.step()
        self.grads.zero_()
        self.steps += 1
        self.averages.lerp_(self.masters, max(1 / AVERAGED_STEPS, 1 / (self.steps + 1)))
        self._exchange(self.masters)
        return float(norm)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the parameters are the mean of their last values: as good as after a decay."""
        self._exchange(self.averages)
        yield
        self._exchange(self.masters)

    def _exchange(self, own: Tensor) -> None:
        self.slices[self.rank].copy_(own)
        for owner, piece in enumerate(self.slices):
            dist.broadcast(piece, owner)

    def state_dict(self) -> dict[str, Any]:
        """This process's master weights and optimiser state."""
        return {
            "masters": self.masters,
            "averages": self.averages,
            "steps": self.steps,
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict` on all processes; the parameters follow."""
        self.masters.copy_(state["masters"])
        self.averages.copy_(state["averages"])
        self.steps = state["steps"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self._exchange(self.masters)
