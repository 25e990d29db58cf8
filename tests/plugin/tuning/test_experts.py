"""Tuned block sizes: found by trying, written as vLLM reads them, found again when serving."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

import vllm.envs as envs
from vllm.model_executor.layers.fused_moe import fused_moe

from vllm_dsocr.plugin.doctor.facts import untuned_moe
from vllm_dsocr.plugin.setup import tuned as setup
from vllm_dsocr.plugin.setup.tuned import VARIABLE, tuned_folder, use_tuned_folder
from vllm_dsocr.plugin.tuning.experts import CHOICES, Experts, Tuned, in_force, tune, write
from vllm_dsocr.plugin.tuning.search import Config, fastest_config

BEST = {
    "BLOCK_SIZE_M": 32, "BLOCK_SIZE_N": 256, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 16,
    "num_warps": 8, "num_stages": 5,
}  # fmt: skip
NARROW = Experts(count=4, width=24, hidden=64, top_k=2)  # no release has a file for these


def distance(config: Config) -> float:
    """A kernel that is the faster the nearer its sizes are to the best, and that may not run."""
    if config["BLOCK_SIZE_M"] == 128 and config["num_stages"] == 5:
        return math.inf  # shared memory
    return 1 + sum(abs(math.log2(config[name] / best)) for name, best in BEST.items())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this user, and no folder set."""
    envs.disable_envs_cache()  # an engine may have filled it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back as it was
    monkeypatch.delenv(VARIABLE)
    fused_moe.get_moe_configs.cache_clear()
    yield tmp_path / "vllm-dsocr" / "experts"
    fused_moe.get_moe_configs.cache_clear()


def test_the_fastest_is_found_with_few_trials() -> None:
    tried: list[Config] = []

    def timing(config: Config) -> float:
        tried.append(config)
        return distance(config)

    start = {name: values[0] for name, values in CHOICES.items()}
    assert fastest_config(start, CHOICES, timing) == (BEST, 1.0)
    assert len(tried) < 60
    assert len({tuple(config.items()) for config in tried}) == len(tried)


def test_what_was_tuned_is_what_vllm_takes(cache: Path) -> None:
    tuned = list(tune(NARROW, lambda tokens: distance, seconds=60, batches=(1, 64)))
    assert [(t.tokens, {k: t.config[k] for k in BEST}, t.after) for t in tuned] == [
        (1, BEST, 1.0),
        (64, BEST, 1.0),
    ]
    assert all(t.before > t.after for t in tuned)
    path = write(tuned, NARROW, tuned_folder())
    assert path.parent == cache == tuned_folder()
    assert path.name.startswith("E=4,N=24,device_name=")
    use_tuned_folder()
    fused_moe.get_moe_configs.cache_clear()
    assert in_force(NARROW, 40) == tuned[1].config
    assert untuned_moe(SimpleNamespace(n_routed_experts=4, moe_intermediate_size=24)) is None


def test_without_time_vllms_own_sizes_stay(cache: Path) -> None:
    tuned = list(tune(NARROW, lambda tokens: distance, seconds=0, batches=(1, 4096)))
    assert [t.config for t in tuned] == [in_force(NARROW, 1), in_force(NARROW, 4096)]


def test_a_kernel_that_never_runs_changes_nothing(cache: Path) -> None:
    (one,) = tune(NARROW, lambda tokens: lambda config: math.inf, seconds=60, batches=(8,))
    assert one.config == in_force(NARROW, 8)


def test_the_folder_is_the_users_to_set(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tuned_folder()
    assert VARIABLE not in os.environ  # nothing was tuned
    write([Tuned(1, BEST, 2.0, 1.0)], NARROW, tuned_folder())
    assert [path.suffix for path in cache.iterdir()] == [".json"]
    use_tuned_folder()
    assert os.environ[VARIABLE] == str(cache)
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    use_tuned_folder()
    assert os.environ[VARIABLE] == "/elsewhere"


def test_without_a_cache_folder_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert setup.tuned_folder() == Path.home() / ".cache" / "vllm-dsocr" / "experts"


def test_experts_are_cut_over_ranks() -> None:
    assert Experts.published().shapes == ((64, 1792, 1280), (64, 1280, 896))
    assert Experts.published(2).shapes == ((64, 896, 1280), (64, 1280, 448))
