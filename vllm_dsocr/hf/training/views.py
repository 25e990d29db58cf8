"""Pages as `pixel_values`, for trainers that pass pictures on under names they know.

GRPO of TRL is one: it cuts batches of pictures itself. One view a page, so no mode with tiles.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BatchFeature

from vllm_dsocr.config import OptionError
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor


class ViewsProcessor(DeepseekOCRProcessor):
    """Ids and pixels of DeepseekOCRProcessor; of a page its one view, (n, 3, B, B) in uint8.

    Raises OptionError for a mode with tiles.
    """

    def __call__(self, *args: Any, **options: Any) -> BatchFeature:
        batch = super().__call__(*args, **options)
        own = {key: batch[key] for key in ("input_ids", "attention_mask")}
        if "images" not in batch:
            return BatchFeature(own)
        if (batch["images_spatial_crop"] > 1).any():
            raise OptionError(
                "pixel_values hold one view a page: choose tiny, small, base or large"
            )
        views = torch.cat([view for _, view in batch["images"]])
        return BatchFeature({**own, "pixel_values": views})


def with_pixel_values(
    model: DeepseekOCRForCausalLM, processor: DeepseekOCRProcessor
) -> ViewsProcessor:
    """The processor such a trainer is given; the model learns which id stands for a page."""
    model.config.image_token_id = processor.image_token_id
    return ViewsProcessor(
        processor.tokenizer, processor.options, processor.chat_template, processor.allowed_hosts
    )
