"""The repetition rule as a logits processor of transformers. Knows nothing of prompts or images."""

from __future__ import annotations

from torch import FloatTensor, LongTensor
from transformers import LogitsProcessor

from vllm_dsocr.repetition import NGramGuard, NGramRule


class NGramGuardProcessor(LogitsProcessor):
    """Bans what the rule forbids, per row, looking at the output only as serving does."""

    def __init__(self, rule: NGramRule, prompt_length: int) -> None:
        self._rule = rule
        self._prompt_length = prompt_length
        self._rows: list[tuple[list[int], NGramGuard]] = []

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """scores (B, V) with banned ids at -inf; input_ids (B, S), growing by one a call."""
        outputs = input_ids[:, self._prompt_length :].tolist()
        if not self._rows:
            self._rows = [(tokens := [], NGramGuard(self._rule, tokens)) for _ in outputs]
        scores = scores.clone()
        for row, (output, (tokens, guard)) in enumerate(zip(outputs, self._rows, strict=True)):
            tokens.extend(output[len(tokens) :])
            scores[row, list(guard.banned())] = float("-inf")
        return scores
