"""Task + prompt text -> token ids with one placeholder per image token.

Knows neither tokenizers nor hosts: text becomes ids through a function the caller brings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_dsocr.config import BOS_TOKEN, GROUNDING_TOKEN, IMAGE_TOKEN, REF_CLOSE, REF_OPEN

# The prompts the model was trained on, by what they are for.
TASKS: dict[str, str] = {
    "markdown": f"{IMAGE_TOKEN}\n{GROUNDING_TOKEN}Convert the document to markdown.",
    "ocr": f"{IMAGE_TOKEN}\n{GROUNDING_TOKEN}OCR this image.",
    "free": f"{IMAGE_TOKEN}\nFree OCR.",
    "figure": f"{IMAGE_TOKEN}\nParse the figure.",
    "describe": f"{IMAGE_TOKEN}\nDescribe this image in detail.",
    "locate": f"{IMAGE_TOKEN}\nLocate {REF_OPEN}{{text}}{REF_CLOSE} in the image.",
}


class PromptError(ValueError):
    """A prompt that cannot be built or does not fit its images."""


def task_prompt(task: str, text: str = "") -> str:
    """The prompt for one page and a task of TASKS; `locate` needs the `text` to look for.

    Raises PromptError for an unknown task, a missing text and a text the task has no place for.
    """
    if task not in TASKS:
        raise PromptError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    takes_text = "{text}" in TASKS[task]
    if takes_text != bool(text):
        raise PromptError(f"task {task!r} {'needs a' if takes_text else 'takes no'} text")
    return TASKS[task].format(text=text)


def prompt_ids(prompt: str, encode: Callable[[str], list[int]], bos_token_id: int) -> list[int]:
    """Ids of a prompt as the model saw prompts in training: stripped, one BOS in front.

    encode: text -> ids, special tokens in the text included; whether it adds BOS does not matter,
    nor does it whether a chat template or a client has put one in front, or both of them.
    """
    return with_bos(encode(_without_bos(prompt)), bos_token_id)


def _without_bos(text: str) -> str:
    text = text.strip()
    while text.startswith(BOS_TOKEN):
        text = text.removeprefix(BOS_TOKEN).strip()
    return text


def with_bos(ids: Sequence[int], bos_token_id: int) -> list[int]:
    """The ids with BOS in front, once."""
    return list(ids) if ids and ids[0] == bos_token_id else [bos_token_id, *ids]


def expand_placeholders(
    ids: Sequence[int], image_token_id: int, counts: Sequence[int]
) -> list[int]:
    """The ids with the i-th image token repeated counts[i] times.

    Raises PromptError, with both counts, unless there is one image token per image.
    """
    num_tags = sum(token == image_token_id for token in ids)
    if num_tags != len(counts):
        raise PromptError(f"the prompt has {num_tags} {IMAGE_TOKEN} tags for {len(counts)} images")
    remaining = iter(counts)
    expanded: list[int] = []
    for token in ids:
        expanded += [token] * (next(remaining) if token == image_token_id else 1)
    return expanded
