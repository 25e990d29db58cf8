"""DeepSeek-OCR for transformers: token ids and page views -> logits, loss, generated ids.

    input_ids -> embed_tokens -> (image positions <- embed_pages) -> decoder layers -> lm_head

Official layout and tensor names, so that what is saved here is what vLLM serves. Gradients reach
the vision tower unless the caller freezes it. Knows nothing of image files or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel
from transformers.utils import logging

from vllm_dsocr.config import IGNORE_INDEX, PageOptions
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.encoder.clip import Embeddings as ClipEmbeddings
from vllm_dsocr.encoder.sam import SamVit
from vllm_dsocr.hf.balance import Balance
from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.infer import infer
from vllm_dsocr.hf.loss import cross_entropy, lean_cross_entropy, next_tokens
from vllm_dsocr.hf.moe import DecoderLayer, MoE
from vllm_dsocr.page.geometry import num_tiles

logger = logging.get_logger(__name__)
VISION_INPUTS = ("images", "images_seq_mask", "images_spatial_crop")


class DeepseekOCRPreTrainedModel(LlamaPreTrainedModel):
    config_class = DeepseekOCRConfig
    _no_split_modules = ["LlamaDecoderLayer", "DecoderLayer", "SamVit", "ClipVit"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, SamVit):
            init.normal_(module.pos_embed, std=std)
        elif isinstance(module, ClipEmbeddings):
            init.normal_(module.class_embedding, std=std)
        elif isinstance(module, DeepseekOCRModel):
            init.normal_(module.image_newline, std=std)
            init.normal_(module.view_seperator, std=std)


class DeepseekOCRModel(DeepseekOCRPreTrainedModel, LlamaModel):
    """Decoder without head, carrying the vision tower under the checkpoint's names."""

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__(config)
        for index in range(config.first_k_dense_replace, config.num_hidden_layers):
            self.layers[index] = DecoderLayer(config, index)
            self.layers[index].mlp = MoE(config)
        build_vision_tower(self, config.vision_sizes)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Sequence[tuple[Tensor, Tensor]] | None = None,
        images_seq_mask: Tensor | None = None,
        images_spatial_crop: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """See DeepseekOCRForCausalLM.forward."""
        if images is not None and len(images):
            if inputs_embeds is None:
                inputs_embeds = self.embed_tokens(input_ids)
            pages = page_views(images, images_spatial_crop)
            inputs_embeds = merge(inputs_embeds, images_seq_mask, embed_pages(self, pages))
        if inputs_embeds is not None:
            input_ids = None
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)


def page_views(
    images: Sequence[tuple[Tensor, Tensor]], images_spatial_crop: Tensor | None
) -> list[PageViews]:
    """Official model inputs -> views. Tiles count only where the grid has more than one.

    images: per image (tiles (T, 3, S, S), global view (1, 3, B, B)); without tiles the official
    code puts zeros there, which are ignored. images_spatial_crop: (n, 2) [across, down].
    """
    if images_spatial_crop is None or len(images_spatial_crop) != len(images):
        raise ValueError("images_spatial_crop needs one row [tiles across, tiles down] per image")
    pages = []
    for (tiles, view), (cols, rows) in zip(images, images_spatial_crop.tolist(), strict=True):
        pages.append(PageViews(view[0], tiles if num_tiles(rows, cols) else tiles[:0], rows, cols))
    return pages


def merge(inputs_embeds: Tensor, mask: Tensor | None, pages: Sequence[Tensor]) -> Tensor:
    """Put image embeddings, in order, where `mask` (B, S) is true; raises when counts differ."""
    embeddings = torch.cat(list(pages)).to(inputs_embeds.dtype)
    places = 0 if mask is None else int(mask.sum())
    if places != len(embeddings):
        raise ValueError(
            f"images_seq_mask marks {places} positions, "
            f"the images give {len(embeddings)} embeddings"
        )
    mask = mask.to(inputs_embeds.device).unsqueeze(-1)
    return inputs_embeds.masked_scatter(mask, embeddings)


