"""A task and an answer -> what is wrong with its form, if anything. Says nothing of right or wrong.

markdown  tags in a row, each followed by what its label asks for
ocr       one tag a line, the text in the label's place
free      text without special tokens
figure    one table
locate    one tag
"""

from __future__ import annotations

import re

from vllm_dsocr.config import MARKUP_TOKENS
from vllm_dsocr.document.blocks import Block
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.tables import Table, split_tables

from ..batches import LABELS

_WORDS = r"[^\n]*\S"
CONTENT = {
    "title": rf"# {_WORDS}",
    "sub_title": rf"## {_WORDS}",
    "text": rf"{_WORDS}|- {_WORDS}(?:  \n- {_WORDS})+",
    "table": r"<table>[^\n]*</table>",
    "image": r"",
    "image_caption": rf"<center>{_WORDS} </center>",
    "table_caption": rf"<center>{_WORDS} </center>",
    "equation": r"\\\[ [^\n]+ = [^\n]+ \\\]",
    "header": _WORDS,
    "footer": _WORDS,
}


def problem(task: str, text: str) -> str | None:
    """One clause saying what breaks the form of `task`'s answers; None when nothing does."""
    if not text.strip():
        return "nothing is said"
    return {
        "markdown": _markdown,
        "ocr": _ocr,
        "free": _free,
        "figure": _figure,
        "locate": _locate,
    }[task](text)


def _markdown(text: str) -> str | None:
    for block in parse_blocks(text):
        found = _block(block)
        if found:
            return found
    return None


def _block(block: Block) -> str | None:
    if block.label not in LABELS:
        return f"no such label: {block.label}"
    content = block.content.strip()
    if not re.fullmatch(CONTENT[block.label], content):
        return f"not the content of a {block.label}: {content[:60]!r}"
    if block.label == "table":
        return _figure(content)
    return _free(content) if content else None


def _ocr(text: str) -> str | None:
    for line in text.split("\n"):
        found = _locate(line)
        if found:
            return found
    return None


def _free(text: str) -> str | None:
    found = next((token for token in MARKUP_TOKENS if token in text), None)
    return f"{found} where only text may be" if found else None


def _figure(text: str) -> str | None:
    parts = list(split_tables(text))
    return None if len(parts) == 1 and isinstance(parts[0], Table) else "not one table"


def _locate(text: str) -> str | None:
    blocks = parse_blocks(text)
    alone = len(blocks) == 1 and blocks[0].label and not blocks[0].content.strip()
    return None if alone else f"not one tag: {text[:60]!r}"
