"""A Ray cluster of two machines on this one, and pages for it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",  # else a busy machine leaves them nothing
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}


@contextmanager
def two_nodes(patience: int = 20) -> Iterator[Any]:
    """A cluster with two CPUs a node, so that each has an engine and room to draw: its `address`,
    and `second`, the node that is not its head.

    patience: how often a node that is busy may not answer before it is taken for dead.
    """
    os.environ |= QUIET
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 150 << 20}
    patient = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": patience}
    running = Cluster(
        initialize_head=True,
        head_node_args={**node, "include_dashboard": False, "_system_config": patient},
    )
    try:
        running.second = running.add_node(**node)
        running.wait_for_nodes()
        yield running
    finally:
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
