"""Seeds -> batches of page strips with everything the losses ask for.

Batches are cut from a pool sorted by length, so that little is padding. Ranks with the same seed
and another rank number get other pages in step: same strip height and nearly the same length.
Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vllm_dsocr.config import DOWNSAMPLE_RATIO, IGNORE_INDEX, IMAGE_TOKEN, PATCH_SIZE

from .layout import answers
from .layout.answers import Answer
from .layout.marks import PRINTED, Block
from .layout.page import MAX_CHARS as MAX_LAYOUT_CHARS
from .layout.page import LayoutPage, render_chart, render_layout
from .pages import MAX_CHARS, PAGE_SIDE, render_page
from .tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, encode_markup

CELL = PATCH_SIZE * DOWNSAMPLE_RATIO  # px a vision token covers
BAND = 2 * CELL  # px; strips are whole bands high and start on one: SAM's windows stay whole
BATCH_SIZES = {128: 16, 256: 8, 384: 6, 640: 4}  # strip height px -> strips of one process
POOL = 8  # batches rendered and sorted together
TASKS = {"markdown": 0.68, "free": 0.10, "ocr": 0.10, "locate": 0.07, "figure": 0.05}
DENSE_CHARS = 4 * MAX_CHARS  # pages without structure to follow may be full of text
QUERIES = 8  # points of a block that are asked for its box
LABELS = (
    "title", "sub_title", "text", "table", "table_caption", "image", "image_caption", "equation",
    "header", "footer",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mix:
    """plain: share of pages without layout. chars: most characters on a page with layout, as a
    share of the most there are. dense: pages without layout are full of text."""

    plain: float = 1.0
    chars: float = 1.0
    dense: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One page, what to write about it, and the blocks that lie on it."""

    image: Image.Image
    answer: Answer
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels: (B, H, 640) in [-1, 1]. top: px above the strip on its page.

    ids: (B, S) inputs with IMAGE_ID where embeddings go. labels: (B, S) next ids, IGNORE_INDEX
    where there is no text. points: (B, S, 2) x, y px in the strip of the character a label names.
    kinds: (B, S) MARKUP, PRINTED or CORNER, as marks have it.
    queries: (N, 8) row, x, y px in the strip, label, x1, y1, x2, y2 px in the strip: points within
    blocks and the blocks' boxes. corners: (N, 4) row, x, y px in the strip, 0 upper left, 1 lower
    right.
    """

    pixels: Tensor
    top: int
    ids: Tensor
    labels: Tensor
    points: Tensor
    kinds: Tensor
    queries: Tensor
    corners: Tensor


def normalise(image: Image.Image) -> Tensor:
    """Grey page -> (H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).float().div_(127.5).sub_(1.0)


