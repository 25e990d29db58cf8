"""Output tokens and rules of a batch, on one device -> -inf in its logits; in plain torch.

What the Triton kernel does where Triton has no device, and the layout that both read. Knows neither
vLLM nor requests: rows, slots and a table of rules.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vllm_dsocr.repetition import MAX_WHITELIST


class Limits(NamedTuple):
    """The head of a slot's row in the table of rules; also the largest of each in a batch."""

    size: int  # tokens of an n-gram; 0: no rule
    window: int  # how many of the last tokens count
    num_exempt: int  # ids that follow in the row


RULE_WIDTH = len(Limits._fields) + MAX_WHITELIST


class RowTokens(NamedTuple):
    """Where the output tokens of each row of logits lie. A request owns one row per draft, and one.

    The output of a row is what its slot has committed, then the drafts before the row.
    """

    slots: Tensor  # (rows,)
    num_drafts: Tensor  # (rows,) drafts before this row; the rows of a request are neighbours
    input_ids: Tensor  # (rows,) a request's first is its last committed token, then its drafts
    history: Tensor  # (slots, length) prompt and output
    prompt_len: Tensor  # (slots,)
    total_len: Tensor  # (slots,)


def ban_repeats(logits: Tensor, rules: Tensor, rows: RowTokens, largest: Limits) -> None:
    """Sets to -inf what would complete an n-gram seen before; logits (rows, vocabulary).

    rules: (slots, RULE_WIDTH) int32. largest: an upper bound of each limit over these rows, the
    window bounded by the longest output. A row that would have nothing left keeps what it has.
    Nothing waits for the device.
    """
    rule = rules[rows.slots.long()]
    size, window, _ = rule[:, : len(Limits._fields), None].unbind(1)  # (rows, 1) each
    recent, position, length = _recent_tokens(rows, largest.window)
    first = position - (size - 1)  # where the n-gram that ends here begins
    banned = (size > 0) & (first >= 0) & (first >= length - window)
    for back in range(1, largest.size):
        same = recent[:, :-back] == recent[:, -back, None]
        banned[:, back:] &= same | (back >= size)
        banned[:, :back] &= back >= size
    for index in range(largest.num_exempt):
        listed = index < rule[:, 2, None]
        banned &= ~(listed & (recent == rule[:, len(Limits._fields) + index, None]))
    tokens = recent.clamp(min=0)
    before = logits.gather(1, tokens)
    penalty = torch.where(banned, -torch.inf, torch.inf).to(logits.dtype)
    logits.scatter_reduce_(1, tokens, penalty, "amin")
    nothing_left = logits.amax(dim=1, keepdim=True) == -torch.inf
    logits.scatter_(1, tokens, torch.where(nothing_left, before, logits.gather(1, tokens)))


def _recent_tokens(rows: RowTokens, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last `span` output tokens and their positions, (rows, span), and the lengths, (rows, 1).

    Positions before the output hold -1.
    """
    slots = rows.slots.long()
    prompt_len = rows.prompt_len[slots, None].long()
    committed = rows.total_len[slots, None].long() - prompt_len
    num_drafts = rows.num_drafts[:, None].long()
    length = committed + num_drafts
    position = length + torch.arange(-span, 0, device=slots.device)
    stored = (prompt_len + position).clamp(0, rows.history.shape[1] - 1)
    row = torch.arange(len(slots), device=slots.device)[:, None]
    draft = (row - num_drafts + 1 + position - committed).clamp(0, len(slots) - 1)
    tokens = torch.where(
        position < committed,
        rows.history[slots].gather(1, stored).long(),
        rows.input_ids[draft].long(),
    )
    return torch.where(position < 0, -1, tokens), position, length
