"""Sample -> token ids, labels and the places of images, as serving makes ids of the same messages.

Made from the size of an image alone. Knows nothing of pixels, batches or files' formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from vllm_dsocr.config import EOS_TOKEN, IGNORE_INDEX
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data.samples import DataError, Sample
from vllm_dsocr.hf.training.data.sizes import upright_size
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.prompt import PromptError, expand_placeholders, prompt_ids


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
        raise DataError(f"{named(sample.images)}: more images than <image> tags in the prompts")
    mask = torch.tensor(seen)
    return {"input_ids": _int32(ids), "labels": _int32(labels), "seen": mask,
            "images": sample.images}  # fmt: skip


def _image_counts(sample: Sample, processor: DeepseekOCRProcessor) -> list[int]:
    resolution = processor.options.resolution
    try:
        sizes = [upright_size(image) for image in sample.images]
    except UnidentifiedImageError as error:
        raise DataError(f"{named(sample.images)}: not an image that can be read") from error
    except OSError as error:
        raise DataError(f"cannot open {named(sample.images)}: {error.strerror or error}") from error
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
        raise DataError(f"{named(sample.images)}: {error}") from error


def _int32(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)  # data sets stay in memory


def named(images: Sequence[Path | bytes]) -> str:
    names = (f"an image of {len(i)} bytes" if isinstance(i, bytes) else str(i) for i in images)
    return ", ".join(names) or "a sample without image"
