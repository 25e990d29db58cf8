"""Requests of every kind that meets the guard, and what becomes of a row of their logits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from vllm_dsocr.repetition import NGramRule

DEFAULT = NGramRule(3, 12, frozenset({1}))
STATED = {"ngram_size": 2, "window_size": 7}
GRAMMAR = {"structured_outputs": StructuredOutputsParams(regex="a*")}
# (fields of the request, the rule it is held to)
KINDS: tuple[tuple[dict[str, Any], NGramRule | None], ...] = (
    ({}, DEFAULT),
    ({"extra_args": {"ngram_size": 0}}, None),
    ({"extra_args": STATED}, NGramRule(2, 7, frozenset({1}))),
    ({"extra_args": {"ngram_size": 4, "whitelist_token_ids": [0, 2]}},
     NGramRule(4, 12, frozenset({0, 2}))),
    ({"extra_args": {"ngram_size": 1}}, None),
    (GRAMMAR, None),
    ({"allowed_token_ids": [0, 2]}, None),
    ({**GRAMMAR, "extra_args": {"other": 1}}, None),
    ({**GRAMMAR, "extra_args": STATED}, NGramRule(2, 7, frozenset({1}))),
    ({"allowed_token_ids": [0, 2], "extra_args": STATED}, NGramRule(2, 7, frozenset({1}))),
    ({"bad_words": ["a"], "logit_bias": {3: -100.0}, "min_tokens": 2}, DEFAULT),
)  # fmt: skip


def params_of(fields: dict[str, Any]) -> SamplingParams:
    return SamplingParams(temperature=0, **fields)


def without(row: torch.Tensor, banned: Collection[int]) -> torch.Tensor:
    """A row of logits under a ban; as it was where the ban would leave nothing."""
    left = row.clone()
    left[list(banned)] = -torch.inf
    return left if torch.isfinite(left).any() else row.clone()


def masked_logits(rng: Any, rows: int, vocabulary: int) -> torch.Tensor:
    """Random logits from which grammars, bad words and the like have taken tokens, in some rows."""
    logits = torch.randn(rows, vocabulary)
    for row in logits:
        if rng.random() < 0.4:
            row[rng.sample(range(vocabulary), rng.randrange(1, vocabulary))] = -torch.inf
    return logits
