"""Samples -> data sets of token ids; pixels are left to whoever makes a batch.

    Sample -> PageDataset, or PageStream -> WholeBatches

Knows nothing of files' formats, models, optimisers or settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data.samples import DataError, Sample, Source
from vllm_dsocr.hf.training.data.tokens import tokens

TOO_LONG = "longer than max_length"
NAMED = 4  # reasons; each picture that is missing is one of its own


class PageDataset(Dataset):
    """Samples as token ids; `input_ids` of an item is as long as the sequence the model sees.

    max_length: tokens; longer samples are left out and listed in `too_long`, since a text that is
    cut off would teach the model to stop early.
    skip_bad: leave out what cannot be used as well, and list it in `bad` with the reason.
    unread: what is wrong with records that did not even become samples.
    Raises DataError for an image that cannot be read or a prompt without its tags.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        processor: DeepseekOCRProcessor,
        max_length: int | None = None,
        skip_bad: bool = False,
        unread: Sequence[str] = (),
    ) -> None:
        self.unread = unread
        self._items: list[dict[str, Any]] = []
        self.samples: list[Sample] = []
        self.too_long: list[Sample] = []
        self.bad: list[tuple[Sample, str]] = []
        for sample in samples:
            try:
                item = tokens(sample, processor)
            except DataError as error:
                if not skip_bad:
                    raise
                self.bad.append((sample, str(error)))
                continue
            fits = max_length is None or len(item["input_ids"]) <= max_length
            (self.samples if fits else self.too_long).append(sample)
            if fits:
                self._items.append(item)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """input_ids and labels (S,) int32, and the images as they are in the sample."""
        return self._items[index]

    @property
    def kept(self) -> str:
        """How many of how many samples are in, and why others are not."""
        why = Counter([*self.unread, *(reason for _, reason in self.bad)])
        if self.too_long:
            why[TOO_LONG] = len(self.too_long)
        total = len(self.samples) + why.total()
        named = why.most_common(NAMED)
        reasons = "; ".join(f"{count} {reason}" for reason, count in named)
        if len(why) > NAMED:
            reasons += f"; {why.total() - sum(n for _, n in named)} for {len(why) - NAMED} others"
        return f"kept {len(self.samples)} of {total}" + (f": {reasons}" if reasons else "")


class PageStream(IterableDataset):
    """The same items one by one, from a source that is never held whole.

    source: gives the samples from the start, each time it is called. Samples that are too long or
    cannot be used are left out. Workers of a loader share the samples.
    """

    def __init__(
        self, source: Source, processor: DeepseekOCRProcessor, max_length: int | None = None
    ) -> None:
        self._source, self._processor, self._max_length = source, processor, max_length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for index, sample in enumerate(self._source()):
            if index % count == number:
                yield from PageDataset([sample], self._processor, self._max_length, skip_bad=True)


class WholeBatches(IterableDataset):
    """Items of a stream and, at its end, copies of the first until all ranks' batches are full.

    Copies have no labels, so that each sample is learned once a pass. Without them ranks would have
    batches of their own number, and wait for each other, or learn some samples twice.
    """

    def __init__(self, items: IterableDataset, size: int) -> None:
        """size: of a batch, times ranks."""
        self._items, self._size = items, size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        first, count = None, 0
        for item in self._items:
            first, count = first or item, count + 1
            yield item
        if first is not None:
            silent = {**first, "labels": torch.full_like(first["labels"], IGNORE_INDEX)}
            for _ in range(-count % self._size):
                yield silent
