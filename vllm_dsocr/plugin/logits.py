"""One class path for the repetition guard, whichever model runner vLLM picks.

vLLM's two runners load logits processors by the same path but want different base classes and build
them with different arguments. The classes here satisfy both loaders and build the guard of the
runner that asks. Rule and options are those of `vllm_dsocr.repetition`.
"""

from __future__ import annotations

from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.sampling_params import RepetitionDetectionParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from vllm_dsocr.config import NGRAM_SIZE, TABLE_CELL_TOKENS, WINDOW_SIZE
from vllm_dsocr.plugin.guard.logits_v1 import BatchGuards
from vllm_dsocr.plugin.guard.logits_v2 import SlotGuards
from vllm_dsocr.repetition import NGramRule, rule_from_options

# What vLLM ends a request for, unless the request says otherwise. The ban leaves one kind of short
# cycle, the cells of an empty table. vLLM compares every pattern size after each token, so a range
# of sizes is dear (30 us for 64 of them, 0.7 us for one); one size with many divisors covers cycles
# of 1 to 6, 10, 12, 15, 20, 30 and 60 tokens.
LOOP_TOKENS = 60
LOOP_TURNS = 4


class NoRepeatNGramLogitsProcessor(LogitsProcessorV1, LogitsProcessorV2):
    """Bans repeated n-grams for requests that ask for it, with any model.

    A request asks through `extra_args` (`vllm_xargs` over HTTP): ngram_size, window_size and
    whitelist_token_ids, as with the processor that vLLM has for DeepSeek-OCR.
    """

    def __new__(cls, vllm_config: VllmConfig, *host: Any) -> BatchGuards | SlotGuards:
        """`host` is (device, is_pin_memory) under V1 and (req_states,) under V2."""
        default = cls.default_rule(vllm_config)
        return SlotGuards(*host, default) if len(host) == 1 else BatchGuards(*host, default)

    @classmethod
    def default_rule(cls, vllm_config: VllmConfig) -> NGramRule | None:
        """The rule of requests that state none."""
        return None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises OptionError, a ValueError, naming the option that cannot be honoured."""
        rule_from_options(sampling_params.extra_args or {})


class DeepseekOCRLogitsProcessor(NoRepeatNGramLogitsProcessor):
    """Guards every request of DeepSeek-OCR; a request may change the rule or turn it off."""

    @classmethod
    def default_rule(cls, vllm_config: VllmConfig) -> NGramRule:
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
        cells = frozenset(vocabulary[token] for token in TABLE_CELL_TOKENS if token in vocabulary)
        return NGramRule(NGRAM_SIZE, WINDOW_SIZE, cells)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Also has loops detected where the request does not say.

        Admission is the one place where vLLM shows each request to a package. Offline the caller's
        own object is filled in.
        """
        super().validate_params(sampling_params)
        if sampling_params.repetition_detection is None:
            sampling_params.repetition_detection = RepetitionDetectionParams(
                max_pattern_size=LOOP_TOKENS, min_pattern_size=LOOP_TOKENS, min_count=LOOP_TURNS
            )
