"""Items of data sets -> rows of several pages, whose tokens do not see those of other pages.

Positions begin anew with every page: that is how transformers knows where a page ends, and makes
the masks of its attention, whichever kernel runs it. Knows nothing of samples, images or models.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from vllm_dsocr.hf.training.data.pages import PageDataset, PageStream

Item = Mapping[str, Any]


def pack(items: Sequence[Item]) -> dict[str, Any]:
    """One row: what stands in the items, end to end, and position_ids (S,)."""
    row = {key: torch.cat([item[key] for item in items]) for key in ("input_ids", "labels", "seen")}
    positions = [torch.arange(len(item["input_ids"])) for item in items]
    images = [image for item in items for image in item["images"]]
    return {**row, "position_ids": torch.cat(positions), "images": images}


def fill(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which samples share a row of at most `room` tokens; a longer one has a row of its own.

    The longest first, each where it leaves least room (best-fit decreasing).
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room, row; sorted
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(left, (lengths[index], -1))
        free, row = left.pop(place) if place < len(left) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        insort(left, (free - lengths[index], row))
    return rows


class PackedDataset(Dataset):
    """Rows of the pages of a data set; which pages share one is the same in every epoch."""

    def __init__(self, pages: PageDataset, room: int) -> None:
        """room: tokens of a row."""
        lengths = [len(pages[index]["input_ids"]) for index in range(len(pages))]
        self._pages = pages
        self._rows = fill(lengths, room)
        self.filled = f"{len(lengths)} pages in {len(self._rows)} rows"
        self.filled += f", {100 * sum(lengths) / (room * len(self._rows)):.0f} % full"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return pack([self._pages[page] for page in self._rows[index]])


class PackedStream(IterableDataset):
    """Rows of the pages of a stream, as they come."""

    def __init__(self, pages: PageStream, room: int) -> None:
        self._pages, self._room = pages, room

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(pack, in_turn(self._pages, self._room))


def in_turn(items: Iterable[Item], room: int) -> Iterator[list[Item]]:
    """Items one after the other, as many as there is room for."""
    row: list[Item] = []
    free = room
    for item in items:
        length = len(item["input_ids"])
        if row and length > free:
            yield row
            row, free = [], room
        row.append(item)
        free -= length
    if row:
        yield row
