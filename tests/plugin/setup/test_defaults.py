"""What is in force without flags, what wins over it, and that other models see none of it."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm.config import CompilationMode, ModelConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS, build_logitsprocs
from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors

from tests.plugin.engines import register
from vllm_dsocr.plugin import TOKENIZER_MODE
from vllm_dsocr.plugin.setup.defaults import (
    GUARD,
    DeepseekOCRDefaults,
    guard_refusal,
    guarded,
)

RECIPE = "vllm.model_executor.models.deepseek_ocr:NGramPerReqLogitsProcessor"
PLUGIN = "vllm_dsocr.plugin.logits"
BY_HAND = f"{PLUGIN}:NoRepeatNGramLogitsProcessor"


def configured(model: Path, **flags: Any) -> VllmConfig:
    register()
    return EngineArgs(model=str(model), max_model_len=2048, **flags).create_engine_config()


@pytest.fixture
def checkpoint_with(checkpoint: Path, tmp_path: Path) -> Any:
    """A copy of the checkpoint whose generation_config.json says more."""

    def make(**stated: Any) -> Path:
        model = shutil.copytree(checkpoint, tmp_path / "model")
        path = model / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **stated}))
        return model

    return make


@pytest.fixture(scope="module")
def text_model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("llama")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 896}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, **layers, bos_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, path)
    return path


def test_nothing_stated(checkpoint: Path) -> None:
    model_config = configured(checkpoint).model_config
    assert model_config.tokenizer_mode == TOKENIZER_MODE
    assert model_config.logits_processors == [GUARD]
    assert model_config.get_diff_sampling_param() == {"temperature": 0.0}


def test_flags_win(checkpoint: Path) -> None:
    overrides = {"temperature": 0.3, "top_p": 0.5}
    flags = {"tokenizer_mode": "hf", "override_generation_config": overrides}
    model_config = configured(checkpoint, **flags).model_config
    assert model_config.tokenizer_mode == "hf"
    assert model_config.get_diff_sampling_param() == overrides


def test_other_flags_leave_the_temperature(checkpoint: Path) -> None:
    flags = {"override_generation_config": {"top_p": 0.5}}
    sampling = configured(checkpoint, **flags).model_config.get_diff_sampling_param()
    assert sampling == {"temperature": 0.0, "top_p": 0.5}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_checkpoint_wins(checkpoint_with: Any, temperature: float) -> None:
    model_config = configured(checkpoint_with(temperature=temperature)).model_config
    assert model_config.get_diff_sampling_param() == {"temperature": temperature}


def test_neutral_sampling_on_request(checkpoint: Path) -> None:
    model_config = configured(checkpoint, generation_config="vllm").model_config
    assert model_config.get_diff_sampling_param() == {}


@pytest.mark.parametrize("stated", [[RECIPE], [BY_HAND], [GUARD], [RECIPE, BY_HAND]])
def test_one_guard_whatever_is_named(checkpoint: Path, stated: list[str]) -> None:
    flags = {"logits_processors": stated}
    assert configured(checkpoint, **flags).model_config.logits_processors == [GUARD]


def test_other_processors_stay() -> None:
    class Other:
        pass

    assert guarded(["a:B", Other, RECIPE]) == ["a:B", Other, GUARD]


def test_a_processor_given_as_a_class_is_known() -> None:
    from vllm_dsocr.plugin.logits import NoRepeatNGramLogitsProcessor

    assert guarded([NoRepeatNGramLogitsProcessor]) == [GUARD]


@pytest.mark.parametrize(
    ("stated", "processors"),
    [
        ({}, [GUARD]),
        ({"guard": True}, [GUARD]),
        ({"guard": False}, None),
        ({"guard": False, "loop_detection": True}, [f"{PLUGIN}:DeepseekOCRLoopDetection"]),
        ({"loop_detection": False}, [f"{PLUGIN}:DeepseekOCRNGramLogitsProcessor"]),
    ],
)
def test_a_server_may_leave_the_guard_out(
    checkpoint: Path, stated: dict[str, bool], processors: list[str] | None
) -> None:
    config = configured(checkpoint, additional_config={"dsocr": stated, "other": 1})
    assert config.model_config.logits_processors == processors


def test_what_is_named_by_hand_stays_without_the_guard(checkpoint: Path) -> None:
    flags = {"additional_config": {"dsocr": {"guard": False}}, "logits_processors": [BY_HAND]}
    assert configured(checkpoint, **flags).model_config.logits_processors == [BY_HAND]


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"gaurd": False}, "unknown dsocr switch 'gaurd'; there are guard, loop_detection"),
        ({"guard": "off"}, "dsocr.guard must be true or false, got 'off'"),
        ("off", "dsocr must be an object, got 'off'"),
    ],
)
def test_a_switch_that_does_not_exist_stops_the_start(
    checkpoint: Path, stated: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        configured(checkpoint, additional_config={"dsocr": stated})


def test_sampling_masks_can_be_returned(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM takes no logits processors there, and has to sample; under Model Runner V2 alone, which
    does not start here, so its check is called on what the defaults make of the flag."""
    config = configured(checkpoint, logprobs_mode="processed_logprobs")
    monkeypatch.setattr(VllmConfig, "use_v2_model_runner", True)
    config.model_config.return_sampling_mask = True
    with pytest.raises(ValueError, match="does not support custom logits processors"):
        config._verify_sampling_replay_config()
    config.model_config.logits_processors = None
    config.model_config.override_generation_config = {}
    DeepseekOCRDefaults.verify_and_update_config(config)
    config._verify_sampling_replay_config()
    assert config.model_config.get_diff_sampling_param() == {}


