"""One cluster for all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.nodes import two_nodes


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Its address."""
    with two_nodes() as running:
        yield running.address
