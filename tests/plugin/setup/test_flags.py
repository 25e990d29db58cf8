"""Every flag that changes memory, parallelism, caching or runner: what of our defaults is left.

Nothing is started: the configuration is made as for a start, and the encoder's budget with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.encoder_budget import MultiModalBudget
from vllm.platforms import current_platform

from tests.plugin.engines import register
from vllm_dsocr.plugin.setup.defaults import GUARD

SPECULATION = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
ALL_DEFAULTS: tuple[dict[str, Any], ...] = (
    {"enable_prefix_caching": False},
    {"mm_processor_cache_gb": 0},
    {"mm_processor_cache_type": "shm"},
    {"enable_chunked_prefill": False, "disable_chunked_mm_input": True},
    {"async_scheduling": False},
    {"scheduling_policy": "priority"},
    {"block_size": 32},
    {"data_parallel_size": 2},
    {"tensor_parallel_size": 2, "enable_expert_parallel": True},
    {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"},
    {"pipeline_parallel_size": 2},
    {"max_num_batched_tokens": 64},
    {"max_num_seqs": 1},
    {"max_model_len": 75},
    {"limit_mm_per_prompt": {"image": 0}},
    {"limit_mm_per_prompt": {"image": {"count": 2, "width": 500, "height": 400}}},
    {"language_model_only": True},
    {"enable_prompt_embeds": True},
    {"enable_lora": True},
    {"kv_cache_memory_bytes": 1 << 20},
    {"load_format": "dummy"},
    {"stream_interval": 5},
)


def configured(model: Path, **flags: Any) -> VllmConfig:
    register()
    return EngineArgs(str(model), **{"max_model_len": 2048, **flags}).create_engine_config()


def name_of(flags: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in flags.items())


@pytest.mark.parametrize("flags", ALL_DEFAULTS, ids=name_of)
def test_flags_beside_which_all_defaults_stand(checkpoint: Path, flags: dict[str, Any]) -> None:
    config = configured(checkpoint, **flags)
    assert config.model_config.logits_processors == [GUARD]
    assert config.model_config.get_diff_sampling_param() == {"temperature": 0.0}
    budget = MultiModalBudget(config, MULTIMODAL_REGISTRY)
    assert budget.encoder_cache_size >= budget.encoder_compute_budget >= 0
    if current_platform.is_cpu():
        assert config.cache_config.kv_cache_memory_bytes > 0


@pytest.mark.skipif(not current_platform.is_cpu(), reason="Model Runner V1 is the CPU's")
@pytest.mark.parametrize("flags", [{"speculative_config": SPECULATION}, {"runner": "pooling"}])
def test_flags_that_take_no_guard(checkpoint: Path, flags: dict[str, Any]) -> None:
    assert not configured(checkpoint, **flags).model_config.logits_processors


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_model_len": 74}, "max_model_len must be at least 75"),
        ({"mm_processor_kwargs": {"mode": "huge"}}, "mode must be one of"),
        ({"mm_processor_kwargs": {"foo": 1}}, "unknown option 'foo'"),
        ({"skip_tokenizer_init": True}, "requires a tokenizer"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_a_sentence(
    checkpoint: Path, flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        MultiModalBudget(configured(checkpoint, **flags), MULTIMODAL_REGISTRY)
