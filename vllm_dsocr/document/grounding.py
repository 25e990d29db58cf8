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


def parse_blocks(text: str) -> tuple[Block, ...]:
    """Blocks of a page in reading order; text before the first tag has no label.

    The tags and the contents, in order, are the whole of `text` without its outer white space.
    """
    text = text.strip()
    tags = list(_tags(text))
    ends = [tag.start() for tag in tags[1:]] + [len(text)]
    blocks = [_block(tag, text[tag.end() : end]) for tag, end in zip(tags, ends, strict=bool(tags))]
    before = text[: tags[0].start()] if tags else text
    return (Block(before), *blocks) if before else tuple(blocks)


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
