"""The roofline on hand-made GPUs, and `dsocr plan`."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan.bounds import MEMORY_SHARE, Setup, bound
from vllm_dsocr.plan.gpus import GIB, GPUS, Gpu
from vllm_dsocr.plan.page_cost import model_bytes, page_cost
from vllm_dsocr.plan.sizes import ModelSizes

SIZES = ModelSizes()
PAGE = page_cost(SIZES, plan_tiles(1654, 2339, MODES["gundam"]), 1000)


def test_arithmetic_alone_when_memory_is_infinitely_fast():
    gpu = Gpu(1e12, 1e30, 1e15)
    # The decode steps all run at the mean length, as the page's cost counts them.
    limit = bound(SIZES, PAGE, gpu)
    assert limit.pages_per_second == pytest.approx(1e12 / PAGE.flops, rel=1e-3)
    assert limit.pages_per_second_in_turn == limit.pages_per_second


def test_memory_alone_when_arithmetic_is_infinitely_fast():
    slow, fast = (bound(SIZES, PAGE, Gpu(1e30, speed, 1e15)) for speed in (1e12, 2e12))
    assert fast.pages_per_second == pytest.approx(2 * slow.pages_per_second)


def test_concurrency_is_what_half_written_caches_leave():
    half = PAGE.cache_bytes * (PAGE.tokens - PAGE.text_tokens // 2) / PAGE.tokens
    room = model_bytes(SIZES) + PAGE.activation_bytes + 3.5 * half
    gpu = Gpu(1e14, 1e12, room / MEMORY_SHARE)
    assert bound(SIZES, PAGE, gpu).concurrency == 3
    assert bound(SIZES, PAGE, gpu, Setup(max_num_seqs=2)).concurrency == 2
    nothing = bound(SIZES, PAGE, Gpu(1e14, 1e12, 4 * GIB))
    assert nothing.concurrency == 0
    assert nothing.cost_per_million(2.0) == float("inf")


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_in_turn_is_faster_than_both_at_once(name, mode):
    page = page_cost(SIZES, plan_tiles(1654, 2339, MODES[mode]), 1000)
    limit = bound(SIZES, page, GPUS[name])
    assert 0 < limit.pages_per_second_in_turn <= limit.pages_per_second
    # and both at once is no faster than either alone
    gpu = GPUS[name]
    assert limit.pages_per_second <= gpu.flops / (page.vision + page.prefill)


def test_the_bounds_of_an_h100():
    """27.3 pages a second in turn is no bound: with both busy all the time it is 30.9."""
    limit = bound(SIZES, PAGE, GPUS["H100"], Setup(max_num_seqs=256))
    assert limit.pages_per_second == pytest.approx(30.9, abs=0.05)
    assert limit.pages_per_second_in_turn == pytest.approx(27.3, abs=0.05)
    assert bound(SIZES, PAGE, GPUS["H100"]).pages_per_second > 34.9  # vLLM takes 1,024 there


def test_fp8_halves_the_maps_and_no_more():
    memory_bound = Gpu(1e30, 1e12, 1e15, 2e30)
    full, half = (bound(SIZES, PAGE, memory_bound, Setup(fp8=fp8)) for fp8 in (False, True))
    assert 1 < half.pages_per_second / full.pages_per_second < 2
    without = bound(SIZES, PAGE, GPUS["A100-80"], Setup(fp8=True))
    assert without.pages_per_second >= bound(SIZES, PAGE, GPUS["A100-80"]).pages_per_second


def test_several_gpus_share_the_decoder_and_each_has_an_encoder():
    one, two = (
        bound(SIZES, PAGE, Gpu(1e12, 1e30, 1e15), Setup(tensor_parallel_size=n)) for n in (1, 2)
    )
    rest = PAGE.prefill + PAGE.decode
    assert two.pages_per_second == pytest.approx(1e12 / (PAGE.vision + rest / 2), rel=1e-3)
    assert two.pages_per_second < 2 * one.pages_per_second
    with pytest.raises(ValueError, match="10 attention heads cannot be split over 4"):
        bound(SIZES, PAGE, GPUS["H100"], Setup(tensor_parallel_size=4))


def test_the_list_of_gpus_is_sane():
    wanted = "H100-PCIe H100-NVL H200-NVL B200 B300 MI300X MI325X H20 RTX5090 RTX-PRO-6000 A6000"
    assert set(wanted.split()) <= set(GPUS)
    assert GPUS["L40S"].memory == 45 * GIB  # 48 GiB less what ECC takes
    for gpu in GPUS.values():
        assert gpu.source
        assert gpu.fp8_flops == 0 or 1.9 < gpu.fp8_flops / gpu.flops < 2.1


def test_cost_follows_from_speed():
    limit = bound(SIZES, PAGE, GPUS["H100"])
    assert limit.cost_per_million(3.6) * limit.pages_per_second == pytest.approx(1000)


def test_the_command_prints_a_table_or_json(capsys):
    assert main(["plan", "--gpu", "H100", "--price", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:]] == list(MODES)
    assert main(["plan", "--mode", "gundam", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["modes"]
    assert (row["tiles"], row["image_tokens"], row["vision"]) == (6, 903, PAGE.vision)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--flops", "100"], "needs --flops, --bandwidth"),
        (["--model", "nowhere"], "nowhere"),
        (["--gpu", "H1000"], "'H1000' is not one of"),
        (["--page", "1x"], "is not WIDTHxHEIGHT"),
        (["--gpu", "H100", "--tensor-parallel-size", "3"], "cannot be split"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, words, capsys):
    assert main(["plan", *arguments]) == 2
    assert words in capsys.readouterr().err