@pytest.mark.parametrize(
    ("runner_type", "speculative", "v2", "mask", "refused"),
    [
        ("generate", None, False, False, False),
        ("generate", "ngram", True, False, False),
        ("generate", "ngram", False, False, True),
        ("generate", None, True, True, True),
        ("pooling", None, True, False, True),
    ],
)
def test_where_no_guard_can_be(
    runner_type: str, speculative: str | None, v2: bool, mask: bool, refused: bool
) -> None:
    config = SimpleNamespace(
        model_config=SimpleNamespace(runner_type=runner_type, return_sampling_mask=mask),
        speculative_config=speculative,
        use_v2_model_runner=v2,
    )
    assert bool(guard_refusal(config)) == refused


def test_data_parallel_engines_would_run_in_lock_step(checkpoint: Path, text_model: Path) -> None:
    """vLLM does so for models that have experts by its own measure, and for no others."""
    lock_step = [configured(model).model_config.is_moe for model in (checkpoint, text_model)]
    assert lock_step == [True, False]


def test_another_architecture_is_untouched(text_model: Path) -> None:
    config = configured(text_model)
    assert config.compilation_config.mode != CompilationMode.NONE
    model_config = config.model_config
    fresh = ModelConfig(str(text_model))
    assert model_config.tokenizer_mode == fresh.tokenizer_mode == "auto"
    assert model_config.logits_processors is None
    assert model_config.override_generation_config == {}
    assert model_config.get_diff_sampling_param() == {}


def test_another_architecture_loads_no_processor_of_ours(text_model: Path) -> None:
    config = configured(text_model)
    stated = config.model_config.logits_processors or ()
    v1 = build_logitsprocs(config, torch.device("cpu"), False, False, stated)
    assert {type(processor) for processor in v1.all} == set(BUILTIN_LOGITS_PROCESSORS)
    assert build_custom_logits_processors(config, runner_state(), False, stated) == []
    installed = entry_points(group="vllm.logits_processors")
    assert not [point for point in installed if "dsocr" in point.value]


def runner_state() -> SimpleNamespace:
    names = ("all_token_ids", "prompt_len", "prefill_len", "total_len")
    buffers = dict.fromkeys(names, SimpleNamespace(gpu=None))
    return SimpleNamespace(device=torch.device("cpu"), max_num_reqs=4, vocab_size=896, **buffers)
