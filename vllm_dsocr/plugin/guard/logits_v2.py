"""The repetition guard under Model Runner V2: token histories on the device -> banned logits.

    add_request -> rule of a slot, staged on the host -> apply_staged_writes: table on the device
    apply: rows -> slots -> output tokens and rule, all on the device -> -inf in the logits

Nothing is read back from the device. Every row is judged by its own history, drafts before it
included, so speculative decoding needs no special case; a resumed request brings its history along.
"""

from __future__ import annotations

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from vllm_dsocr.plugin.guard.ban_torch import RULE_WIDTH, Limits, RowTokens, ban_repeats
from vllm_dsocr.plugin.guard.options import rule_of
from vllm_dsocr.repetition import MAX_INT, NGramRule


class SlotGuards(LogitsProcessor):
    """The rules of all request slots.

    default: the rule of a request that states none; None leaves such a request alone, and so does
    a grammar or a list of allowed tokens.
    """

    def __init__(self, req_states: LogitsProcRequestState, default: NGramRule | None) -> None:
        self._states = req_states
        self._default = default
        num_slots = req_states.max_num_reqs
        self._rules = torch.zeros(
            (num_slots, RULE_WIDTH), dtype=torch.int32, device=req_states.device
        )
        # The first three columns once more on the host, to size the work without asking the device.
        self._limits = np.zeros((num_slots, len(Limits._fields)), dtype=np.int32)
        self._staged: dict[int, list[int]] = {}

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Stages the request's rule; whatever the slot held before is overwritten."""
        rule = rule_of(sampling_params, self._default)
        row = _table_row(rule) if rule and rule.can_ban else [0] * len(Limits._fields)
        self._staged[req_idx] = row
        self._limits[req_idx] = row[: len(Limits._fields)]
        return row[0] > 0

    def apply_staged_writes(self) -> None:
        if not self._staged:
            return
        rows = np.zeros((len(self._staged), RULE_WIDTH), dtype=np.int32)
        for target, row in zip(rows, self._staged.values(), strict=True):
            target[: len(row)] = row
        slots = torch.tensor(list(self._staged))
        self._rules.index_copy_(0, self._to_device(slots), self._to_device(torch.from_numpy(rows)))
        self._staged.clear()

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._rules.is_cpu:
            return tensor
        return tensor.pin_memory().to(self._rules.device, non_blocking=True)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Bans in place; logits (rows, vocabulary), float32."""
        limits = self._limits[ctx.idx_mapping_np]
        limits[:, 1] = np.minimum(limits[:, 1], ctx.seq_lens_upper_bound_np) * (limits[:, 0] > 0)
        largest = Limits(*limits.max(axis=0, initial=0).tolist())
        if largest.size:
            rows = RowTokens(
                slots=ctx.expanded_idx_mapping,
                num_drafts=ctx.expanded_local_pos,
                input_ids=ctx.input_ids,
                history=self._states.all_token_ids.gpu,
                prompt_len=self._states.prompt_len.gpu,
                total_len=self._states.total_len.gpu,
            )
            self._ban(logits, rows, largest)
        return logits

    def _ban(self, logits: torch.Tensor, rows: RowTokens, largest: Limits) -> None:
        if logits.is_cpu:
            ban_repeats(logits, self._rules, rows, largest)
        else:
            from vllm_dsocr.plugin.guard import ban_triton

            ban_triton.ban_repeats(logits, self._rules, rows, largest)


def _table_row(rule: NGramRule) -> list[int]:
    exempt = sorted(rule.whitelist)
    return [rule.size, rule.window or MAX_INT, len(exempt), *exempt]
