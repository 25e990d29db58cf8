"""What holds for every test: those marked `gpu` need one, a folder's tests stay together."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LARGE = ("hf", "plugin")  # their subfolders are shared out too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes take a folder each, so that its engines and servers start once."""
    for item in items:
        folder, *below = item.path.relative_to(HERE).parts
        group = f"{folder}/{below[0]}" if folder in LARGE and len(below) > 1 else folder
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
