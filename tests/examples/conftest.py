"""The bundled reader, its held-out pages, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

READER = Path(__file__).parents[2] / "examples" / "reader"


@pytest.fixture(scope="session")
def reader() -> Path:
    return READER


@pytest.fixture(scope="session")
def reader_url() -> Iterator[str]:
    """Base address of a server of the reader in fp32, so that hosts can be compared exactly."""
    pytest.importorskip("vllm")
    from examples.demo import served

    with served(READER, "--dtype", "float32") as url:
        yield url.removesuffix("/v1")
