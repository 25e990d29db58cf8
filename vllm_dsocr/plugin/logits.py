"""One class path for the repetition guard, whichever model runner vLLM picks.

vLLM's two runners load logits processors by the same path but want different base classes and build
them with different arguments: `NoRepeatNGramLogitsProcessor` satisfies both loaders and builds the
guard of the runner that calls it. Rule and options are those of `vllm_dsocr.repetition`.
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
from vllm_dsocr.plugin.logits_v1 import BatchGuards
from vllm_dsocr.plugin.logits_v2 import SlotGuards
from vllm_dsocr.repetition import NGramRule, rule_from_options


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
