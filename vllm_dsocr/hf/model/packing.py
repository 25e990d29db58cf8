"""Positions of a batch -> which sequence each token belongs to. Knows nothing of attention."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.masking_utils import find_packed_sequence_indices


def sequence_ids(rows: int, length: int, position_ids: Tensor | None, masked: bool) -> Tensor:
    """(rows, length) int64, from 0: rows, or their parts where several sequences are in one.

    As transformers does it: packed is what has positions that begin anew and no attention mask.
    """
    own = torch.arange(rows).unsqueeze(1).expand(rows, length)
    if position_ids is None or masked:
        return own
    parts = find_packed_sequence_indices(position_ids.expand(rows, length))
    if parts is None:
        return own
    counts = parts[:, -1:] + 1
    return parts + counts.cumsum(0) - counts
