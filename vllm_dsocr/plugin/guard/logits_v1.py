"""The repetition guard under Model Runner V1: output token lists on the host -> banned logits.

    BatchUpdate -> one NGramGuard per row, on vLLM's own list of its output tokens
    apply: guards -> banned ids of all rows -> one write to the logits

A row that would be left without any token, as under a grammar that allows one, keeps all it has.
Each step costs a few Python operations per request, whatever its window, and one tensor write for
the whole batch.
"""

from __future__ import annotations

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from vllm_dsocr.plugin.guard.options import rule_of
from vllm_dsocr.repetition import NGramGuard, NGramRule

PROBE = 1024  # logits of a row looked at before all of them are


class BatchGuards(LogitsProcessor):
    """All guarded rows of the persistent batch.

    default: the rule of a request that states none; None leaves such a request alone, and so does
    a grammar or a list of allowed tokens.
    """

    def __init__(
        self, device: torch.device, is_pin_memory: bool, default: NGramRule | None
    ) -> None:
        self._device = device
        self._pin_memory = is_pin_memory
        self._default = default
        self._minus_infinity = torch.tensor(float("-inf"), device=device)
        self._rows: dict[int, NGramGuard] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        # Tokens are read in apply(): here the latest may still be a placeholder.
        process_dict_updates(self._rows, batch_update, self._guarded)

    def _guarded(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> NGramGuard | None:
        rule = rule_of(params, self._default)
        return NGramGuard(rule, output_ids) if rule and rule.can_ban else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Bans in place; logits (rows, vocabulary)."""
        rows: list[int] = []
        ids: list[int] = []
        for row, guard in self._rows.items():
            if banned := guard.banned():
                rows += [row] * len(banned)
                ids += banned
        if ids:
            where = torch.tensor([rows, ids], pin_memory=self._pin_memory)
            where = where.to(self._device, non_blocking=True)
            self._ban(logits, where[0], where[1])
        return logits

    def _ban(self, logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> None:
        """(rows[i], ids[i]) become -inf, except in rows where nothing else is left."""
        before = logits[rows, ids]
        logits.index_put_((rows, ids), self._minus_infinity)
        if logits.is_cpu and _some_left(logits[rows, :PROBE]).all():
            return  # the usual case, for a fraction of the work
        after = torch.where(_some_left(logits)[rows], self._minus_infinity, before)
        logits.index_put_((rows, ids), after)


def _some_left(logits: torch.Tensor) -> torch.Tensor:
    """Which rows can still be sampled from."""
    return logits.amax(dim=1) > float("-inf")
