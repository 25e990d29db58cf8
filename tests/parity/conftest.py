"""Where the reference data of the official code are: DSOCR_PARITY_DATA, else `tests/data`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.parity.loader import DATA, ParityData


@pytest.fixture(scope="session")
def data() -> ParityData:
    """The reference data, read on demand."""
    return DATA


@pytest.fixture(scope="session")
def parity_data(data: ParityData) -> Path:
    """Their directory."""
    return data.root


@pytest.fixture(scope="session")
def checkpoint(data: ParityData) -> Path:
    """The directory of the checkpoint the data were made with."""
    return data.checkpoint


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    """The checkpoint's own tokenizer file, without any host's additions."""
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
