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
from torch import Tensor

from vllm_dsocr.config import DOWNSAMPLE_RATIO, IGNORE_INDEX, IMAGE_TOKEN, PATCH_SIZE
from vllm_dsocr.page.prompt import TASKS

from .pages import MAX_CHARS, PAGE_SIDE, Page, render_page
from .tokenizer import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, encode

CELL = PATCH_SIZE * DOWNSAMPLE_RATIO  # px a vision token covers
BAND = 2 * CELL  # px; strips are whole bands high and start on one: SAM's windows stay whole
BATCH_SIZES = {128: 16, 256: 10, 384: 7, 640: 5}  # strip height px -> strips of one process
POOL = 8  # batches rendered and sorted together
PROMPTS = ("free", "free", "free", "free", "markdown", "ocr")
DENSE_CHARS = 4 * MAX_CHARS  # pages without structure to follow may be full of text


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels: (B, H, 640) in [-1, 1]. top: px above the strip on its page.

    ids: (B, S) inputs with IMAGE_ID where embeddings go. labels: (B, S) next ids, IGNORE_INDEX
    where there is no text. points: (B, S, 2) x, y px in the strip of the character a label names.
    """

    pixels: Tensor
    top: int
    ids: Tensor
    labels: Tensor
    points: Tensor


def normalise(page: Page) -> Tensor:
    """Grey page -> (H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(page.image)).float().div_(127.5).sub_(1.0)


def make_batch(pages: list[Page], prompt: str, top: int) -> Batch:
    """Pages of one size and a prompt -> padded tensors."""
    width, height = pages[0].image.size
    num_image_tokens = (height // CELL) * (width // CELL + 1) + 1
    prefix = [BOS_ID, *[IMAGE_ID] * num_image_tokens, *encode(prompt.removeprefix(IMAGE_TOKEN))]
    length = len(prefix) + max(len(page.text) for page in pages)
    ids = torch.full((len(pages), length), PAD_ID)
    labels = torch.full((len(pages), length), IGNORE_INDEX)
    points = torch.zeros(len(pages), length, 2)
    for row, page in enumerate(pages):
        text = encode(page.text)
        start, end = len(prefix) - 1, len(prefix) + len(text)
        ids[row, :end] = torch.tensor(prefix + text)
        labels[row, start:end] = torch.tensor([*text, EOS_ID])
        points[row, start:end] = torch.tensor([*page.centers, page.end])
    points[..., 0].clamp_(0, width - 1)
    points[..., 1].clamp_(0, height - 1)
    return Batch(torch.stack([normalise(page) for page in pages]), top, ids, labels, points)


class BatchMaker:
    """Endless batches per strip height for one rank."""

    def __init__(self, seed: int, rank: int) -> None:
        self.plan = Random(seed)  # shared by all ranks: order and tops
        self.content = Random(f"{seed}/{rank}")
        self.ready: dict[tuple[int, bool], Iterator[Batch]] = {}

    def next(self, height: int, dense: bool = False) -> Batch:
        """A batch of strips `height` px high; `dense` ones are full of text."""
        key = (height, dense)
        batch = next(self.ready.get(key, iter(())), None)
        if batch is None:
            self.ready[key] = self._pool(height, dense)
            batch = next(self.ready[key])
        return batch

    def _pool(self, height: int, dense: bool) -> Iterator[Batch]:
        size = BATCH_SIZES[height]
        pages = [self._page(height, dense) for _ in range(size * POOL)]
        pages.sort(key=lambda page: len(page.text))
        starts = list(range(0, len(pages), size))
        self.plan.shuffle(starts)
        for start in starts:
            top = BAND * self.plan.randrange((PAGE_SIDE - height) // BAND + 1)
            prompt = TASKS[self.plan.choice(PROMPTS)]
            yield make_batch(pages[start : start + size], prompt, top)

    def _page(self, height: int, dense: bool) -> Page:
        max_chars = DENSE_CHARS if dense else MAX_CHARS
        while True:
            page = render_page(self.content, PAGE_SIDE, height, max_chars=max_chars)
            if page.text:
                return page
