"""Offline prompts, chat and token ids -> prompt ids, without an engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("vllm")

from vllm.config import ModelConfig, VllmConfig
from vllm.renderers import ChatParams
from vllm.renderers.registry import renderer_from_config

from tests.plugin.engines import register
from vllm_dsocr.config import BOS_TOKEN, OptionError
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.page.source import PageError
from vllm_dsocr.plugin import TOKENIZER_MODE
from vllm_dsocr.plugin.renderer import DeepseekOCRRenderer

TEXT_IDS = [40, 608, 379, 37, 52, 16]  # "Free OCR."


@pytest.fixture(scope="module")
def renderer(checkpoint: Path) -> Iterator[DeepseekOCRRenderer]:
    register()
    model_config = ModelConfig(str(checkpoint), tokenizer_mode=TOKENIZER_MODE)
    renderer = renderer_from_config(VllmConfig(model_config=model_config))
    yield renderer
    renderer.shutdown()


def ids(renderer: DeepseekOCRRenderer, prompt: dict[str, Any]) -> list[int]:
    (rendered,) = renderer.render_cmpl([prompt])
    return rendered["prompt_token_ids"]


@pytest.mark.parametrize(
    "text", ["Free OCR.", " Free OCR. \n", f"{BOS_TOKEN} Free OCR.", f"{BOS_TOKEN}" * 2 + "Free OCR."]
)
def test_text_is_stripped_behind_one_bos(renderer: DeepseekOCRRenderer, text: str) -> None:
    assert ids(renderer, {"prompt": text}) == [0, *TEXT_IDS]


def test_token_ids_are_taken_as_they_are(renderer: DeepseekOCRRenderer) -> None:
    assert ids(renderer, {"prompt_token_ids": [5, 6]}) == [5, 6]


def test_bos_the_tokenizer_adds_itself_is_not_doubled(renderer: DeepseekOCRRenderer) -> None:
    ids = [0, *TEXT_IDS]

    class AddsBos:
        def __call__(self, text: str, **kwargs: Any) -> dict[str, list[int]]:
            return {"input_ids": ids}
