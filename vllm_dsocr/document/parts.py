"""The blocks of a page -> its parts: headings, paragraphs, tables, figures, with their captions.

What every format says about a page's order and kinds is decided here. Knows nothing of how anything
is written; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from vllm_dsocr.document.blocks import Block, Box, Figure, Page
from vllm_dsocr.document.labels import (
    CAPTIONS,
    CODE,
    FIGURES,
    FOOTNOTES,
    FORMULAS,
    FURNITURE,
    HEADINGS,
    LISTS,
    TABLES,
    is_words,
)
from vllm_dsocr.document.tables import FENCE, Table, split_tables

Kind = Literal[
    "heading", "text", "line", "list", "formula", "code", "table", "figure", "caption", "footnote",
    "furniture",
]  # fmt: skip

_HEADING = re.compile(r"(#{1,6})[ \t]+(.+)")
_ITEM = re.compile(r"(?:[-*+•·]|[0-9]{1,4}[.)])[ \t]+\S")
_CENTER = re.compile(r"</?center>")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_DISPLAY = re.compile(r"\\\[.*\\\]|\$\$.*\$\$", re.DOTALL)
_BY_LABEL: tuple[tuple[frozenset[str], Kind], ...] = (
    (CAPTIONS, "caption"),
    (FOOTNOTES, "footnote"),
    (FURNITURE, "furniture"),
    (FORMULAS, "formula"),
    (LISTS, "list"),
    (CODE, "code"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a page.

    block: index of the block it comes from.  text: Markdown and LaTeX as the model wrote them; of a
    heading without its `#`.  level: of a heading, from 1.  caption: of a table or figure, its text,
    which is a part of its own too.  line: a piece of text found by itself, such as a line of OCR.
    """

    kind: Kind
    block: int
    text: str = ""
    label: str | None = None
    boxes: tuple[Box, ...] = ()
    level: int = 0
    table: Table | None = None
    figures: tuple[Figure, ...] = ()
    caption: str | None = None


def page_parts(page: Page) -> tuple[Part, ...]:
    """The parts of a page in reading order, captions known to what they belong to."""
    parts: list[Part] = []
    for index, (block, figures) in enumerate(page.illustrated):
        if figures:
            parts.append(Part("figure", index, "", block.label, block.boxes, figures=figures))
        parts += _block_parts(index, block)
    return tuple(_with_captions(_with_table_boxes(parts, page), page))


def _block_parts(index: int, block: Block) -> Iterator[Part]:
    for piece in split_tables(block.text):
        if isinstance(piece, Table):
            yield Part("table", index, "", block.label, block.boxes, table=piece)
        else:
            for paragraph in _paragraphs(piece, whole=block.label in FORMULAS | CODE):
                yield _text_part(index, block, paragraph)


def _paragraphs(text: str, whole: bool) -> Iterator[str]:
    """What empty lines or headings set apart; fences of code stay together."""
    start = 0
    for fence in FENCE.finditer(text):
        yield from _plain_paragraphs(text[start : fence.start()], whole)
        yield fence[0].strip("\n")
        start = fence.end()
    yield from _plain_paragraphs(text[start:], whole)


def _plain_paragraphs(text: str, whole: bool) -> Iterator[str]:
    for paragraph in [text] if whole else _BLANK_LINES.split(text):
        lines: list[str] = []
        for line in _CENTER.sub("", paragraph).split("\n"):
            if _HEADING.fullmatch(line.strip()):
                yield from _joined(lines)
                yield line.strip()
                lines = []
            else:
                lines.append(line.rstrip() if not line.strip() else line)
        yield from _joined(lines)


def _joined(lines: list[str]) -> Iterator[str]:
    if text := "\n".join(lines).strip("\n").rstrip():
        yield text.lstrip() if "\n" not in text else text


def _text_part(index: int, block: Block, text: str) -> Part:
    heading = _HEADING.fullmatch(text)
    about = (index, text, block.label, block.boxes)
    if heading:
        return Part("heading", index, heading[2].strip(" #"), *about[2:], level=len(heading[1]))
    if block.label in HEADINGS:
        return Part("heading", *about, level=1 + HEADINGS.index(block.label))
    return Part(_kind(block, text), *about)


def _kind(block: Block, text: str) -> Kind:
    for labels, kind in _BY_LABEL:
        if block.label in labels:
            return kind
    if block.label is not None and is_words(block.label, block.content):
        return "line"
    if text.startswith(("```", "~~~")):
        return "code"
    if _DISPLAY.fullmatch(text) and text.count("\\[") + text.count("$$") // 2 == 1:
        return "formula"
    lines = text.split("\n")
    is_list = all(map(_ITEM.match, map(str.lstrip, lines))) and (len(lines) > 1 or not block.label)
    return "list" if is_list else "text"


def _with_table_boxes(parts: list[Part], page: Page) -> list[Part]:
    """A table written after its caption has the box of the empty table mark before the caption."""
    return [
        replace(part, label=mark.label, boxes=mark.boxes)
        if part.table is not None and (mark := _empty_table_mark(part, page)) is not None
        else part
        for part in parts
    ]


def _empty_table_mark(part: Part, page: Page) -> Block | None:
    if part.label not in CAPTIONS or part.block == 0:
        return None
    before = page.blocks[part.block - 1]
    return before if before.label in TABLES and not before.content.strip() else None


def _with_captions(parts: list[Part], page: Page) -> list[Part]:
    """Every table and figure with the text of its caption: what follows it, else what precedes."""
    found = dict(_caption_places(parts, page))
    return [
        replace(part, caption=parts[found[place]].text) if place in found else part
        for place, part in enumerate(parts)
    ]


def _caption_places(parts: list[Part], page: Page) -> Iterator[tuple[int, int]]:
    """(place of a table or figure, place of its caption)."""
    taken: set[int] = set()
    for place, part in enumerate(parts):
        if part.kind != "caption":
            continue
        for other in _neighbours(parts, place, page):
            if other not in taken:
                taken.add(other)
                yield other, place
                break


def _neighbours(parts: list[Part], place: int, page: Page) -> Iterator[int]:
    """Places beside a caption's that hold what it may belong to, the likeliest first."""
    is_marked = _empty_table_mark(parts[place], page) is not None
    for other in (place + 1, place - 1) if is_marked else (place - 1, place + 1):
        if 0 <= other < len(parts) and _may_own(parts[other], parts[place].label or ""):
            yield other


def _may_own(part: Part, caption_label: str) -> bool:
    kind = caption_label.partition("_")[0]
    if part.kind == "table":
        return kind in ("table", "caption")
    return part.kind == "figure" and (kind in FIGURES or kind == "caption")
