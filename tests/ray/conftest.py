"""A Ray cluster of two machines on this one, and `dsocr` run against it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

pytest.importorskip("ray.data", reason="pip install 'vllm-dsocr[ray]'")
pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Its address. Two nodes of two CPUs each, so that each has an engine and room to draw."""
    os.environ |= QUIET
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 150 << 20, "include_dashboard": False}
    patient = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
    running = Cluster(initialize_head=True, head_node_args={**node, "_system_config": patient})
    running.add_node(num_cpus=2, object_store_memory=150 << 20)
    running.wait_for_nodes()
    yield running.address
    running.shutdown()


def block_page(number: int) -> Image.Image:
    """A small page of coloured bars that no other number has."""
    chance = random.Random(number)
    image = Image.new("RGB", (320, 320), "white")
    draw = ImageDraw.Draw(image)
    for row in range(4):
        color = tuple(chance.randrange(256) for _ in range(3))
        draw.rectangle((20, 20 + 70 * row, chance.randint(60, 300), 70 + 70 * row), color)
    draw.text((30, 30), f"page {number}", "black")
    return image


def scans(folder: Path, num_images: int, num_pdfs: int, pages_each: int) -> Path:
    """A folder of images, and of PDFs of so many pages, all different."""
    folder.mkdir(parents=True)
    for number in range(num_images):
        block_page(number).save(folder / f"{number:03d}.png")
    for number in range(num_pdfs):
        first = num_images + number * pages_each
        pages = [block_page(first + i) for i in range(pages_each)]
        pages[0].save(folder / f"{number:02d}.pdf", save_all=True, append_images=pages[1:])
    return folder
