"""The repetition rule as a logits processor of transformers, and what tokens were worth before it.

Knows nothing of prompts or images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor

from vllm_dsocr.config import NGRAM_SIZE, TABLE_CELL_TOKENS, WINDOW_SIZE
from vllm_dsocr.repetition import NGramGuard, NGramRule


def serving_rule(vocabulary: Mapping[str, int], rule: NGramRule | None = None) -> NGramRule:
    """The rule given, or the one served by default; table cells may repeat."""
    cells = frozenset(vocabulary[token] for token in TABLE_CELL_TOKENS if token in vocabulary)
    return replace(rule or NGramRule(NGRAM_SIZE, WINDOW_SIZE), whitelist=cells)


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
            seen: list[list[int]] = [[] for _ in outputs]
            self._rows = [(tokens, NGramGuard(self._rule, tokens)) for tokens in seen]
        scores = scores.clone()
        for row, (output, (tokens, guard)) in enumerate(zip(outputs, self._rows, strict=True)):
            tokens.extend(output[len(tokens) :])
            scores[row, list(guard.banned())] = float("-inf")
        return scores


class LogprobRecorder(LogitsProcessor):
    """Changes nothing and keeps the logprob of each token that is chosen; of one row.

    Stands first, so that what it sees is the model's own.
    """

    def __init__(self) -> None:
        self._found: list[Tensor] = []
        self._last: Tensor | None = None

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """scores (1, V); input_ids (1, S) ends with what was chosen the last time."""
        self._take(input_ids[0, -1])
        self._last = scores[0].float().log_softmax(-1)
        return scores

    def logprobs(self, last_id: int) -> list[float]:
        """Of all tokens, once the last one is known too."""
        assert self._last is not None
        return [float(logprob) for logprob in (*self._found, self._last[last_id])]

    def _take(self, token_id: Tensor) -> None:
        if self._last is not None:
            self._found.append(self._last[token_id])
