"""Pages with their text, in files -> batches to train on, ids and pixels those of serving.

    JSONL or folder -> Sample -> PageDataset (token ids) -> PageCollator (tensors)

Ids are made when the data set is opened, from the size of an image alone; pixels when a batch needs
them. Knows nothing of models, optimisers or settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from vllm_dsocr.config import EOS_TOKEN, IGNORE_INDEX
from vllm_dsocr.hf.processing import DeepseekOCRProcessor, vision_inputs
from vllm_dsocr.page.files import IMAGE_SUFFIXES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.prompt import TASKS, PromptError, expand_placeholders, prompt_ids
from vllm_dsocr.page.source import PageError, open_image

TEXT_SUFFIXES = (".md", ".txt")  # the first that lies beside an image is its text
KEYS = ("image", "prompt", "answer")


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange: images in the order of the prompt's tags, and what the model is to write."""

    images: tuple[Path, ...]
    prompt: str
    answer: str


def read_samples(path: Path, prompt: str = TASKS["free"]) -> list[Sample]:
    """A JSONL file, or a folder of images with a `.md` or `.txt` of the same name beside them.

    A line has `image` (a path from the file's folder, or a list of them), `answer` and, where it is
    not `prompt`, a `prompt` of its own. Raises DataError.
    """
    samples = list(_from_folder(path, prompt) if path.is_dir() else _from_lines(path, prompt))
    if not samples:
        raise DataError(f"{path} holds no pages with their text")
    return samples


def _from_folder(folder: Path, prompt: str) -> Iterator[Sample]:
    images = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES)
    for image in images:
        texts = [image.with_suffix(suffix) for suffix in TEXT_SUFFIXES]
        text = next((text for text in texts if text.exists()), None)
        if text is not None:
            yield Sample((image,), prompt, text.read_text(encoding="utf-8").rstrip("\n"))


def _from_lines(path: Path, prompt: str) -> Iterator[Sample]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _sample(json.loads(line), path.parent, prompt)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


def _sample(values: Any, folder: Path, prompt: str) -> Sample:
    if not isinstance(values, dict) or not isinstance(values.get("answer"), str):
        raise ValueError("a line is an object with at least an 'answer', which is text")
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    images = values.get("image", [])
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("'image' is a path or a list of paths")
    paths = tuple(folder / image for image in images)
    return Sample(paths, values.get("prompt", prompt), values["answer"])


class PageDataset(Dataset):
    """Samples as token ids; `input_ids` of an item is as long as the sequence the model sees.

    max_length: tokens; longer samples are left out and listed in `too_long`, since a text that is
    cut off would teach the model to stop early.
    Raises DataError for an image that cannot be read or a prompt without its tags.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        processor: DeepseekOCRProcessor,
        max_length: int | None = None,
    ) -> None:
        self._items: list[dict[str, Any]] = []
        self.samples: list[Sample] = []
        self.too_long: list[Sample] = []
        for sample in samples:
            item = _tokens(sample, processor)
            fits = max_length is None or len(item["input_ids"]) <= max_length
            (self.samples if fits else self.too_long).append(sample)
            if fits:
                self._items.append(item)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """input_ids and labels (S,) int32, and the paths of the images."""
        return self._items[index]


def _tokens(sample: Sample, processor: DeepseekOCRProcessor) -> dict[str, Any]:
    def encode(text: str) -> list[int]:
        return processor.tokenizer.encode(text, add_special_tokens=False)

    resolution = processor.options.resolution
    plans = [plan_tiles(*upright_size(path), resolution) for path in sample.images]
    ids = prompt_ids(sample.prompt, encode, processor.bos_token_id)
    try:
        counts = [plan.num_image_tokens for plan in plans]
        ids = expand_placeholders(ids, processor.image_token_id, counts)
    except PromptError as error:
        raise DataError(f"{_named(sample.images)}: {error}") from error
    answer = [*encode(sample.answer), processor.tokenizer.convert_tokens_to_ids(EOS_TOKEN)]
    labels = [IGNORE_INDEX] * len(ids) + answer
    return {"input_ids": _int32(ids + answer), "labels": _int32(labels), "images": sample.images}


def _int32(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)  # data sets stay in memory


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "a sample without image"


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) px of the page `open_image` will give.

    From the file's header, but for PNG: its EXIF data may stand behind the pixels.
    """
    try:
        with Image.open(path) as image:
            # A TIFF states its size turned already.
            on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            turned = on_its_side and image.format != "TIFF"
            return image.size[::-1] if turned else image.size
    except OSError as error:
        raise DataError(f"cannot open {path}: {error}") from error


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
        # In an answer the tag would be text that no image stands behind.
        seen = (ids == self.processor.image_token_id) & (labels == IGNORE_INDEX)
        pages = [self._page(path) for item in items for path in item["images"]]
        masks = {"attention_mask": real, "images_seq_mask": seen}
        return {"input_ids": ids, "labels": labels, **masks, **vision_inputs(pages)}

    def _page(self, path: Path) -> Any:
        try:
            return page_tensors(open_image(path), self.processor.options)
        except PageError as error:
            raise DataError(f"{path}: {error}") from error


def _padded(rows: Sequence[Tensor], value: int) -> Tensor:
    return pad_sequence([row.long() for row in rows], batch_first=True, padding_value=value)
