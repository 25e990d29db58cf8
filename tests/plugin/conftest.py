"""The tiny random checkpoint and pages to read with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    return DATA / "tiny-random"


@pytest.fixture(scope="session")
def pages() -> dict[str, Image.Image]:
    """`v1_page` and so on, with the EXIF tags and modes their files have."""
    return {path.stem: Image.open(path) for path in (DATA / "images").glob("v*")}


@pytest.fixture(scope="session")
def half_and_half() -> Image.Image:
    """Black and white in equal parts: normalised, the whole and its two tiles sum to exactly 0."""
    image = Image.new("RGB", (1280, 640))
    image.paste((255, 255, 255), (640, 0, 1280, 640))
    return image


@pytest.fixture(scope="session")
def llm(checkpoint: Path) -> Any:
    """An engine that many tests share."""
    from tests.plugin.engines import start

    return start(checkpoint)
