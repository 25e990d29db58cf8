"""Prompt ids and greedy continuations through vLLM, in fp32 with exact pixels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import LLM

from tests.parity.loader import Case, Document, ParityData, each_case, resolution, unrle
from tests.plugin.engines import complete, prompt, start

LEAST_MARGIN = 1e-3  # between the two best logits; what follows a smaller one does not count


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> LLM:
    return start(checkpoint)


def page_prompt(data: ParityData, case: Case, image: str) -> dict[str, Any]:
    options = asdict(resolution(case["mode"]))
    return prompt(case["prompt"], data.image(image), **options)


def greedy(entry: Document) -> list[int]:
    """The recorded continuation without bans, up to the first step too close to call."""
    (run,) = (run for run in entry["generate"] if not run["kwargs"])
    margins = [first - second for first, second, *_ in run["raw_top5_logits"]]
    close = (step for step, margin in enumerate(margins) if margin < LEAST_MARGIN)
    return run["ids"][: next(close, None)]


def continuation(llm: LLM, request: dict[str, Any], like: list[int]) -> list[int]:
    (output,) = complete(llm, [request], tokens=len(like))
    return list(output.outputs[0].token_ids)


@each_case("lm.json")
def test_greedy_continuation(llm: LLM, data: ParityData, case: Case) -> None:
    expected = greedy(case.values)
    assert continuation(llm, page_prompt(data, case, case["image"]), expected) == expected


def test_greedy_continuation_of_text(llm: LLM, data: ParityData) -> None:
    text = data.document("lm.json")["text_only"]
    expected = greedy(text)
    assert continuation(llm, {"prompt_token_ids": text["input_ids"]}, expected) == expected
    assert continuation(llm, prompt(text["text"]), expected) == expected


@each_case("prompts.json", lambda case: case["prompt"].count("<image>") == 1)
def test_prompt_ids(llm: LLM, data: ParityData, case: Case) -> None:
    (output,) = complete(llm, [page_prompt(data, case, case.document["image"])], tokens=1)
    assert output.prompt_token_ids == unrle(case["input_ids_rle"])
