"""Which flags of a server bound the pages that memory is planned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.encoder_budget import MultiModalBudget

from tests.plugin.engines import register
from vllm_dsocr.plugin.setup.page_limits import PageLimits, modes_may_be_asked_for, page_limits

SERVE = ["/usr/bin/vllm", "serve", "model"]


def configured(model: Path, **flags: Any) -> VllmConfig:
    register()
    return EngineArgs(model=str(model), max_model_len=4096, **flags).create_engine_config()


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        ([], True),
        (["script.py"], True),
        (["/usr/bin/vllm", "bench", "throughput"], True),
        (SERVE, False),
        ([*SERVE, "--max-model-len", "4096"], False),
        ([*SERVE, "--trust-request-mm-kwargs"], True),
        ([*SERVE, "--trust_request_mm_kwargs"], True),
        ([*SERVE, "--config", "flags.yaml"], True),
        ([*SERVE, "--config=flags.yaml"], True),
        (["/lib/vllm/entrypoints/openai/api_server.py", "--model", "m"], False),
    ],
)
def test_the_command_line_says_whether_requests_choose(argv: list[str], asked: bool) -> None:
    assert modes_may_be_asked_for(argv) == asked


def test_a_server_plans_for_its_own_mode(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", SERVE)
    config = configured(checkpoint)
    assert page_limits(config.model_config.hf_config) == PageLimits(request_modes=False)
    assert tokens_of_largest_page(config) == 1263
    stated = configured(checkpoint, additional_config={"dsocr": {"request_modes": True}})
    assert tokens_of_largest_page(stated) == 2869


def test_pages_that_must_fit_into_a_step(checkpoint: Path) -> None:
    """With as few tokens per step as vLLM has by default, the engine's budget can be made."""
    config = configured(checkpoint, disable_chunked_mm_input=True, max_num_batched_tokens=2048)
    assert tokens_of_largest_page(config) <= 2048
    budget = MultiModalBudget(config, MULTIMODAL_REGISTRY)
    assert budget.encoder_compute_budget == 2048


def tokens_of_largest_page(config: VllmConfig) -> int:
    info = MULTIMODAL_REGISTRY.get_processing_info(config.model_config)
    return info.largest_plan.num_image_tokens
