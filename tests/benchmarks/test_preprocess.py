"""Both sides of the preprocessing benchmark, ours in this process, vLLM's own in one of its own."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("vllm")

from benchmarks.peer import Side
from benchmarks.preprocess import A4, MAX_CROPS, MODEL, answers, text_page
from vllm_dsocr.config import MODES, PageOptions
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.source import open_image


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.jpg"
    file.write_bytes(text_page())
    return file


def test_the_page_is_dark_on_light_and_its_own() -> None:
    pages = [text_page(seed) for seed in (0, 0, 1)]
    assert pages[0] == pages[1] != pages[2]
    image = Image.open(io.BytesIO(pages[0]))
    shades = image.convert("L").histogram()
    assert (image.size, image.mode) == (A4, "RGB")
    assert sum(shades[200:]) > 4 * sum(shades[:100]) > 0


def test_pixels_travel_as_bytes_and_half_as_many_as_the_peers(page: Path) -> None:
    with Side("benchmarks.preprocess", "peer", "--image", str(page), "--model", str(MODEL)) as peer:
        ours = answers("ours", str(MODEL), page)
        exact = ours(max_crops=MAX_CROPS, resampler="pillow")
        fast, theirs = ours(max_crops=MAX_CROPS), peer.ask()
    views = page_tensors(open_image(page), PageOptions())
    assert fast["bytes"] == exact["bytes"] == views.global_view.nbytes + views.tiles.nbytes
    assert theirs["bytes"] == 2 * fast["bytes"]
    assert theirs["tokens"] == fast["tokens"] == plan_tiles(*A4, MODES["gundam"]).num_image_tokens
    assert theirs["ms"] > theirs["decode_ms"] > 0


def test_rates_need_no_peer(page: Path) -> None:
    rate = answers("ours", str(MODEL), page)(threads=2, mode="tiny")
    assert rate["pages_per_s"] > 0


def test_torchvision_is_lent_for_the_import_only() -> None:
    from benchmarks.peer import peer_model

    before = "torchvision" in sys.modules
    model = peer_model()
    assert model.__module__.startswith("vllm.")
    assert ("torchvision" in sys.modules) == before


def test_a_side_that_dies_is_named() -> None:
    with Side("benchmarks.peer", "peer") as side, pytest.raises(RuntimeError, match="peer stopped"):
        side.ask()
