"""Samples -> batches to train on, ids and pixels those of serving.

    Sample -> PageDataset or PageStream (token ids) -> PageCollator (tensors)

Ids are made from the size of an image alone; pixels when a batch needs them. Knows nothing of
files' formats, models, optimisers or settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from vllm_dsocr.config import EOS_TOKEN, IGNORE_INDEX
from vllm_dsocr.hf.processing import DeepseekOCRProcessor, vision_inputs
from vllm_dsocr.hf.training.samples import DataError, Sample, Source, sample_from
from vllm_dsocr.hf.training.sizes import upright_size
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.prompt import PromptError, expand_placeholders, prompt_ids
from vllm_dsocr.page.source import PageError, open_image

TOO_LONG = "longer than max_length"


class PageDataset(Dataset):
    """Samples as token ids; `input_ids` of an item is as long as the sequence the model sees.

    max_length: tokens; longer samples are left out and listed in `too_long`, since a text that is
    cut off would teach the model to stop early.
    skip_bad: leave out what cannot be used as well, and list it in `bad` with the reason.
    Raises DataError for an image that cannot be read or a prompt without its tags.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        processor: DeepseekOCRProcessor,
        max_length: int | None = None,
        skip_bad: bool = False,
    ) -> None:
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
        why = Counter(reason for _, reason in self.bad)
        if self.too_long:
            why[TOO_LONG] = len(self.too_long)
        reasons = "; ".join(f"{count} {reason}" for reason, count in why.most_common())
        total = len(self.samples) + sum(why.values())
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


def tokens(sample: Sample, processor: DeepseekOCRProcessor) -> dict[str, Any]:
    """Ids as serving makes them of the same messages; answers, and the end of each, are learned.

    Serving joins messages without an end between them. So the end of an earlier answer is a label
    where the next prompt begins, and is not among the ids.
    """

    def encode(text: str) -> list[int]:
        return processor.tokenizer.encode(text, add_special_tokens=False)

    end = processor.tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    counts = iter(_image_counts(sample, processor))
    ids: list[int] = []
    labels: list[int] = []
    seen: list[bool] = []
    for number, (prompt, answer) in enumerate(sample.turns):
        asked = encode(prompt) if number else prompt_ids(prompt, encode, processor.bos_token_id)
        asked = _expanded(asked, counts, sample, processor)
        said = [*encode(answer), *([end] if number == len(sample.earlier) else [])]
        own = [IGNORE_INDEX] * len(asked)
        if number and own:
            own[0] = end
        ids += asked + said
        labels += own + said
        seen += [token == processor.image_token_id for token in asked] + [False] * len(said)
    if next(counts, None) is not None:
        raise DataError(f"{_named(sample.images)}: more images than <image> tags in the prompts")
    mask = torch.tensor(seen)
    return {"input_ids": _int32(ids), "labels": _int32(labels), "seen": mask,
            "images": sample.images}  # fmt: skip


def _image_counts(sample: Sample, processor: DeepseekOCRProcessor) -> list[int]:
    resolution = processor.options.resolution
    try:
        sizes = [upright_size(image) for image in sample.images]
    except OSError as error:
        raise DataError(f"cannot open {_named(sample.images)}: {error}") from error
    return [plan_tiles(*size, resolution).num_image_tokens for size in sizes]


def _expanded(
    ids: list[int], counts: Iterator[int], sample: Sample, processor: DeepseekOCRProcessor
) -> list[int]:
    """The ids of one prompt with its images' tokens, taken from the counts that are left."""
    tags = ids.count(processor.image_token_id)
    own = [count for _, count in zip(range(tags), counts, strict=False)]
    if len(sample.turns) == 1:  # what is left over is too many for the only prompt
        own += counts
    try:
        return expand_placeholders(ids, processor.image_token_id, own)
    except PromptError as error:
        raise DataError(f"{_named(sample.images)}: {error}") from error


def _int32(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)  # data sets stay in memory


def _named(images: Sequence[Path | bytes]) -> str:
    names = (f"an image of {len(i)} bytes" if isinstance(i, bytes) else str(i) for i in images)
    return ", ".join(names) or "a sample without image"


@dataclass(frozen=True, slots=True)
class PageCollator:
    """Items of a PageDataset -> inputs of the model, padded on the right."""

    processor: DeepseekOCRProcessor

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """input_ids, labels, attention_mask, images_seq_mask (B, S) and the processor's views.

        Raises DataError for an image that cannot be read.
        """
        ids = _padded([item["input_ids"] for item in items], self.processor.pad_token_id)
        labels = _padded([item["labels"] for item in items], IGNORE_INDEX)
        real = _padded([torch.ones_like(item["input_ids"]) for item in items], 0)
        # Not by the ids: in an answer the tag is text that no image stands behind.
        seen = _padded([item["seen"] for item in items], 0).bool()
        pages = [self._page(image) for item in items for image in item["images"]]
        masks = {"attention_mask": real, "images_seq_mask": seen}
        return {"input_ids": ids, "labels": labels, **masks, **vision_inputs(pages)}

    def _page(self, image: Path | bytes) -> Any:
        try:
            return page_tensors(open_image(image), self.processor.options)
        except PageError as error:
            raise DataError(f"{_named([image])}: {error}") from error


@dataclass(frozen=True, slots=True)
class RecordCollator:
    """Records of any layout, as they stand in a data set, -> inputs of the model.

    For trainers that want the data set itself, TRL's among them. folder: of the images' paths.
    """

    processor: DeepseekOCRProcessor
    folder: Path = Path()

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See PageCollator. Raises ValueError for records that cannot be used."""
        samples = [sample_from(record, self.folder) for record in records]
        return PageCollator(self.processor)([tokens(s, self.processor) for s in samples])


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence([row.long() for row in rows], batch_first=True, padding_value=value)
