"""The documented peak of the vision tower against what its tensors take on this CPU."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.live_bytes import LiveBytes
from vllm_dsocr.cli import main
from vllm_dsocr.config import MODES, ClipSizes, Resolution, SamSizes, VisionSizes
from vllm_dsocr.encoder import assembly
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.encoder.attention import FORMS, PLAIN, Form, fused, pieces
from vllm_dsocr.encoder.attention.channels import as_channels
from vllm_dsocr.encoder.attention.forms import by_head
from vllm_dsocr.page.geometry import most_tokens_size, plan_tiles
from vllm_dsocr.plan import vision_memory
from vllm_dsocr.plan.vision_memory import vision_peak

# The published widths, which decide the peak, and one block of each kind.
SIZES = VisionSizes(SamSizes(layers=2, global_attn_indexes=(1,)), ClipSizes(layers=1))
THREADS = 1
TIGHT = 0.8  # of the bound are at least in use, in the widest form
WIDEST_OF_CPUS, WIDEST_OF_GPUS = "pieces-channels", "channels"
PAGES = [
    (Resolution(256, 256, crop_mode=False), 1),
    (Resolution(512, 512, crop_mode=False), 2),
    (Resolution(512, 320, crop_mode=True), 1),
    pytest.param(Resolution(320, 320, crop_mode=True), 2, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def tower():
    module = nn.Module()
    build_vision_tower(module, SIZES)
    return module.to(torch.bfloat16)


@pytest.fixture(scope="module")
def fp32_tower():
    """Faster here, for what does not depend on the width of a number."""
    module = nn.Module()
    build_vision_tower(module, SIZES)
    return module


@pytest.fixture
def one_thread(monkeypatch):
    # Once a CPU engine has run in this process, vLLM lets nobody set the number.
    monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS)


def a_page(resolution):
    """A page of three tiles in one row where there are tiles, and its plan."""
    plan = plan_tiles(3 * resolution.image_size, resolution.image_size, resolution)
    base, side = resolution.base_size, resolution.image_size
    views = [torch.zeros(3, base, base, dtype=torch.uint8)]
    views.append(torch.zeros(plan.num_tiles, 3, side, side, dtype=torch.uint8))
    return plan, PageViews(*views, plan.rows, plan.cols)


@torch.inference_mode()
def measured(tower, page, pages):
    with LiveBytes() as live:
        embed_pages(tower, [page] * pages)
    return live.peak


@pytest.mark.parametrize(("resolution", "pages"), PAGES)
def test_a_cpu_stays_within_the_bound_and_near_it(
    tower, one_thread, monkeypatch, resolution, pages
):
    monkeypatch.setattr(tower.sam_model.forms, "name", WIDEST_OF_CPUS)
    plan, page = a_page(resolution)
    bound = vision_peak(SIZES, plan, pages, threads=THREADS)
    assert TIGHT * bound <= measured(tower, page, pages) <= bound


@pytest.mark.parametrize(("resolution", "pages"), PAGES)
def test_the_form_for_gpus_does_too(tower, monkeypatch, resolution, pages):
    monkeypatch.setattr(tower.sam_model.forms, "name", WIDEST_OF_GPUS)
    plan, page = a_page(resolution)
    bound = vision_peak(SIZES, plan, pages)
    assert TIGHT * bound <= measured(tower, page, pages) <= bound


class NothingLaunched:
    """In place of a Triton kernel: what is counted is allocated around it."""

    def __getitem__(self, grid):
        return lambda *tensors, **constants: None


def flash(q, k, v, scale):
    """Lays queries, keys and values out as vLLM's flash-attn wants them."""
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


@pytest.fixture
def gpu_forms(monkeypatch):
    """What may serve on a GPU, as far as it allocates memory here as there."""
    kernels = pytest.importorskip("vllm_dsocr.encoder.attention.kernels")
    for name in ("positions_kernel", "attention_kernel"):
        monkeypatch.setattr(kernels, name, NothingLaunched())
    monkeypatch.setitem(PLAIN, "flash", flash)
    as_flash = by_head(partial(as_channels, backend="flash", tokens_first=True))
    forms = {"channels-flash": as_flash, "vllm": by_head(lambda q, *others: torch.empty_like(q))}
    for launch in fused.LAUNCHES:
        forms[launch] = lambda grid, launch=launch: fused.run_kernels(
            grid.qkv, grid.fill, grid.tables, grid.heads, grid.window, launch
        )
    for name, call in forms.items():
        monkeypatch.setitem(FORMS, name, Form(call))
    return [*forms, "channels", "mask"]


def peaks(tower, monkeypatch, forms, page):
    for name in forms:
        monkeypatch.setattr(tower.sam_model.forms, "name", name)
        yield name, measured(tower, page, 1)


@pytest.mark.parametrize("side", [256, pytest.param(512, marks=pytest.mark.slow)])
def test_no_form_that_may_be_chosen_takes_more(
    fp32_tower, one_thread, monkeypatch, gpu_forms, side
):
    """By measurement when a server starts; of GPUs without what their kernels take inside."""
    plan, page = a_page(Resolution(side, side, crop_mode=False))
    on_cpus = [name for name in FORMS if name.startswith("pieces")] + ["mask"]
    for forms, threads in ((on_cpus, THREADS), (gpu_forms, 0)):
        bound = vision_peak(SIZES, plan, threads=threads, width=4)
        found = dict(peaks(fp32_tower, monkeypatch, forms, page))
        assert max(found.values()) <= bound, found


def test_passes_and_pieces_are_the_encoders():
    assert vision_memory.PATCHES_PER_PASS == assembly.MAX_PATCHES_PER_PASS
    assert vision_memory.CPU_PATCHES_PER_PASS == assembly.CPU_PATCHES_PER_PASS
    assert vision_memory.SCORES_PER_THREAD == pieces.SCORES_PER_THREAD


@pytest.mark.parametrize("mode", MODES)
def test_more_pages_add_no_more_than_their_pixels_and_embeddings(mode):
    plan = plan_tiles(1654, 2339, MODES[mode])
    sides = [plan.resolution.base_size] + plan.num_tiles * [plan.resolution.image_size]
    own = sum(3 * side**2 for side in sides) + 3 * 2 * 1280 * plan.num_image_tokens
    full, fuller = (vision_peak(VisionSizes(), plan, pages) for pages in (100, 101))
    assert fuller - full == own


@pytest.mark.parametrize("tokens", [2048, 4096, 8192, 16384])
def test_a_step_full_of_pages_takes_little_more_than_the_one_that_vllm_profiles(tokens):
    """vLLM profiles as many of the largest page as fit; what fits beside them is less than one."""

    def full(plan):
        return vision_peak(VisionSizes(), plan, max(1, tokens // plan.num_image_tokens))

    largest = plan_tiles(*most_tokens_size(MODES["gundam-m"]), MODES["gundam-m"])
    one, two = (vision_peak(VisionSizes(), largest, pages) for pages in (1, 2))
    sizes = [(1654, 2339), (2339, 1654), (640, 640)]
    plans = [plan_tiles(*size, mode) for mode in MODES.values() for size in sizes]
    assert max(map(full, plans)) <= full(largest) + two - one


def test_the_command_states_it_for_so_many_pages(capsys):
    assert main(["plan", "--mode", "gundam", "--pages", "4", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["modes"]
    plan = plan_tiles(1654, 2339, MODES["gundam"])
    assert row["vision_bytes"] == vision_peak(VisionSizes(), plan, 4)
