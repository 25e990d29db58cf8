"""The model's text with its layout tags -> blocks. Never evaluates anything, never loses text.

    <|ref|>LABEL<|/ref|><|det|>[[x1, y1, x2, y2], ...]<|/det|>    as the model writes a tag
    LABEL[[x1, y1, x2, y2]]                                       special tokens dropped

LABEL holds no `<|`. The second form, which some servers send, counts at the start of a line, where
LABEL is one of the layout's and the text has no tag of the first form. A tag with a list that
cannot be read is a tag without boxes; one that is not closed, or has text between its halves, is
text.
Knows nothing of pages or files; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_dsocr.config import DET_CLOSE, DET_OPEN, REF_CLOSE, REF_OPEN
from vllm_dsocr.document.blocks import Block
from vllm_dsocr.document.coordinates import read_boxes
from vllm_dsocr.document.labels import LAYOUT_LABELS

_INNER = r"(?:[^<]|<(?!\|))"  # up to the next "<|", in one pass
_TAG = re.compile(
    f"{re.escape(REF_OPEN)}(?P<label>{_INNER}*){re.escape(REF_CLOSE)}"
    f"{re.escape(DET_OPEN)}(?P<boxes>{_INNER}*){re.escape(DET_CLOSE)}"
)
_PLAIN_TAG = re.compile(
    rf"^[ \t]*(?P<label>{'|'.join(sorted(LAYOUT_LABELS, key=len, reverse=True))})"
    r"(?P<boxes>\[\[[-+0-9.,\s\[\]()]*?\]\s?\])",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class PlacedBlock:
    """A block and where its content and its label stand in the text: (start, end) in characters."""

    block: Block
    content: tuple[int, int]
    label: tuple[int, int] | None = None


def parse_blocks(text: str) -> tuple[Block, ...]:
    """Blocks of a page in reading order; text before the first tag has no label.

    The tags and the contents, in order, are the whole of `text` without its outer white space.
    """
    return tuple(placed.block for placed in placed_blocks(text))


def placed_blocks(text: str) -> Iterator[PlacedBlock]:
    """The same blocks, with their places in `text`."""
    inner = text.strip()
    shift = len(text) - len(text.lstrip())
    tags = list(_tags(inner))
    ends = [tag.start() for tag in tags[1:]] + [len(inner)]
    before = inner[: tags[0].start()] if tags else inner
    if before:
        yield PlacedBlock(Block(before), (shift, shift + len(before)))
    for tag, end in zip(tags, ends, strict=bool(tags)):
        block = _block(tag, inner[tag.end() : end])
        first, last = tag.span("label")
        yield PlacedBlock(block, (shift + tag.end(), shift + end), (shift + first, shift + last))


def _tags(text: str) -> Iterator[re.Match[str]]:
    found = False
    for tag in _TAG.finditer(text):
        found = True
        yield tag
    if not found:
        yield from (tag for tag in _PLAIN_TAG.finditer(text) if read_boxes(tag["boxes"]).boxes)


def _block(tag: re.Match[str], content: str) -> Block:
    reading = read_boxes(tag["boxes"])
    written = tag[0] if reading.note else None
    return Block(content, tag["label"].strip(), reading.boxes, written, reading.note)
