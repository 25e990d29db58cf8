"""Several processes, one model: how many passes of the towers each has to make.

Where weights lie on several ranks, every pass gathers them; a rank without a picture that made none
would leave the others waiting, and without shards its towers would have no gradients to add. So
ranks agree on the largest number, and who has less work does empty work. Knows nothing of pages.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn


def missing_passes(model: nn.Module, own: int, device: torch.device) -> int:
    """How many passes more than `own` another rank makes; 0 in a single process.

    Every rank has to ask at the same time. Only training and weights in shards make it necessary.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return 0
    learning = model.training and torch.is_grad_enabled()
    if not (learning or lies_in_shards(model)):
        return 0
    most = torch.tensor(own, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most) - own


def lies_in_shards(model: nn.Module) -> bool:
    """Is any part under FSDP or ZeRO-3?"""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    wrapped = any(isinstance(m, (FSDPModule, FullyShardedDataParallel)) for m in model.modules())
    return wrapped or any(hasattr(parameter, "ds_id") for parameter in model.parameters())