class DeepseekOCRForCausalLM(DeepseekOCRPreTrainedModel, GenerationMixin):
    """The whole model; `generate` and `infer` read pages, `forward` with labels trains.

    lean_loss: set it to True and `forward` with labels gives the loss alone, its logits being None,
    in a fraction of the memory.
    label_smoothing: so much of each label is spread over the whole vocabulary.
    """

    lean_loss = False
    label_smoothing = 0.0

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__(config)
        self.model = DeepseekOCRModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Sequence[tuple[Tensor, Tensor]] | None = None,
        images_seq_mask: Tensor | None = None,
        images_spatial_crop: Tensor | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits in fp32 and, with labels, the shifted cross entropy of the positions kept.

        input_ids: (B, S). images: one (tiles (T, 3, S, S), global view (1, 3, B, B)) per image over
        the whole batch, in order; uint8 or normalised floats. images_seq_mask: (B, S), true at
        image positions. images_spatial_crop: (n, 2) [tiles across, tiles down]. labels: (B, S),
        -100 is ignored. attention_mask (B, S), past_key_values, ... as in any decoder.
        logits_to_keep: so many last positions, or the indices of positions; 0 keeps all.
        Raises ValueError when placeholders and image embeddings differ in number.
        """
        vision = (images, images_seq_mask, images_spatial_crop)
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        targets = None if labels is None else next_tokens(labels)[:, rows].contiguous()
        num_items = kwargs.get("num_items_in_batch")
        if self.training:
            kwargs["balance"] = self._balance(targets, attention_mask, num_items)
        outputs = self.model(input_ids, *vision, attention_mask=attention_mask, **kwargs)
        hidden = outputs.last_hidden_state[:, rows, :]
        loss, logits = self._loss_and_logits(hidden, targets, num_items)
        if loss is not None and kwargs.get("balance") is not None:
            loss = kwargs["balance"].tap(loss)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _balance(
        self, targets: Tensor | None, attention_mask: Tensor | None, num_items: Tensor | int | None
    ) -> Balance | None:
        if not self.config.aux_loss_alpha:
            return None
        if targets is None:
            logger.warning_once("a pass without labels: the router's balance loss is left out")
            return None
        return Balance(targets, attention_mask, num_items)

    def _loss_and_logits(
        self, hidden: Tensor, targets: Tensor | None, num_items: Tensor | int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        if targets is not None and self.lean_loss:
            smoothing = self.label_smoothing
            return lean_cross_entropy(self.lm_head, hidden, targets, num_items, smoothing), None
        logits = self.lm_head(hidden).float()
        if targets is None:
            return None, logits
        if self.label_smoothing:
            return cross_entropy(logits, targets, num_items, self.label_smoothing), logits
        sizes = {"vocab_size": self.vocab_size, "ignore_index": IGNORE_INDEX}
        loss = self.loss_function(
            logits, None, shift_labels=targets, num_items_in_batch=num_items, **sizes
        )
        return loss, logits

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Vision inputs go into the first pass only; later ones read them from the cache.

        Without a cache every pass is a first one, over ever more tokens.
        """
        vision = {name: kwargs.pop(name, None) for name in VISION_INPUTS}
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and inputs.get("past_key_values") is not None:
            return inputs
        if vision["images_seq_mask"] is not None:
            new = input_ids.shape[1] - vision["images_seq_mask"].shape[1]
            vision["images_seq_mask"] = nn.functional.pad(vision["images_seq_mask"], (0, new))
        return {**inputs, **vision}

    def _get_name(self) -> str:
        # FSDP2 renames the class, and the Trainer knows by the name whether labels are shifted.
        return DeepseekOCRForCausalLM.__name__

    def infer(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str = "",
        image_file: str | Path = "",
        output_path: str | Path = "",
        base_size: int = 1024,
        image_size: int = 640,
        crop_mode: bool = True,
        test_compress: bool = False,
        save_results: bool = False,
        eval_mode: bool = False,
    ) -> str:
        """Read one image as the official `infer()` does, and return the text.

        Greedy, no 20-gram twice (35 in eval_mode); the text is printed as it comes unless
        eval_mode. Without crop_mode the one view has side image_size. test_compress prints vision
        tokens, text tokens and their ratio; save_results writes `result.mmd`, figure crops under
        `images/` and `result_with_boxes.jpg` into output_path. Without an image file the prompt is
        answered alone.
        Raises PageError for an unreadable file, OptionError for sizes that cannot be.
        """
        sizes = {"base_size": base_size, "image_size": image_size, "crop_mode": crop_mode}
        return infer(
            self,
            tokenizer,
            prompt,
            image_file,
            output_path,
            PageOptions(resampler="pillow").override(sizes),
            test_compress=test_compress,
            save_results=save_results,
            eval_mode=eval_mode,
        )
