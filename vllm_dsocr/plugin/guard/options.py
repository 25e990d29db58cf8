"""Sampling parameters of one request -> the rule that guards it, the same under both runners."""

from __future__ import annotations

from vllm import SamplingParams

from vllm_dsocr.repetition import NGRAM_OPTIONS, NGramRule, rule_from_options


def rule_of(params: SamplingParams, default: NGramRule | None = None) -> NGramRule | None:
    """The rule the request states, over `default`; None where nothing is banned.

    A grammar or a list of allowed tokens says itself what may come next, and what it asks for may
    well repeat: such a request gets no rule that it does not state. Raises OptionError.
    """
    options = params.extra_args or {}
    if is_constrained(params) and all(options.get(name) is None for name in NGRAM_OPTIONS):
        return None
    return rule_from_options(options, default)


def is_constrained(params: SamplingParams) -> bool:
    """Whether the request lists what may come next, token by token or by a grammar."""
    return params.structured_outputs is not None or bool(params.allowed_token_ids)
