"""The roofline on hand-made GPUs, and `dsocr plan`."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan.bounds import GIB, GPUS, MEMORY_SHARE, Gpu, bound
from vllm_dsocr.plan.page_cost import model_bytes, page_cost
from vllm_dsocr.plan.sizes import ModelSizes

SIZES = ModelSizes()
PAGE = page_cost(SIZES, plan_tiles(1654, 2339, MODES["gundam"]), 1000)


def test_arithmetic_alone_when_memory_is_infinitely_fast():
    gpu = Gpu(1e12, 1e30, 1e15)
    # The decode steps all run at the mean length, as the page's cost counts them.
    assert bound(SIZES, PAGE, gpu).pages_per_second == pytest.approx(1e12 / PAGE.flops, rel=1e-3)


def test_memory_alone_when_arithmetic_is_infinitely_fast():
    slow, fast = (bound(SIZES, PAGE, Gpu(1e30, speed, 1e15)) for speed in (1e12, 2e12))
    assert fast.pages_per_second == pytest.approx(2 * slow.pages_per_second)


def test_concurrency_is_what_the_caches_leave():
    room = model_bytes(SIZES) + PAGE.activation_bytes + 3.5 * PAGE.cache_bytes
    gpu = Gpu(1e14, 1e12, room / MEMORY_SHARE)
    assert bound(SIZES, PAGE, gpu).concurrency == 3
    assert bound(SIZES, PAGE, gpu, max_seqs=2).concurrency == 2
    nothing = bound(SIZES, PAGE, Gpu(1e14, 1e12, 4 * GIB))
    assert nothing.concurrency == 0
    assert nothing.cost_per_million(2.0) == float("inf")


def test_cost_follows_from_speed():
    limit = bound(SIZES, PAGE, GPUS["H100"])
    assert limit.cost_per_million(3.6) * limit.pages_per_second == pytest.approx(1000)


def test_the_command_prints_a_table_or_json(capsys):
    assert main(["plan", "--gpu", "H100", "--price", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == list(MODES)
    assert main(["plan", "--mode", "gundam", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["modes"]
    assert (row["tiles"], row["image_tokens"], row["vision"]) == (6, 903, PAGE.vision)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--flops", "100"], "needs --flops, --bandwidth"), (["--model", "nowhere"], "nowhere")],
)
def test_what_cannot_be_is_one_line(arguments, words, capsys):
    assert main(["plan", *arguments]) == 2
    assert words in capsys.readouterr().err
