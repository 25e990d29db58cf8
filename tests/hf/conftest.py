"""The tiny random checkpoint of the reference data, loaded once."""

from pathlib import Path

import pytest
import torch

from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor

TINY = Path(__file__).parent.parent / "data" / "tiny-random"


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return TINY


@pytest.fixture(scope="session")
def model() -> DeepseekOCRForCausalLM:
    return DeepseekOCRForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor() -> DeepseekOCRProcessor:
    return DeepseekOCRProcessor.from_pretrained(TINY, mode="tiny")
