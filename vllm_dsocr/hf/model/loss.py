"""Hidden states and labels -> next-token cross entropy without the logits of the whole sequence.

Only positions that carry a label reach the head, a chunk at a time, and each chunk's logits are
made again on the way back: memory grows with the chunk, not with sequence times vocabulary.
Knows nothing of the decoder; the head is any module, adapters on it included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vllm_dsocr.config import IGNORE_INDEX

CHUNK = 256  # positions; 132 MB of fp32 logits with 129,280 tokens


def next_tokens(labels: Tensor) -> Tensor:
    """(B, S) labels -> (B, S): what each position has to predict; the last one predicts nothing."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    num_items: Tensor | int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of (B, S, V) fp32 logits against (B, S) targets, as `lean_cross_entropy`."""
    targets = targets.to(logits.device)
    total = _summed(logits.flatten(0, 1), targets.flatten(), smoothing)
    counted = (targets != IGNORE_INDEX).sum() if num_items is None else num_items
    return total / _on(counted, total)


def lean_cross_entropy(
    head: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    num_items: Tensor | int | None = None,
    smoothing: float = 0.0,
    chunk: int = CHUNK,
) -> Tensor:
    """Cross entropy of head(hidden) against targets, in fp32; value and gradients of the plain one.

    hidden: (B, S, D). targets: (B, S) as `next_tokens` gives them, IGNORE_INDEX is left out.
    num_items: what the sum is divided by, by default the number of targets that count.
    smoothing: the part of each target that is spread evenly over the vocabulary.
    """
    targets = targets.to(hidden.device)
    counted = targets != IGNORE_INDEX
    hidden, targets = hidden[counted], targets[counted]
    total = hidden.new_zeros((), dtype=torch.float32)
    for rows, ids in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        total = total + checkpoint(_from_head, head, rows, ids, smoothing, use_reentrant=False)
    return total / _on(len(targets) if num_items is None else num_items, total)


def _from_head(head: nn.Module, hidden: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return _summed(head(hidden).float(), targets, smoothing)


def _summed(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


def _on(count: Tensor | int, like: Tensor) -> Tensor | int:
    return count.to(like.device) if isinstance(count, Tensor) else count
