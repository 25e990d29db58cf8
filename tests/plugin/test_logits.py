"""The public class under both loaders of vLLM, and the guard at work in an engine."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm import LLM, SamplingParams
from vllm.config import ModelConfig, VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import (
    RepetitionDetectionParams,
    RequestOutputKind,
    StructuredOutputsParams,
)
from vllm.v1.sample.logits_processor import (
    build_logitsprocs,
    validate_logits_processors_parameters,
)
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsProcRequestState,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)

from tests.plugin.engines import register
from vllm_dsocr.config import NGRAM_SIZE, WINDOW_SIZE, OptionError
from vllm_dsocr.plugin.guard.logits_v1 import BatchGuards
from vllm_dsocr.plugin.guard.logits_v2 import SlotGuards
from vllm_dsocr.plugin.logits import DeepseekOCRLogitsProcessor
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


def test_runners_are_told_apart_by_what_they_are(config: VllmConfig) -> None:
    """A release may build either from one more argument."""
    state = LogitsProcRequestState(torch.device("cpu"), 4, 896, *[SimpleNamespace(gpu=None)] * 4)
    build = DeepseekOCRLogitsProcessor.__new__
    assert isinstance(build(DeepseekOCRLogitsProcessor, config, state), SlotGuards)
    device = torch.device("cpu")
    assert isinstance(build(DeepseekOCRLogitsProcessor, config, device, False), BatchGuards)


def test_without_model_runner_v1_the_guard_is_there(config: VllmConfig) -> None:
    """In a release that has dropped it: its interface cannot be imported."""
    program = (
        "import sys\n"
        "sys.modules['vllm.v1.sample.logits_processor'] = None\n"
        "from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor\n"
        "from vllm_dsocr.plugin.logits import DeepseekOCRLogitsProcessor as Guard\n"
        "assert issubclass(Guard, LogitsProcessor)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
def engine(llm: LLM) -> LLM:
    """The shared one: nothing is said of guard or tokenizer, so both are as by default."""
    return llm


def complete(engine: LLM, favoured: list[int], tokens: int, **options: Any) -> Any:
    """What the model makes of a few tokens that it favours over all others."""
    params = engine.get_default_sampling_params()
    params.max_tokens, params.logit_bias = tokens, dict.fromkeys(favoured, 100.0)
    return generate(engine, params, **options)


def generate(engine: LLM, params: SamplingParams, **options: Any) -> Any:
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


def test_a_request_may_turn_all_of_it_off(engine: LLM) -> None:
    output = complete(engine, [300], tokens=400, ngram_size=0)
    assert set(output.token_ids) == {300}
    assert output.finish_reason == "length"


def test_turned_off_it_may_still_have_loops_detected(engine: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=400, logit_bias={300: 100})
    params.repetition_detection = RepetitionDetectionParams(max_pattern_size=3, min_count=9)
    assert generate(engine, params, ngram_size=0).finish_reason == "repetition"


@pytest.mark.parametrize(
    ("fields", "tokens", "text"),
    [
        ({"allowed_token_ids": [300]}, 100, None),
        ({"structured_outputs": {"regex": r"Q{250}"}}, 400, "Q" * 250),
        ({"structured_outputs": {"regex": r'(\{"paid":"(yes|no)","amount":0\},){14}'}}, 600, None),
        ({"structured_outputs": {"choice": ["ab" * 100]}}, 400, "ab" * 100),
        ({"structured_outputs": {"json": {"const": [0] * 150}}}, 600, None),
        ({"structured_outputs": {"grammar": 'root ::= "xy" "xy" root | "."'}}, 300, None),
    ],
    ids=["allowed", "regex", "records", "choice", "json", "grammar"],
)
def test_what_a_request_prescribes_is_what_it_gets(
    engine: LLM, fields: dict[str, Any], tokens: int, text: str | None
) -> None:
    """However often it repeats: no ban by default, and no end before it is complete."""
    output = generate(engine, prescribed(fields, tokens))
    if text is not None:
        assert output.text == text
    if "allowed_token_ids" in fields:
        assert set(output.token_ids) == {300}
    assert output.finish_reason in ("stop", "length")
    if "structured_outputs" in fields and output.finish_reason == "stop":
        assert len(output.token_ids) <= tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"allowed_token_ids": [300]},
        {"structured_outputs": {"regex": r"Q{60}"}},
        {"allowed_token_ids": [300, 301], "bad_words": ["<td>"]},
        {"allowed_token_ids": [300, 301], "logit_bias": {301: float("-inf")}},
        {"allowed_token_ids": [300, 1], "min_tokens": 50},
    ],
    ids=["allowed", "grammar", "bad words", "bias", "no end yet"],
)
def test_a_stated_rule_never_leaves_nothing(engine: LLM, fields: dict[str, Any]) -> None:
    """Where the rule would ban all that is legal, what is legal comes all the same."""
    params = prescribed(fields, 60)
    output = generate(engine, params, ngram_size=2, window_size=40, whitelist_token_ids=[])
    legal = set(fields.get("allowed_token_ids", ())) or None
    assert legal is None or set(output.token_ids) <= legal
    assert legal is not None or output.text == "Q" * 60


def prescribed(fields: dict[str, Any], tokens: int) -> SamplingParams:
    """Greedy; a grammar stated as over HTTP."""
    stated = dict(fields)
    if grammar := stated.pop("structured_outputs", None):
        stated["structured_outputs"] = StructuredOutputsParams(**grammar)
    return SamplingParams(temperature=0, max_tokens=tokens, **stated)


@pytest.mark.parametrize("prompt", ["Free OCR.", "Free OCR." * 900], ids=["read", "too long"])
def test_the_callers_object_stays_as_it_was(engine: LLM, prompt: str) -> None:
    """Whether the request is answered or refused, and its loops are ended all the same."""
    params = SamplingParams(
        temperature=0,
        max_tokens=400,
        logit_bias={CELLS[0]: 100},
        output_kind=RequestOutputKind.FINAL_ONLY,  # which vLLM sets itself
    )
    before = copy.deepcopy(params)
    try:
        (output,) = engine.generate([prompt], params, use_tqdm=False)
        assert output.outputs[0].finish_reason == "repetition"
    except VLLMValidationError as error:
        assert "maximum context length" in str(error)
    assert params == before
    assert params.repetition_detection is None
    assert "clone" not in vars(params)


@pytest.mark.parametrize(("options", "named"), BAD)
def test_the_engine_goes_on_after_a_bad_request(
    engine: LLM, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(VLLMValidationError, match=named):
        complete(engine, [300, 301], tokens=2, **options)
    assert len(complete(engine, [300, 301], tokens=2).token_ids) == 2


@pytest.mark.parametrize(
    ("sizes", "turns", "allowed"),
    [((1, 64), 4, True), ((60, 60), 4, True), ((1, 128), 3, True), ((0, 0), 0, True),
     ((1, 10**9), 2, False), ((0, 1000), 2, False), ((60, 60), 10**6, False)],
)  # fmt: skip
def test_a_search_for_loops_that_holds_up_the_engine_is_refused(
    sizes: tuple[int, int], turns: int, allowed: bool
) -> None:
    low, high = sizes
    stated = RepetitionDetectionParams(min_pattern_size=low, max_pattern_size=high, min_count=turns)
    params = SamplingParams(repetition_detection=stated)
    if allowed:
        DeepseekOCRLogitsProcessor.validate_params(params)
        return
    with pytest.raises(OptionError, match="repetition_detection asks for too much"):
        DeepseekOCRLogitsProcessor.validate_params(params)
