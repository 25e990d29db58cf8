"""Generation of transformers over prompts with images, each encoded once, whatever the passes are.

    images -> image_embeds (B, S, D), one row per prompt -> each pass gets its own positions

One row per prompt is what beams, several answers per prompt and assistants can repeat; one
position per token is what chunks of a prompt can be cut from. Knows nothing of layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin

from vllm_dsocr.hf.model.ranks import lies_in_shards
from vllm_dsocr.hf.model.views import window


class PageGenerationMixin(GenerationMixin):
    """GenerationMixin for a model whose `model` has `place_images`."""

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in GenerationMixin. Raises ValueError when images and their places differ."""
        ids = kwargs.get("input_ids") if inputs is None else inputs
        pixels = kwargs.pop("pixel_values", None)
        if pixels is not None:
            names = ("images", "images_seq_mask", "images_spatial_crop")
            kwargs |= zip(names, self.model.from_pixel_values(pixels, ids), strict=True)
        images, mask = kwargs.get("images"), kwargs.get("images_seq_mask")
        if images is not None and len(images) and not _has_read(ids, kwargs):
            kwargs["image_embeds"] = self.model.place_images(
                images, mask, kwargs.get("images_spatial_crop")
            )
        elif lies_in_shards(self):
            self.model.place_images(None, None, None)  # the empty work that other ranks wait for
        return super().generate(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        images: Any = None,
        images_seq_mask: Tensor | None = None,
        images_spatial_crop: Tensor | None = None,
        image_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Of the images each pass gets what belongs to its own positions.

        That is all of them in a plain prefill, a part for each chunk of a chunked one, nothing once
        the cache has them, and all of them every time where there is no cache.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if images_seq_mask is None or (images is None and image_embeds is None):
            return inputs
        embedded = inputs.get("inputs_embeds") is not None
        length = (inputs["inputs_embeds"] if embedded else inputs["input_ids"]).shape[1]
        given: Any = inputs_embeds if embedded else input_ids
        total = given.shape[1]
        if total < images_seq_mask.shape[1]:  # a chunk of the prompt, which begins where we are
            total = length + (_seen(past_key_values))
        mask = window(images_seq_mask, total - length, length)
        if total - length >= images_seq_mask.shape[1] or not (
            image_embeds is not None or mask.any()
        ):
            return inputs
        if image_embeds is None:
            image_embeds = self.model.place_images(images, images_seq_mask, images_spatial_crop)
        places = {
            "images_seq_mask": mask,
            "image_embeds": window(image_embeds, total - length, length),
        }
        return {**inputs, **places}


def _seen(cache: Cache | None) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _has_read(ids: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether the cache that generation goes on from holds every image of these prompts already.

    That can only be where the prompts are passed as a whole, not their new part alone.
    """
    mask, attended = kwargs.get("images_seq_mask"), kwargs.get("attention_mask")
    seen = _seen(kwargs.get("past_key_values"))
    if not seen or mask is None or ids is None:
        return False
    whole = ids.shape[1] > seen if attended is None else attended.shape[1] == ids.shape[1]
    return whole and not mask[:, seen:].any()
