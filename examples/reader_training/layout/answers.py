"""A page with layout and a task -> the answer of the real model's form, one mark per token.

    markdown  tag, line break, content, empty line; a tag is label and box, coordinates 0..999
    ocr       every printed line in a tag of its own, the text in the label's place
    free      the printed lines
    figure    the table behind a chart
    locate    one text of the page in a tag, as in `ocr`

Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from vllm_dsocr.config import DET_CLOSE, DET_OPEN, REF_CLOSE, REF_OPEN
from vllm_dsocr.document.blocks import BOX_MAX
from vllm_dsocr.page.prompt import task_prompt

from ..pages import PAGE_SIDE, Page
from .marks import CORNER, PRINTED, Block, Line, Mark, Point, Rect, joined, markup
from .page import LayoutPage

BREAK = "  \n\n"  # what ends a block


@dataclass(frozen=True, slots=True)
class Answer:
    """prompt: with its image tag. marks: what the model should write. end: where it stops."""

    prompt: str
    marks: tuple[Mark, ...]
    end: Point

    @property
    def text(self) -> str:
        return "".join(mark.text for mark in self.marks)


def plain_answer(page: Page, task: str) -> Answer:
    """A page of lines: the lines."""
    pairs = zip(page.text, page.centers, strict=True)
    marks = (Mark(c, *place, PRINTED if c != "\n" else 0) for c, place in pairs)
    return Answer(task_prompt(task), tuple(marks), page.end)


def markdown_answer(page: LayoutPage, top: int = 0) -> Answer:
    """top: px above the strip `page` on the whole page."""
    marks: list[Mark] = []
    for i, block in enumerate(page.blocks):
        marks += _tag(markup(block.label, _corner(block.box)), block.box, top)
        last = i == len(page.blocks) - 1
        if block.content:
            marks += [*markup("\n", block.content[0][1:3]), *block.content]
            marks += [] if last else markup(BREAK, block.end)
        elif not last:
            marks += markup("\n", block.end)
    end = page.blocks[-1].end if page.blocks else (0.0, 0.0)
    return Answer(task_prompt("markdown"), tuple(marks), end)


def ocr_answer(page: LayoutPage, top: int = 0) -> Answer:
    """top: as in `markdown_answer`."""
    marks: list[Mark] = []
    for i, line in enumerate(page.lines):
        marks += markup("\n", page.lines[i - 1].end) if i else []
        marks += _tag(line.marks, line.box, top)
    return Answer(task_prompt("ocr"), tuple(marks), _end(page.lines))


def free_answer(page: LayoutPage) -> Answer:
    """Lines as printed; a table's cells and a page's blocks one a line too."""
    return Answer(task_prompt("free"), tuple(joined(page.lines, "\n")), _end(page.lines))


def figure_answer(page: LayoutPage) -> Answer:
    """The content of a page that is one chart."""
    return Answer(task_prompt("figure"), page.blocks[0].content, page.blocks[0].end)


def locate_answer(page: LayoutPage, rng: Random, top: int = 0) -> Answer | None:
    """A line or word that the page shows once; None where there is none."""
    found = _findable(page)
    if not found:
        return None
    text, marks, box = rng.choice(found)
    answer = _tag(marks, box, top)
    return Answer(task_prompt("locate", text), tuple(answer), (box[2], box[3]))


def _findable(page: LayoutPage) -> list[tuple[str, tuple[Mark, ...], Rect]]:
    lines = [line for line in page.lines if line.edges]
    everything = " ".join(line.text for line in lines)
    found = []
    for line in lines:
        found.append((line.text, line.marks, line.box))
        start = 0
        for word in line.text.split(" "):
            edges = line.edges[start : start + len(word)]
            if len(word) > 3:
                box = (edges[0][0], line.box[1], edges[-1][1], line.box[3])
                found.append((word, line.marks[start : start + len(word)], box))
            start += len(word) + 1
    return [each for each in found if everything.count(each[0]) == 1]


def _end(lines: list[Line]) -> Point:
    return lines[-1].end if lines else (0.0, 0.0)


def _corner(box: Rect) -> Point:
    return box[0], box[1]


def _tag(label: Iterable[Mark], box: Rect, top: int) -> list[Mark]:
    first, last = _corner(box), (box[2], box[3])
    marks = [Mark(REF_OPEN, *first), *label, Mark(REF_CLOSE, *first), Mark(DET_OPEN, *first)]
    marks += markup("[[", first)
    for i, number in enumerate(box_numbers(box, top)):
        corner = first if i < 2 else last
        marks += markup(", ", corner) if i else []
        marks += [Mark(digit, *corner, CORNER) for digit in str(number)]
    return [*marks, *markup("]]", last), Mark(DET_CLOSE, *last)]


def box_numbers(box: Rect, top: int = 0) -> tuple[int, int, int, int]:
    """Corners in px of a strip -> the model's grid over the whole page."""
    x1, y1, x2, y2 = (
        min(BOX_MAX, max(0, round(v / PAGE_SIDE * BOX_MAX)))
        for v in (box[0], box[1] + top, box[2], box[3] + top)
    )
    return x1, y1, x2, y2


def block_boxes(blocks: Iterable[Block], top: int = 0) -> list[tuple[str, tuple[int, ...]]]:
    """Label and box of every block, as the model writes them."""
    return [(block.label, box_numbers(block.box, top)) for block in blocks]
