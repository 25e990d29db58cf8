"""How much the router's balance loss of one pass weighs, so that passes add up to one batch.

The balance loss is not part of the loss that is shown: each layer with experts adds its gradient on
the way back. What the caller does to the shown loss, dividing it by the passes of a batch or
multiplying it for an fp16 scaler, has to happen to that gradient too. So the loss leaves the model
through `tap`, which notes the gradient that comes in, and layers scale theirs by it.

Sequences weigh by their labels, as they do in the cross entropy: only so do micro-batches and ranks
add up to one batch, however it is cut. Knows nothing of experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf.model.packing import sequence_ids


class Balance:
    """One pass with labels.

    sequences: (B, S) int64, which one each token belongs to; a row may hold several.
    weights: (n,) fp32, what each sequence counts; they add up to one over the whole batch.
    tokens: (B, S) bool, true where no padding is; None where all are real.
    """

    def __init__(
        self,
        targets: Tensor,
        attention_mask: Tensor | None,
        num_items: Tensor | int | None,
        position_ids: Tensor | None = None,
    ) -> None:
        """targets: (B, S), what is to be predicted. num_items: labels of the whole batch."""
        rows, length = targets.shape
        masked = attention_mask is not None
        sequences = sequence_ids(rows, length, position_ids, masked)
        self.sequences = sequences.to(targets.device)
        counted = (targets != IGNORE_INDEX).flatten().float()
        counts = counted.new_zeros(int(sequences.max()) + 1)
        counts.index_add_(0, self.sequences.flatten(), counted)
        total = counts.sum().clamp(min=1) if num_items is None else num_items
        self.weights = counts / (total.to(counts.device) if isinstance(total, Tensor) else total)
        self.tokens: Tensor | None = None
        if attention_mask is not None and attention_mask.ndim == 2:
            self.tokens = attention_mask.bool()
        self._scale: Tensor | None = None

    def tap(self, loss: Tensor) -> Tensor:
        """The loss as it is; its gradient is noted on the way back."""
        return _Tap.apply(loss, self)

    def attach(self, tensor: Tensor, loss: Tensor) -> Tensor:
        """The tensor as it is; `loss`, a scalar, gets the gradient that the tapped loss got."""
        return _Attached.apply(tensor, loss, self)


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, balance: Balance) -> Tensor:
        ctx.balance = balance
        return loss.clone()  # the Trainer multiplies it in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.balance._scale = grad
        return grad, None


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, loss: Tensor, balance: Balance) -> Tensor:
        ctx.balance = balance
        ctx.like = loss.detach()
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        scale = ctx.balance._scale  # None: the caller made a loss of its own from the logits
        return grad, None if scale is None else scale.to(ctx.like), None
