"""The model's text with its layout tags -> blocks. Never evaluates anything, never loses text.

Grammar of a tag, with optional white space inside the list:

    <|ref|>LABEL<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>

LABEL holds no `<|`; coordinates are integers 0..999 with x1 <= x2 and y1 <= y2. Whatever is not
such a tag to the letter (cut off, three numbers, code, text between the halves) is text and stays.
Knows nothing of pages or files; standard library only.
"""

from __future__ import annotations

import re

from vllm_dsocr.config import DET_CLOSE, DET_OPEN, REF_CLOSE, REF_OPEN
from vllm_dsocr.document.blocks import Block, Box

_NUMBER = r"[0-9]{1,3}"
_BOX = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]"
_LABEL = r"(?:[^<]|<(?!\|))+"  # up to the next "<|", in one pass
_TAG = re.compile(
    f"{re.escape(REF_OPEN)}(?P<label>{_LABEL}){re.escape(REF_CLOSE)}"
    rf"{re.escape(DET_OPEN)}\s*\[\s*(?P<boxes>{_BOX}(?:\s*,\s*{_BOX})*)\s*\]\s*{re.escape(DET_CLOSE)}"
)


def parse_blocks(text: str) -> tuple[Block, ...]:
    """Blocks of a page in reading order; text before the first tag has no label.

    The tags and the contents, in order, are the whole of `text` without its outer white space.
    """
    text = text.strip()
    blocks: list[Block] = []
    label, boxes, start = None, (), 0
    for tag in _TAG.finditer(text):
        found = _boxes(tag["boxes"])
        if found is None:
            continue
        if label is not None or tag.start():
            blocks.append(Block(text[start : tag.start()], label, boxes))
        label, boxes, start = tag["label"].strip(), found, tag.end()
    if label is not None or text:
        blocks.append(Block(text[start:], label, boxes))
    return tuple(blocks)


def _boxes(written: str) -> tuple[Box, ...] | None:
    """Boxes of a matched list, or None when corners are in the wrong order."""
    numbers = [int(number) for number in re.findall(_NUMBER, written)]
    try:
        return tuple(Box(*numbers[i : i + 4]) for i in range(0, len(numbers), 4))
    except ValueError:
        return None
