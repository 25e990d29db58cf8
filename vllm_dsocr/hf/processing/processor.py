"""Prompts and images -> model inputs, id for id and pixel for pixel what serving makes of them.

Knows the tokenizer and the checkpoint's page options; knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from vllm_dsocr.config import (
    BOS_TOKEN,
    EOS_TOKEN,
    IMAGE_TOKEN,
    PAD_TOKEN,
    PAGE_OPTIONS,
    PageOptions,
)
from vllm_dsocr.hf.processing.chat import CHAT_TEMPLATE
from vllm_dsocr.hf.processing.padding import PaddingSettings, as_batch, shortened
from vllm_dsocr.hf.processing.sources import flat_images, is_image, per_prompt
from vllm_dsocr.page.pixels import PageTensors, page_tensors
from vllm_dsocr.page.prompt import PromptError, expand_placeholders, prompt_ids

GROUPS = ("common_kwargs", "text_kwargs", "images_kwargs")  # ways to spell options in transformers
# BOS is there once, whatever is asked for: chat templates write it, plain prompts do not.
IGNORED = ("add_special_tokens", "return_attention_mask", "return_token_type_ids", "use_fast")
IMAGE_TOKENS = 1  # in mm_token_type_ids


class DeepseekOCRProcessor(ProcessorMixin):
    """A processor of transformers; page options per instance and per call.

    options: the checkpoint's defaults, see `config.PageOptions`. allowed_hosts: from where images
    may be fetched that are given as URLs; by default from nowhere.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: PageOptions | None = None,
        chat_template: str | dict[str, str] | None = None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.options = options or PageOptions()
        self.allowed_hosts = tuple(allowed_hosts)
        ids = tokenizer.get_vocab()
        self.image_token = IMAGE_TOKEN
        self.image_token_id, self.bos_token_id = ids[IMAGE_TOKEN], ids[BOS_TOKEN]
        self.pad_token_id = ids.get(PAD_TOKEN, ids[EOS_TOKEN])

    @classmethod
    def from_pretrained(
        cls, path: str | Path, allowed_hosts: Collection[str] = (), **kwargs: Any
    ) -> DeepseekOCRProcessor:
        """Tokenizer, chat template and page defaults of a checkpoint, in a folder or on the hub.

        kwargs: keys of PAGE_OPTIONS override the defaults; revision, token, cache_dir, subfolder,
        local_files_only and what else transformers knows say where the files are.
        Raises OptionError for page options that cannot be, OSError for a missing checkpoint.
        """
        options = {key: kwargs.pop(key) for key in PAGE_OPTIONS if key in kwargs}
        template = kwargs.pop("chat_template", None)
        for name in ("trust_remote_code", "use_fast", "config"):  # nothing here depends on them
            kwargs.pop(name, None)
        stored, _ = cls.get_processor_dict(path, **kwargs)
        kwargs.pop("_from_auto", None)
        # Not AutoTokenizer: the class the published tokenizer_config.json names rebuilds the
        # pre-tokenizer and mis-encodes. This one takes tokenizer.json as it is.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **kwargs)
        template = template or stored.get("chat_template") or tokenizer.chat_template
        chosen = PageOptions.from_checkpoint(stored).override(options)
        return cls(tokenizer, chosen, template, allowed_hosts)

    def to_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes into processor_config.json: the page defaults."""
        stored = {"image_token": IMAGE_TOKEN, **self.options.to_dict()}
        return {**stored, "processor_class": DeepseekOCRProcessor.__name__}

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> list[str]:
        """Tokenizer, page defaults and chat template; `push_to_hub=True` sends them too."""
        return super().save_pretrained(str(save_directory), *args, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "images_seq_mask", "images", "images_spatial_crop"]

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        videos: None = None,
        audio: None = None,
        **options: Any,
    ) -> BatchFeature:
        """Inputs of `DeepseekOCRForCausalLM.forward` and `generate`, padded on the left.

        text: one prompt or a batch, one `<image>` per image. images: of all prompts, in order, or a
        list of lists, one per prompt; see `sources` for what an image can be.
        options: keys of PAGE_OPTIONS; padding (True, False or 'max_length'), truncation,
        max_length, pad_to_multiple_of, padding_side, return_tensors ('pt' unless said otherwise,
        None for lists), return_mm_token_type_ids, allowed_hosts.
        Returns input_ids, attention_mask (B, S) int64, images_seq_mask (B, S) bool and, with
        images, `images`: per image (tiles, global view) in uint8, and images_spatial_crop (n, 2).
        Raises OptionError for an unknown option, PromptError when tags and images differ or a cut
        would go through an image, PageError for an image that cannot be read.
        """
        text, images = _in_order(text, images)
        _refuse(videos=videos, audio=audio)
        options = _ungrouped(options)
        padding = PaddingSettings.take(options, self.tokenizer.model_max_length)
        with_types = options.pop("return_mm_token_type_ids", False)
        hosts = options.pop("allowed_hosts", self.allowed_hosts)
        chosen = self.options.override(options)
        prompts = [text] if isinstance(text, str) else list(text)
        pages = [page_tensors(image, chosen) for image in flat_images(images, hosts)]
        ids = self._ids(prompts, pages, per_prompt(images))
        rows = [shortened(row, padding, self.image_token_id) for row in ids]
        batch = as_batch(rows, padding, self.pad_token_id, self.image_token_id)
        if with_types:
            batch["mm_token_type_ids"] = _types(batch["images_seq_mask"])
        return BatchFeature({**batch, **vision_inputs(pages)})

    def _ids(
        self, prompts: list[str], pages: list[PageTensors], split: list[int] | None
    ) -> list[list[int]]:
        """One row per prompt. split: images of each prompt, where the caller said so."""
        rows = [prompt_ids(prompt, self._encode, self.bos_token_id) for prompt in prompts]
        if split is None or len(split) != len(rows):
            split = [row.count(self.image_token_id) for row in rows]
            split[-1] += len(pages) - sum(split)  # a surplus of images is noticed at the last one
        ends = [0, *accumulate(split)]
        counts = [page.plan.num_image_tokens for page in pages]
        spans = pairwise(ends)
        return [
            expand_placeholders(row, self.image_token_id, counts[start : max(start, end)])
            for row, (start, end) in zip(rows, spans, strict=True)
        ]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def vision_inputs(pages: Sequence[PageTensors]) -> dict[str, Any]:
    """What the model takes of the images of a batch, see the processor; nothing without images."""
    if not pages:
        return {}
    return {
        "images": [(page.tiles, page.global_view[None]) for page in pages],
        "images_spatial_crop": torch.tensor([[p.plan.cols, p.plan.rows] for p in pages]),
    }


def _in_order(text: Any, images: Any) -> tuple[Any, Any]:
    """Prompts and images, also where they came in the order of most processors, images first."""
    first = text[0] if isinstance(text, (list, tuple)) and text else text
    if is_image(first) or (isinstance(first, (list, tuple)) and is_image(first[:1] and first[0])):
        text, images = images, text
    if text is None:
        raise PromptError(f"a prompt is needed, such as '{IMAGE_TOKEN}\\nFree OCR.'")
    prompts = [text] if isinstance(text, str) else text
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(p, str) for p in prompts):
        raise PromptError("text is one prompt or a list of prompts")
    if not prompts:
        raise PromptError("the list of prompts is empty")
    return text, images


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise PromptError(f"the model reads images and text, no {name}")


def _ungrouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options out of the groups that transformers knows; what means nothing here is left out."""
    flat = {key: value for key, value in options.items() if key not in GROUPS}
    for group in GROUPS:
        flat |= options.get(group) or {}
    return {key: value for key, value in flat.items() if key not in IGNORED}


def _types(image_mask: Any) -> Any:
    if isinstance(image_mask, list):
        return [[IMAGE_TOKENS * marked for marked in row] for row in image_mask]
    return image_mask * IMAGE_TOKENS
