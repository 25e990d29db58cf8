"""A task and an answer -> what is wrong with its form, if anything. Says nothing of right or wrong.

markdown  tags in a row, each followed by what its label asks for
ocr       one tag a line, the text in the label's place
free      text without special tokens
figure    one table
locate    one tag
"""

from __future__ import annotations

import re

from vllm_dsocr.config import DET_CLOSE, DET_OPEN, MARKUP_TOKENS, REF_CLOSE, REF_OPEN
from vllm_dsocr.document.tables import Table, split_tables

from ..batches import LABELS

# Stricter than the package reads tags: the real model writes them this way to the letter.
_REF = rf"{re.escape(REF_OPEN)}(?P<label>[^\n]+?){re.escape(REF_CLOSE)}"
_DET = rf"{re.escape(DET_OPEN)}\[\[(?P<box>\d{{1,3}}(?:, \d{{1,3}}){{3}})\]\]{re.escape(DET_CLOSE)}"
_TAG = re.compile(_REF + _DET)
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
    tags = list(_TAG.finditer(text))
    if not tags or tags[0].start():
        return "no tag at the start"
    ends = [*(tag.start() for tag in tags[1:]), len(text)]
    pairs = zip(tags, ends, strict=True)
    found = (_box(tag["box"]) or _block(tag["label"], text[tag.end() : end]) for tag, end in pairs)
    return next(filter(None, found), None)


def _box(written: str) -> str | None:
    x1, y1, x2, y2 = map(int, written.split(", "))
    return None if x1 <= x2 and y1 <= y2 else f"corners in the wrong order: {written}"


def _block(label: str, content: str) -> str | None:
    if label not in LABELS:
        return f"no such label: {label}"
    content = content.strip()
    if not re.fullmatch(CONTENT[label], content):
        return f"not the content of a {label}: {content[:60]!r}"
    if label == "table":
        return _figure(content)
    return _free(content)


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
    tag = _TAG.fullmatch(text)
    return _box(tag["box"]) if tag else f"not one tag: {text[:60]!r}"
