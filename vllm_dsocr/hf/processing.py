"""Prompts and images -> model inputs, id for id and pixel for pixel what serving makes of them.

Knows the tokenizer and the checkpoint's page options; knows nothing of the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from vllm_dsocr.config import (
    BOS_TOKEN,
    EOS_TOKEN,
    IMAGE_TOKEN,
    PAD_TOKEN,
    RESOLUTION_OPTIONS,
    PageOptions,
)
from vllm_dsocr.page.pixels import PageTensors, page_tensors
from vllm_dsocr.page.prompt import expand_placeholders, prompt_ids

CONFIG_NAME = "processor_config.json"


class DeepseekOCRProcessor:
    """Callable like any processor of transformers; page options per instance and per call.

    options: the checkpoint's defaults, see `config.PageOptions`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: PageOptions | None = None):
        self.tokenizer = tokenizer
        self.options = options or PageOptions()
        ids = tokenizer.get_vocab()
        self.image_token_id, self.bos_token_id = ids[IMAGE_TOKEN], ids[BOS_TOKEN]
        self.pad_token_id = ids.get(PAD_TOKEN, ids[EOS_TOKEN])

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> DeepseekOCRProcessor:
        """Tokenizer and page defaults of a checkpoint; keys of PAGE_OPTIONS override the latter."""
        # Not AutoTokenizer: the class the published tokenizer_config.json names rebuilds the
        # pre-tokenizer and mis-encodes. This one takes tokenizer.json as it is.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
        file = cached_file(path, CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
        stored = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        return cls(tokenizer, PageOptions.from_checkpoint(stored).override(options))

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer's files and the page defaults."""
        resolution = self.options.resolution
        stored = {"image_token": IMAGE_TOKEN, "resampler": self.options.resampler}
        stored |= {name: getattr(resolution, name) for name in RESOLUTION_OPTIONS}
        self.tokenizer.save_pretrained(path)
        (Path(path) / CONFIG_NAME).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")

    def __call__(
        self,
        text: str | Sequence[str],
        images: Image.Image | Sequence[Image.Image] = (),
        **options: Any,
    ) -> BatchFeature:
        """Left-padded inputs of `DeepseekOCRForCausalLM.forward` and `generate`.

        text: one prompt or a batch, one `<image>` per image. images: of all prompts, in order.
        Returns input_ids, attention_mask (B, S) int64, images_seq_mask (B, S) bool and, with
        images, `images`: per image (tiles, global view) in uint8, and images_spatial_crop (n, 2).
        Raises OptionError for an unknown option, PromptError when tags and images differ.
        """
        prompts = [text] if isinstance(text, str) else list(text)
        images = [images] if isinstance(images, Image.Image) else list(images)
        chosen = self.options.override(options)
        pages = [page_tensors(image, chosen) for image in images]
        return BatchFeature({**self._pad(self._ids(prompts, pages)), **vision_inputs(pages)})

    def _ids(self, prompts: list[str], pages: list[PageTensors]) -> list[list[int]]:
        counts = [page.plan.num_image_tokens for page in pages]
        rows = []
        for i, prompt in enumerate(prompts):
            ids = prompt_ids(prompt, self._encode, self.bos_token_id)
            # The last prompt takes what is left, so that a surplus of images is noticed.
            own = len(counts) if i == len(prompts) - 1 else ids.count(self.image_token_id)
            rows.append(expand_placeholders(ids, self.image_token_id, counts[:own]))
            counts = counts[own:]
        return rows

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _pad(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        length = max(map(len, rows))
        ids = torch.tensor([[self.pad_token_id] * (length - len(row)) + row for row in rows])
        real = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        mask = ids == self.image_token_id
        return {"input_ids": ids, "attention_mask": real, "images_seq_mask": mask}


def vision_inputs(pages: Sequence[PageTensors]) -> dict[str, Any]:
    """What the model takes of the images of a batch, see the processor; nothing without images."""
    if not pages:
        return {}
    return {
        "images": [(page.tiles, page.global_view[None]) for page in pages],
        "images_spatial_crop": torch.tensor([[p.plan.cols, p.plan.rows] for p in pages]),
    }
