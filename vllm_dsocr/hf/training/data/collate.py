"""Items of data sets -> inputs of the model, ids and pixels those of serving.

Knows nothing of models, optimisers or settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf.processing import DeepseekOCRProcessor, vision_inputs
from vllm_dsocr.hf.training.data.samples import DataError, sample_from
from vllm_dsocr.hf.training.data.tokens import named, tokens
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.source import PageError, open_image


@dataclass(frozen=True, slots=True)
class PageCollator:
    """Items of a PageDataset -> inputs of the model, padded on the right."""

    processor: DeepseekOCRProcessor

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """input_ids, labels, attention_mask, images_seq_mask (B, S) and the processor's views.

        Rows of several pages, see `packing`, become one row without padding, whose position_ids
        (1, S) take the place of the mask. Raises DataError for an image that cannot be read.
        """
        pages = [self._page(image) for item in items for image in item["images"]]
        batch = _in_one_row(items) if "position_ids" in items[0] else self._padded(items)
        return {**batch, **vision_inputs(pages)}

    def _padded(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "input_ids": _padded(
                [item["input_ids"] for item in items], self.processor.pad_token_id
            ),
            "labels": _padded([item["labels"] for item in items], IGNORE_INDEX),
            "attention_mask": _padded([torch.ones_like(item["input_ids"]) for item in items], 0),
            # Not by the ids: in an answer the tag is text that no image stands behind.
            "images_seq_mask": _padded([item["seen"] for item in items], 0).bool(),
        }

    def _page(self, image: Path | bytes) -> Any:
        try:
            return page_tensors(open_image(image, alpha=None), self.processor.options)
        except PageError as error:
            raise DataError(f"{named([image])}: {error}") from error


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


def _in_one_row(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row whatever the batch: kernels for several sequences in a row take no more."""
    keys = {"input_ids": "input_ids", "labels": "labels", "position_ids": "position_ids",
            "images_seq_mask": "seen"}  # fmt: skip
    row = {name: torch.cat([item[key] for item in items])[None] for name, key in keys.items()}
    ids = {name: row[name].long() for name in ("input_ids", "labels")}
    return {**row, **ids, "use_cache": False}  # with a cache positions say nothing of masks


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence([row.long() for row in rows], batch_first=True, padding_value=value)
