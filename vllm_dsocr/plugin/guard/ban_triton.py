"""Output tokens and rules of a batch, on one GPU -> -inf in its logits; one Triton kernel.

One program looks at a row of logits and BLOCK places where an n-gram could have been completed. It
reads each place's last token first and goes on only while some place still agrees, so text without
repetition costs little more than one read of the window.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from vllm_dsocr.plugin.guard.ban_torch import Limits, RowTokens

BLOCK = 1024


def ban_repeats(logits: Tensor, rules: Tensor, rows: RowTokens, largest: Limits) -> None:
    """Sets to -inf what would complete an n-gram seen before; logits (rows, vocabulary).

    rules: (slots, RULE_WIDTH) int32. largest: an upper bound of each limit over these rows, the
    window bounded by the longest output. Nothing waits for the device.
    """
    grid = (logits.shape[0], triton.cdiv(largest.window, BLOCK))
    _ban_repeats_kernel[grid](
        logits,
        logits.stride(0),
        rules,
        rules.stride(0),
        rows.slots,
        rows.num_drafts,
        rows.input_ids,
        rows.history,
        rows.history.stride(0),
        rows.prompt_len,
        rows.total_len,
        HEAD=len(Limits._fields),
        BLOCK=BLOCK,
    )


@triton.jit
def _ban_repeats_kernel(
    logits_ptr,
    logits_stride,
    rules_ptr,
    rules_stride,
    slots_ptr,
    num_drafts_ptr,
    input_ids_ptr,
    history_ptr,
    history_stride,
    prompt_len_ptr,
    total_len_ptr,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    rule = rules_ptr + slot * rules_stride
    size = tl.load(rule)
    if size == 0:
        return
    window = tl.load(rule + 1)
    num_drafts = tl.load(num_drafts_ptr + row)
    prompt_len = tl.load(prompt_len_ptr + slot)
    committed = tl.load(total_len_ptr + slot) - prompt_len
    length = committed + num_drafts
    # stored[p] is output token p where p < committed, drafts[p] from there on.
    stored = history_ptr + slot * history_stride + prompt_len
    drafts = input_ids_ptr + (row - num_drafts + 1 - committed)

    # `place`: position of the last token of a full n-gram inside the window.
    first = tl.maximum(length - window, 0) + size - 1
    place = first + tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    agrees = place < length
    back = 1
    alive = tl.max(agrees.to(tl.int32), axis=0)
    while (back < size) & (alive > 0):
        wanted = _output_token(stored, drafts, committed, length - back, length > 0)
        seen = _output_token(stored, drafts, committed, place - back, agrees)
        agrees = agrees & (seen == wanted)
        alive = tl.max(agrees.to(tl.int32), axis=0)
        back += 1
    if alive > 0:
        token = _output_token(stored, drafts, committed, place, agrees)
        for index in range(tl.load(rule + 2)):
            agrees = agrees & (token != tl.load(rule + HEAD + index))
        tl.store(logits_ptr + row * logits_stride + token, float("-inf"), mask=agrees)


@triton.jit
def _output_token(stored, drafts, committed, position, mask):
    old = tl.load(stored + position, mask=mask & (position < committed), other=0)
    new = tl.load(drafts + position, mask=mask & (position >= committed), other=0)
    return tl.where(position < committed, old.to(tl.int64), new.to(tl.int64))
