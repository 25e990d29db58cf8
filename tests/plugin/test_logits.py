"""The public class under both loaders of vLLM, and the guard at work in an engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm import LLM, SamplingParams
from vllm.config import ModelConfig, VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RepetitionDetectionParams
from vllm.v1.sample.logits_processor import (
    build_logitsprocs,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu.sample.logits_processor import (
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)

from tests.plugin.engines import register, start
from vllm_dsocr.config import NGRAM_SIZE, WINDOW_SIZE
from vllm_dsocr.plugin.guard.logits_v1 import BatchGuards
from vllm_dsocr.plugin.guard.logits_v2 import SlotGuards
from vllm_dsocr.plugin.logits import LOOP_TOKENS, LOOP_TURNS, DeepseekOCRLogitsProcessor
from vllm_dsocr.plugin.setup.defaults import GUARD
from vllm_dsocr.repetition import NGramGuard, NGramRule

BY_HAND = "vllm_dsocr.plugin.logits:NoRepeatNGramLogitsProcessor"
BOTH = pytest.mark.parametrize("path", [GUARD, BY_HAND])
CELLS = [886, 887]  # <td> </td> of the tiny checkpoint
BAD = [
    ({"ngram_size": "x"}, "ngram_size"),
    ({"ngram_size": -1}, "ngram_size"),
    ({"window_size": 0}, "window_size"),
    ({"whitelist_token_ids": 5}, "whitelist_token_ids"),
]


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> VllmConfig:
    register()
    return VllmConfig(model_config=ModelConfig(str(checkpoint), max_model_len=2048))


@BOTH
def test_v1_builds_the_guard(config: VllmConfig, path: str) -> None:
    built = build_logitsprocs(config, torch.device("cpu"), False, False, [path])
    assert [type(processor) for processor in built.non_argmax_invariant].count(BatchGuards) == 1


@BOTH
def test_v2_builds_the_guard(config: VllmConfig, path: str) -> None:
    names = ("all_token_ids", "prompt_len", "prefill_len", "total_len")
    sizes = {"device": torch.device("cpu"), "max_num_reqs": 4, "vocab_size": 896}
    state = SimpleNamespace(**sizes, **dict.fromkeys(names, SimpleNamespace(gpu=None)))
    (built,) = build_custom_logits_processors(config, state, False, [path])
    assert isinstance(built, SlotGuards)


@BOTH
@pytest.mark.parametrize(("options", "named"), BAD)
def test_both_front_ends_refuse(path: str, options: dict[str, Any], named: str) -> None:
    params = SamplingParams(extra_args=options)
    with pytest.raises(VLLMValidationError, match=named):
        validate_logits_processors_parameters([path], params)
    with pytest.raises(VLLMValidationError, match=named):
        build_custom_logits_processors_params_validator([path])(params)


def test_table_cells_are_exempt_by_name(config: VllmConfig) -> None:
    rule = DeepseekOCRLogitsProcessor.default_rule(config)
    assert rule == NGramRule(NGRAM_SIZE, WINDOW_SIZE, frozenset(CELLS))


def test_by_hand_other_requests_are_left_alone() -> None:
    params = SamplingParams()
    validate_logits_processors_parameters([BY_HAND], params)
    assert params.repetition_detection is None


def test_a_request_may_say_what_a_loop_is() -> None:
    stated = RepetitionDetectionParams(max_pattern_size=3, min_count=9)
    params = SamplingParams(repetition_detection=stated)
    validate_logits_processors_parameters([GUARD], params)
    assert params.repetition_detection == stated


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> LLM:
    return start(checkpoint, tokenizer_mode="auto")


def complete(engine: LLM, allowed: list[int], tokens: int, **options: Any) -> Any:
    """What the model makes of a few tokens."""
    params = engine.get_default_sampling_params()
    params.max_tokens, params.allowed_token_ids = tokens, allowed
    params.extra_args = options or None
    (output,) = engine.generate(["Free OCR."], params, use_tqdm=False)
    return output.outputs[0]


def allowed_by(rule: NGramRule, tokens: list[int]) -> bool:
    """Whether each token was free to come where it came."""
    seen: list[int] = []
    guard = NGramGuard(rule, seen)
    for token in tokens:
        if token in guard.banned():
            return False
        seen.append(token)
    return True


def test_the_guard_is_on_without_options(engine: LLM) -> None:
    tokens = list(complete(engine, [300, 301], tokens=150).token_ids)
    assert allowed_by(NGramRule(NGRAM_SIZE, WINDOW_SIZE), tokens)
    assert not allowed_by(NGramRule(NGRAM_SIZE - 15, WINDOW_SIZE), tokens)


def test_a_request_may_change_the_rule(engine: LLM) -> None:
    options = {"ngram_size": 4, "window_size": 12, "whitelist_token_ids": []}
    tokens = list(complete(engine, [300, 301], tokens=60, **options).token_ids)
    assert allowed_by(NGramRule(4, 12), tokens)


def test_a_request_may_turn_it_off_and_its_loop_is_reported(engine: LLM) -> None:
    output = complete(engine, [300], tokens=400, ngram_size=0)
    assert not allowed_by(NGramRule(NGRAM_SIZE, WINDOW_SIZE), list(output.token_ids))
    assert output.finish_reason == "repetition"


def test_endless_cells_are_a_loop_and_reach_the_text(engine: LLM) -> None:
    output = complete(engine, CELLS[:1], tokens=400)
    assert output.finish_reason == "repetition"
    assert output.stop_reason == "repetition_detected"
    assert output.text == "<td>" * (LOOP_TOKENS * LOOP_TURNS)


@pytest.mark.parametrize(("options", "named"), BAD)
def test_the_engine_goes_on_after_a_bad_request(
    engine: LLM, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(VLLMValidationError, match=named):
        complete(engine, [300, 301], tokens=2, **options)
    assert len(complete(engine, [300, 301], tokens=2).token_ids) == 2