def make_batch(samples: list[Sample], top: int) -> Batch:
    """Pages of one size -> padded tensors."""
    width, height = samples[0].image.size
    num_image_tokens = (height // CELL) * (width // CELL + 1) + 1
    image_ids = [IMAGE_ID] * num_image_tokens
    prompts = [sample.answer.prompt.removeprefix(IMAGE_TOKEN) for sample in samples]
    prefixes = [[BOS_ID, *image_ids, *encode_markup(prompt)] for prompt in prompts]
    texts = [encode_markup(sample.answer.text) for sample in samples]
    length = max(len(p) + len(t) for p, t in zip(prefixes, texts, strict=True))
    ids = torch.full((len(samples), length), PAD_ID)
    labels = torch.full((len(samples), length), IGNORE_INDEX)
    points = torch.zeros(len(samples), length, 2)
    kinds = torch.zeros(len(samples), length, dtype=torch.long)
    for row, (prefix, text, sample) in enumerate(zip(prefixes, texts, samples, strict=True)):
        start, end = len(prefix) - 1, len(prefix) + len(text)
        marks = sample.answer.marks
        ids[row, :end] = torch.tensor(prefix + text)
        labels[row, start:end] = torch.tensor([*text, EOS_ID])
        points[row, start:end] = torch.tensor([*(m[1:3] for m in marks), sample.answer.end])
        kinds[row, start : end - 1] = torch.tensor([m.kind for m in marks], dtype=torch.long)
    clamp_points(points[..., 0], points[..., 1], width, height)
    pixels = torch.stack([normalise(sample.image) for sample in samples])
    asked = (_queries(samples, width, height), _corners(samples, width, height))
    return Batch(pixels, top, ids, labels, points, kinds, *asked)


def clamp_points(x: Tensor, y: Tensor, width: int, height: int) -> None:
    """Into the strip, in place."""
    x.clamp_(0, width - 1)
    y.clamp_(0, height - 1)


def _queries(samples: list[Sample], width: int, height: int) -> Tensor:
    rows = []
    for row, sample in enumerate(samples):
        for block in sample.blocks:
            rows += [(row, *p, LABELS.index(block.label), *block.box) for p in _inside(block)]
    queries = torch.tensor(rows).view(-1, 8)
    for x, y in ((1, 2), (4, 5), (6, 7)):
        clamp_points(queries[:, x], queries[:, y], width, height)
    return queries


def _inside(block: Block) -> list[tuple[float, float]]:
    """Points spread over what is printed; over the box of a figure."""
    printed = [mark[1:3] for line in block.lines for mark in line.marks if mark.kind == PRINTED]
    if printed:
        return printed[:: max(1, len(printed) // QUERIES)]
    x1, y1, x2, y2 = block.box
    shares = (0.08, 0.36, 0.64, 0.92)
    return [(x1 + (x2 - x1) * u, y1 + (y2 - y1) * v) for u in shares for v in (0.1, 0.5, 0.9)]


def _corners(samples: list[Sample], width: int, height: int) -> Tensor:
    rows = []
    for row, sample in enumerate(samples):
        for block in sample.blocks:
            rows += [(row, *block.box[:2], 0), (row, *block.box[2:], 1)]
    corners = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    clamp_points(corners[:, 1], corners[:, 2], width, height)
    return corners


class BatchMaker:
    """Endless batches per strip height for one rank."""

    def __init__(self, seed: int, rank: int) -> None:
        self.plan = Random(seed)  # shared by all ranks: order and tops
        self.content = Random(f"{seed}/{rank}")
        self.ready: dict[tuple[int, bool], Iterator[Batch]] = {}

    def next(self, height: int, mix: Mix = Mix()) -> Batch:  # noqa: B008 - frozen
        """A batch of strips `height` px high; `mix` counts when a new pool is rendered."""
        key = (height, mix.dense)
        batch = next(self.ready.get(key, iter(())), None)
        if batch is None:
            self.ready[key] = self._pool(height, mix)
            batch = next(self.ready[key])
        return batch

    def _pool(self, height: int, mix: Mix) -> Iterator[Batch]:
        size = BATCH_SIZES[height]
        # All strips of a pool lie at the same height: answers name places on the whole page.
        top = BAND * self.plan.randrange((PAGE_SIDE - height) // BAND + 1)
        samples = [self._sample(height, top, mix) for _ in range(size * POOL)]
        samples.sort(key=lambda sample: len(sample.answer.marks))
        starts = list(range(0, len(samples), size))
        self.plan.shuffle(starts)
        for start in starts:
            yield make_batch(samples[start : start + size], top)

    def _sample(self, height: int, top: int, mix: Mix) -> Sample:
        while True:
            if self.content.random() < mix.plain:
                sample = self._plain(height, mix.dense)
            else:
                sample = self._layout(height, top, mix.chars)
            if sample and sample.answer.marks:
                return sample

    def _plain(self, height: int, dense: bool) -> Sample:
        max_chars = DENSE_CHARS if dense else MAX_CHARS
        page = render_page(self.content, PAGE_SIDE, height, max_chars=max_chars)
        return Sample(page.image, answers.plain_answer(page, "free"))

    def _layout(self, height: int, top: int, chars: float) -> Sample | None:
        task = self.content.choices(list(TASKS), list(TASKS.values()))[0]
        if task == "figure":
            page = render_chart(self.content, height)
        else:
            most = max(100, int(MAX_LAYOUT_CHARS * chars))
            page = render_layout(self.content, height, max_chars=most)
        answer = self._answer(page, task, top)
        return Sample(page.image, answer, page.blocks) if answer else None

    def _answer(self, page: LayoutPage, task: str, top: int) -> Answer | None:
        if task == "markdown":
            return answers.markdown_answer(page, top)
        if task == "ocr":
            return answers.ocr_answer(page, top)
        if task == "locate":
            return answers.locate_answer(page, self.content, top)
        return answers.figure_answer(page) if task == "figure" else answers.free_answer(page)
