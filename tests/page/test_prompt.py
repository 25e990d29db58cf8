"""Prompts by task, BOS and placeholders."""

from __future__ import annotations

import pytest

from vllm_dsocr.config import BOS_TOKEN, IMAGE_TOKEN
from vllm_dsocr.page.prompt import (
    TASKS,
    PromptError,
    expand_placeholders,
    prompt_ids,
    task_prompt,
    with_bos,
)

BOS, IMAGE = 0, 9


def test_tasks_are_the_trained_prompts() -> None:
    assert task_prompt("markdown") == "<image>\n<|grounding|>Convert the document to markdown."
    assert task_prompt("free") == "<image>\nFree OCR."
    assert (
        task_prompt("locate", "the {total}")
        == "<image>\nLocate <|ref|>the {total}<|/ref|> in the image."
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_one_image(task: str) -> None:
    text = "x" if task == "locate" else ""
    assert task_prompt(task, text).count(IMAGE_TOKEN) == 1


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("transcribe", "", "one of markdown, ocr, .*'transcribe'"),
        ("locate", "", "'locate' needs a text"),
        ("free", "x", "'free' takes no text"),
    ],
)
def test_bad_tasks_are_named(task: str, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        task_prompt(task, text)


@pytest.mark.parametrize("before", ["", "  ", BOS_TOKEN, f" {BOS_TOKEN}{BOS_TOKEN} "])
def test_prompt_is_stripped_behind_one_bos(before: str) -> None:
    ids = prompt_ids(f"{before}ab\n", lambda text: [ord(char) for char in text], BOS)
    assert ids == [BOS, 97, 98]


@pytest.mark.parametrize("ids", [[5, 6], [BOS, 5, 6]])
def test_bos_comes_once(ids: list[int]) -> None:
    assert with_bos(ids, BOS) == [BOS, 5, 6]


def test_an_empty_prompt_is_bos() -> None:
    assert with_bos([], BOS) == [BOS]


@pytest.mark.parametrize(
    ("ids", "counts", "expanded"),
    [
        ([BOS, 5], [], [BOS, 5]),
        ([BOS, IMAGE, 5], [3], [BOS, IMAGE, IMAGE, IMAGE, 5]),
        ([IMAGE, 5, IMAGE, IMAGE], [1, 2, 1], [IMAGE, 5, IMAGE, IMAGE, IMAGE]),
    ],
)
def test_each_image_token_is_repeated(
    ids: list[int], counts: list[int], expanded: list[int]
) -> None:
    assert expand_placeholders(ids, IMAGE, counts) == expanded


@pytest.mark.parametrize(("ids", "counts"), [([5], [3]), ([IMAGE], []), ([IMAGE, IMAGE], [3])])
def test_a_mismatch_names_both_counts(ids: list[int], counts: list[int]) -> None:
    with pytest.raises(PromptError, match=f"{ids.count(IMAGE)} <image> tags for {len(counts)} im"):
        expand_placeholders(ids, IMAGE, counts)
