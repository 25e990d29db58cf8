"""The tokenizers that the hosts load, against the ids of the official code."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.parity.loader import Case, ParityData, each_case
from vllm_dsocr.hf import DeepseekOCRProcessor


@pytest.fixture(scope="module", params=["vllm", "hf"])
def loaded(request: pytest.FixtureRequest, checkpoint: Path) -> PreTrainedTokenizerBase:
    """As the host loads it; vLLM goes by AutoTokenizer."""
    if request.param == "hf":
        return DeepseekOCRProcessor.from_pretrained(checkpoint).tokenizer
    return AutoTokenizer.from_pretrained(checkpoint)


@each_case("tokenizer.json")
def test_ids(loaded: PreTrainedTokenizerBase, case: Case) -> None:
    assert loaded.encode(case["text"], add_special_tokens=False) == case["ids"]
    assert loaded.convert_ids_to_tokens(case["ids"]) == case["tokens"]


@each_case("tokenizer.json")
def test_text(loaded: PreTrainedTokenizerBase, case: Case) -> None:
    assert loaded.decode(case["ids"]) == case["decoded"]
    assert loaded.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


def test_random_ids(data: ParityData, loaded: PreTrainedTokenizerBase) -> None:
    for row in data.document("tokenizer.json")["random_decode"]:
        assert loaded.decode(row["ids"]) == row["decoded"]
        assert loaded.decode(row["ids"], skip_special_tokens=True) == row["decoded_skip_special"]


def test_special_tokens(data: ParityData, loaded: PreTrainedTokenizerBase) -> None:
    recorded = data.document("tokenizer.json")["special_ids"]
    assert {token: loaded.convert_tokens_to_ids(token) for token in recorded} == recorded
