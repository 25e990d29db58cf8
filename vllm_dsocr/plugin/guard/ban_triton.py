"""Output tokens and rules of a batch, on one GPU -> -inf in its logits; one Triton kernel.

One program looks after a row of logits, BLOCK places at a time where an n-gram could have been
completed. It reads each place's last token first and goes on only while some place still agrees, so
text without repetition costs little more than one read of the window. Where something was banned it
looks for a token that is left, which the first VOCABULARY_BLOCK of them nearly always have, and
otherwise puts back what it took.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vllm_dsocr.plugin.guard.ban_torch import Limits, RowTokens

BLOCK = 1024
VOCABULARY_BLOCK = 2048


def ban_repeats(logits: Tensor, rules: Tensor, rows: RowTokens, largest: Limits) -> None:
    """Sets to -inf what would complete an n-gram seen before; logits (rows, vocabulary).

    rules: (slots, RULE_WIDTH) int32. largest: an upper bound of each limit over these rows, the
    window bounded by the longest output. A row that would have nothing left keeps what it has.
    Nothing waits for the device.
    """
    num_rows, vocabulary = logits.shape
    # What the banned places held, to be put back: a value for each place, and its token or -1.
    width = triton.cdiv(largest.window, BLOCK) * BLOCK
    before = torch.empty((num_rows, width), dtype=logits.dtype, device=logits.device)
    tokens = torch.empty((num_rows, width), dtype=torch.int32, device=logits.device)
    _ban_repeats_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        vocabulary,
        before,
        tokens,
        width,
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
        VOCABULARY_BLOCK=VOCABULARY_BLOCK,
    )


@triton.jit
def _ban_repeats_kernel(
    logits_ptr,
    logits_stride,
    vocabulary,
    before_ptr,
    tokens_ptr,
    width,
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
    VOCABULARY_BLOCK: tl.constexpr,
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
    logits = logits_ptr + row * logits_stride
    before, tokens = before_ptr + row * width, tokens_ptr + row * width

    # `place`: position of the last token of a full n-gram inside the window.
    first = tl.maximum(length - window, 0) + size - 1
    num_places = length - first
    num_found = 0
    for start in range(0, num_places, BLOCK):
        column = start + tl.arange(0, BLOCK)
        place = first + column
        agrees = place < length
        back = 1
        alive = tl.max(agrees.to(tl.int32), axis=0)
        while (back < size) & (alive > 0):
            wanted = _output_token(stored, drafts, committed, length - back, length > 0)
            seen = _output_token(stored, drafts, committed, place - back, agrees)
            agrees = agrees & (seen == wanted)
            alive = tl.max(agrees.to(tl.int32), axis=0)
            back += 1
        token = _output_token(stored, drafts, committed, place, agrees)
        if alive > 0:
            for index in range(tl.load(rule + 2)):
                agrees = agrees & (token != tl.load(rule + HEAD + index))
            num_found += tl.sum(agrees.to(tl.int32), axis=0)
        tl.store(before + column, tl.load(logits + token, mask=agrees))
        tl.store(tokens + column, tl.where(agrees, token, -1).to(tl.int32))
    if num_found == 0:
        return

    tl.debug_barrier()  # all is read before any of it is overwritten: a token may have more places
    _write(logits, before, tokens, num_places, BLOCK, True)
    tl.debug_barrier()
    largest = float("-inf")
    start = 0
    while (start < vocabulary) & (largest == float("-inf")):
        ids = start + tl.arange(0, VOCABULARY_BLOCK)
        left = tl.load(logits + ids, mask=ids < vocabulary, other=float("-inf"))
        largest = tl.maximum(largest, tl.max(left, axis=0).to(tl.float32))
        start += VOCABULARY_BLOCK
    if largest == float("-inf"):
        tl.debug_barrier()
        _write(logits, before, tokens, num_places, BLOCK, False)


@triton.jit
def _write(logits, before, tokens, num_places, BLOCK: tl.constexpr, BAN: tl.constexpr):
    """-inf for the tokens of a row, or what they had before."""
    for start in range(0, num_places, BLOCK):
        column = start + tl.arange(0, BLOCK)
        token = tl.load(tokens + column)
        value = tl.load(before + column)
        if BAN:
            value = tl.full((BLOCK,), float("-inf"), value.dtype)
        tl.store(logits + token, value, mask=token >= 0)


@triton.jit
def _output_token(stored, drafts, committed, position, mask):
    old = tl.load(stored + position, mask=mask & (position < committed), other=0)
    new = tl.load(drafts + position, mask=mask & (position >= committed), other=0)
    return tl.where(position < committed, old.to(tl.int64), new.to(tl.int64))
