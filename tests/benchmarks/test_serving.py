"""Both benchmarks of served pages, run small against a server as a user starts it."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm")
pytest.importorskip("openai")
pytest.importorskip("matplotlib", reason="the pages use its DejaVu fonts")

from benchmarks import batch, serving
from examples.demo import READER, served

MAX_CER = 0.2  # of two or three pages; the reader's own rate is far below, no reading is 1


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(READER) as url:
        yield url


@pytest.mark.slow
def test_the_server_and_transformers_read_the_same_pages(url: str) -> None:
    args = Namespace(model=READER, concurrency=2, pages=3, hf_pages=2, slices=2)
    result = asyncio.run(serving.measure(args, url))
    assert (result["pages"], result["hf_pages"]) == (3, 2)
    assert result["cer"] < MAX_CER and result["hf_cer"] < MAX_CER
    assert result["speedup_vs_hf"] == result["pages_per_s"] / result["hf_pages_per_s"]
    assert 0 < result["ttft_s_p50"] < result["latency_s_p50"] <= result["latency_s_p99"]
    assert {"clients", "VLLM::EngineCore"} <= set(result["cpu_ms_per_page"])
    json.dumps(result)


@pytest.mark.slow
def test_convert_is_timed_against_a_server(url: str) -> None:
    rates = {"server": url, "engine": None, "model": None, "concurrency": None}
    result = batch.measure(Namespace(pages=3, **rates))
    assert result["pages"] == 3 and result["pages_per_s"] > 0
    assert result["cer"] < MAX_CER
    json.dumps(result)


def test_the_start_of_an_engine_is_timed_apart() -> None:
    args = Namespace(pages=1, server=None, engine="hf", model=str(READER), concurrency=None)
    result = batch.measure(args)
    assert result["pages"] == 1 and result["startup_s"] > 0 and result["tokens_per_s"] > 0


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert serving.percentiles("t", values) == {"t_p50": 100, "t_p90": 180, "t_p99": 198}
    assert serving.percentiles("t", [7.0]) == {"t_p50": 7, "t_p90": 7, "t_p99": 7}


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (2, 4), (5, 1)])
def test_slices_are_all_pages_in_order(count: int, parts: int) -> None:
    pages = serving.sheets(count, seed=0)
    made = list(serving.slices(pages, parts))
    assert len(made) == parts and [page for part in made for page in part] == pages
    assert max(map(len, made)) - min(map(len, made)) <= 1
