"""One class path for the repetition guard, whichever model runner vLLM picks.

vLLM's two runners load logits processors by the same path but want different base classes and build
them with different arguments. The classes here satisfy both loaders and build the guard of the
runner that asks. Rule and options are those of `vllm_dsocr.repetition`.
"""

from __future__ import annotations

from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.tokenizers import cached_tokenizer_from_config

from vllm_dsocr.config import NGRAM_SIZE, TABLE_CELL_TOKENS, WINDOW_SIZE
from vllm_dsocr.plugin.guard.interfaces import LogitsProcessorV1, LogitsProcessorV2, is_v2_state
from vllm_dsocr.plugin.guard.loops import LOOP_TOKENS, LOOP_TURNS, check_loops, detect_loops
from vllm_dsocr.plugin.guard.options import rule_of
from vllm_dsocr.repetition import NGramRule

__all__ = [
    "LOOP_TOKENS",
    "LOOP_TURNS",
    "DeepseekOCRLogitsProcessor",
    "DeepseekOCRLoopDetection",
    "DeepseekOCRNGramLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
]


class NoRepeatNGramLogitsProcessor(LogitsProcessorV1, LogitsProcessorV2):
    """Bans repeated n-grams for requests that ask for it, with any model.

    A request asks through `extra_args` (`vllm_xargs` over HTTP): ngram_size, window_size and
    whitelist_token_ids, as with the processor that vLLM has for DeepSeek-OCR.
    """

    def __new__(cls, vllm_config: VllmConfig, *host: Any) -> Any:
        """`host` is (device, is_pin_memory) under V1 and (req_states,) under V2."""
        default = cls.default_rule(vllm_config)
        if is_v2_state(host[0]):
            from vllm_dsocr.plugin.guard.logits_v2 import SlotGuards

            (req_states,) = host
            return SlotGuards(req_states, default)
        from vllm_dsocr.plugin.guard.logits_v1 import BatchGuards

        device, is_pin_memory = host
        return BatchGuards(device, is_pin_memory, default)

    @classmethod
    def default_rule(cls, vllm_config: VllmConfig) -> NGramRule | None:
        """The rule of requests that state none."""
        return None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises OptionError, a ValueError, naming the option that cannot be honoured."""
        rule_of(sampling_params)
        check_loops(sampling_params)


class DeepseekOCRNGramLogitsProcessor(NoRepeatNGramLogitsProcessor):
    """Guards every request of DeepSeek-OCR; a request may change the rule or turn it off."""

    @classmethod
    def default_rule(cls, vllm_config: VllmConfig) -> NGramRule | None:
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
        cells = frozenset(vocabulary[token] for token in TABLE_CELL_TOKENS if token in vocabulary)
        return NGramRule(NGRAM_SIZE, WINDOW_SIZE, cells)


class DeepseekOCRLoopDetection(NoRepeatNGramLogitsProcessor):
    """Ends answers that go in circles; bans n-grams for requests that ask for it."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Also has loops detected where the request does not say."""
        super().validate_params(sampling_params)
        detect_loops(sampling_params)


class DeepseekOCRLogitsProcessor(DeepseekOCRLoopDetection, DeepseekOCRNGramLogitsProcessor):
    """Both: what serves DeepSeek-OCR unless a switch says otherwise."""
