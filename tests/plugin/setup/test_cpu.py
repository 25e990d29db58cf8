"""What a CPU's engine is given without flags, and that flags and other models are left alone."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

pytest.importorskip("vllm")

from vllm.config import CompilationMode, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform

from tests.plugin.engines import register
from vllm_dsocr.plugin.setup import cpu

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="defaults of a CPU")


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


def configured(model: Path, **flags: Any) -> VllmConfig:
    register()
    return EngineArgs(model=str(model), max_model_len=2048, **flags).create_engine_config()


def test_nothing_is_compiled(checkpoint: Path) -> None:
    assert configured(checkpoint).compilation_config.mode == CompilationMode.NONE


@pytest.mark.parametrize("flags", [{"optimization_level": 3}, {"compilation_config": {"mode": 3}}])
def test_it_compiles_when_told(checkpoint: Path, flags: dict[str, Any]) -> None:
    assert configured(checkpoint, **flags).compilation_config.mode != CompilationMode.NONE


def test_the_cache_holds_what_all_requests_can_fill(checkpoint: Path) -> None:
    config = configured(checkpoint, max_num_seqs=4, dtype="float32")
    text = config.model_config.hf_text_config
    per_token = 2 * text.num_hidden_layers * text.hidden_size * 4  # keys, values; fp32
    size = config.cache_config.kv_cache_memory_bytes
    assert 4 * 2048 * per_token <= size <= 1.2 * 4 * 2048 * per_token


def test_the_cache_takes_no_more_than_its_share(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CACHE_SHARE", 1e-4)
    size = configured(checkpoint).cache_config.kv_cache_memory_bytes
    assert 0 < size <= 1e-4 * psutil.virtual_memory().total


@pytest.mark.parametrize(
    "flags",
    [
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2},
        {"data_parallel_size": 2},
        {"tensor_parallel_size": 2, "data_parallel_size": 2},
    ],
)
def test_workers_of_one_machine_share_its_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, int]
) -> None:
    free = 1 << 20
    monkeypatch.setattr(cpu.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    size = configured(checkpoint, **flags).cache_config.kv_cache_memory_bytes
    assert size * math.prod(flags.values()) <= free * cpu.CACHE_SHARE
    assert size > 0


@pytest.mark.parametrize(
    ("flags", "size"),
    [({"kv_cache_memory_bytes": 1 << 26}, 1 << 26), ({"gpu_memory_utilization": 0.3}, None)],
)
def test_a_stated_size_stays(checkpoint: Path, flags: dict[str, Any], size: int | None) -> None:
    assert configured(checkpoint, **flags).cache_config.kv_cache_memory_bytes == size


def test_vllms_own_variable_wins(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert configured(checkpoint).cache_config.kv_cache_memory_bytes == 2 << 30
