"""The document model: boxes, blocks of text, pages with their fate.

Frozen values only. Knows nothing of models, files or how anything is drawn; standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from vllm_dsocr.document.labels import FIGURES, is_words
from vllm_dsocr.page.frame import PdfFrame

BOX_MAX = 999  # the model writes coordinates as integers 0..999 over each side of the page

# text-layer: the page failed, and what its PDF has as text stands in for it.
Status = Literal["ok", "truncated", "repeated", "text-layer", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "repeated", "text-layer", "failed")


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in the model's 0..999 grid, origin top left; x1 <= x2 and y1 <= y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        if not (0 <= self.x1 <= self.x2 <= BOX_MAX and 0 <= self.y1 <= self.y2 <= BOX_MAX):
            raise ValueError(f"not a box in 0..{BOX_MAX}: {self.corners}")

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) as the model wrote them."""
        return self.x1, self.y1, self.x2, self.y2

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in px of a page of that size, rounded as the official code."""
        return (
            int(self.x1 / BOX_MAX * width),
            int(self.y1 / BOX_MAX * height),
            int(self.x2 / BOX_MAX * width),
            int(self.y2 / BOX_MAX * height),
        )

    @property
    def fractions(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in fractions of the page."""
        return self.x1 / BOX_MAX, self.y1 / BOX_MAX, self.x2 / BOX_MAX, self.y2 / BOX_MAX

    def points(self, width: float, height: float) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in points of a page displayed at that size."""
        left, top, right, bottom = self.fractions
        return left * width, height - bottom * height, right * width, height - top * height


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a page's text, from character `start` on, and how sure the model was, 0 to 1."""

    text: str
    start: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the model was, 0 to 1: mean and minimum over tokens."""

    mean: float
    minimum: float


@dataclass(frozen=True, slots=True)
class BlockConfidence:
    """How sure the model was of a block: mean and minimum over its words' tokens; of its label.

    None where it has none: a figure without words, text without a tag.
    """

    mean: float | None
    minimum: float | None
    label: float | None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the page's text; `label` is None for text the model did not ground.

    tag, note: the tag as it was written and one sentence, where its boxes are not what it says.
    confidence: where it was asked for and the engine could tell.
    """

    content: str
    label: str | None = None
    boxes: tuple[Box, ...] = ()
    tag: str | None = None
    note: str | None = None
    confidence: BlockConfidence | None = None

    @property
    def is_figure(self) -> bool:
        """Whether what counts is the picture inside the boxes."""
        return self.label in FIGURES

    @property
    def text(self) -> str:
        """What stands on the page there: the content, with the label where that holds the words."""
        if self.label is not None and is_words(self.label, self.content):
            return self.label + self.content
        return self.content


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture of a page: `index` counts the boxes of its figure blocks from 0."""

    page: int
    index: int
    box: Box


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a page: which rung of the retry ladder, and what came of it.

    outcome: a Status, "empty", or one sentence saying why there was no answer.
    """

    rung: str
    outcome: str
    num_text_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """What became of one input page; every input page gives exactly one.

    number: counts from 1 in the source.  width, height: px of the image that was read, 0 if none.
    size_points: (width, height) in PDF points, as displayed, and frame: for pages of a PDF.
    text: the model's words as they came, markup included, up to the loop if it looped.
    mode: name of the resolution preset, or None when the engine's own default was in force.
    reason: one sentence when status is failed or text-layer.
    rotation: degrees the page was turned clockwise to be read; sizes are of the turned page.
    confidence: of all its words, where it was asked for and the engine could tell.
    """

    number: int
    status: Status
    width: int = 0
    height: int = 0
    size_points: tuple[float, float] | None = None
    text: str = ""
    blocks: tuple[Block, ...] = ()
    mode: str | None = None
    num_vision_tokens: int | None = None
    num_text_tokens: int = 0
    attempts: tuple[Attempt, ...] = field(default=())
    reason: str | None = None
    frame: PdfFrame | None = None
    rotation: int = 0
    confidence: Confidence | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every box with an area of every figure block, in reading order."""
        return tuple(figure for _, figures in self.illustrated for figure in figures)

    @property
    def illustrated(self) -> Iterator[tuple[Block, tuple[Figure, ...]]]:
        """Every block with its figures, which only blocks that are figures have.

        A figure's index counts all boxes, also those without a pixel in them, which are none.
        """
        index = 0
        for block in self.blocks:
            boxes = block.boxes if block.is_figure else ()
            figures = (Figure(self.number, index + i, box) for i, box in enumerate(boxes))
            yield block, tuple(figure for figure in figures if self._shows(figure.box))
            index += len(boxes)

    def _shows(self, box: Box) -> bool:
        left, top, right, bottom = box.pixels(self.width or BOX_MAX, self.height or BOX_MAX)
        return left < right and top < bottom
