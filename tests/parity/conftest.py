"""Where the reference data of the official code lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DEFAULT_DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="session")
def parity_data() -> Path:
    """A directory of the reference format: `golden/`, `images/`, `tiny-random/`."""
    return Path(os.environ.get("PARITY_DATA", DEFAULT_DATA))
