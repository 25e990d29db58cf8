"""DeepSeek-OCR for transformers: token ids and page views -> logits, loss, generated ids.

    backbone -> lm_head -> loss

Official layout and tensor names, so that what is saved here is what vLLM serves. Knows nothing of
image files or prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple, logging

from vllm_dsocr.config import IGNORE_INDEX, PageOptions
from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.generation import PageGenerationMixin
from vllm_dsocr.hf.infer import infer
from vllm_dsocr.hf.model.backbone import DeepseekOCRModel, DeepseekOCRPreTrainedModel
from vllm_dsocr.hf.model.balance import Balance
from vllm_dsocr.hf.model.loss import cross_entropy, lean_cross_entropy, next_tokens

logger = logging.get_logger(__name__)


class DeepseekOCRForCausalLM(DeepseekOCRPreTrainedModel, PageGenerationMixin):
    """The whole model; `generate` and `infer` read pages, `forward` with labels trains.

    lean_loss: set it to True and `forward` with labels gives the loss alone, its logits being None,
    in a fraction of the memory.
    label_smoothing: so much of each label is spread over the whole vocabulary.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    lean_loss = False
    label_smoothing = 0.0

    def __init__(self, config: DeepseekOCRConfig) -> None:
        super().__init__(config)
        self.model = DeepseekOCRModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: Any = None,
        images_seq_mask: Tensor | None = None,
        images_spatial_crop: Tensor | None = None,
        return_dict: bool | None = None,
        image_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Logits in fp32 and, with labels, the shifted cross entropy of the positions kept.

        Arguments and their order are the official class's. input_ids: (B, S). images: one (tiles
        (T, 3, S, S), global view (1, 3, B, B)) per image over the whole batch, in order; uint8 or
        normalised floats; other layouts see `views.page_views`. images_seq_mask: (B, S), true at
        image positions. images_spatial_crop: (n, 2) [tiles across, tiles down]. image_embeds: what
        `DeepseekOCRModel.place_images` made of images, instead of them. labels: (B, S), -100 is
        ignored. attention_mask (B, S), past_key_values, ... as in any decoder; cache_position (S,)
        counts where there are no position_ids. shift_labels: (B, S), what each position has to
        predict, for callers that have shifted the labels themselves; it goes before labels.
        pixel_values: (n, 3, B, B), a view per image, where config.image_token_id stands in the ids,
        instead of images; for trainers that know no other name.
        logits_to_keep: so many last positions, or the indices of positions; 0 keeps all.
        Raises ValueError when placeholders and image embeddings differ in number.
        """
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        # Not in the signature: there the Trainer takes every name with "label" for one to be found.
        shift_labels = kwargs.pop("shift_labels", None)
        shifted = shift_labels is not None or labels is None
        targets = shift_labels if shifted else next_tokens(labels)
        num_items = kwargs.get("num_items_in_batch")
        if self.training:
            kept = targets if targets is None else _only(targets, rows)
            kwargs["balance"] = self._balance(kept, attention_mask, position_ids, num_items)
        targets = None if targets is None else targets[:, rows].contiguous()
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            images=images,
            images_seq_mask=images_seq_mask,
            images_spatial_crop=images_spatial_crop,
            return_dict=True,
            image_embeds=image_embeds,
            cache_position=cache_position,
            pixel_values=pixel_values,
            **kwargs,
        )
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
        self,
        targets: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        num_items: Tensor | int | None,
    ) -> Balance | None:
        if not self.config.aux_loss_alpha:
            return None
        if targets is None:
            logger.warning_once("a pass without labels: the router's balance loss is left out")
            return None
        return Balance(targets, attention_mask, num_items, position_ids)

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
        **generation: Any,
    ) -> str:
        """Read one image as the official `infer()` does, and return the text.

        Greedy, no 20-gram twice (35 in eval_mode); the text is printed as it comes unless
        eval_mode. Without crop_mode the one view has side image_size. test_compress prints vision
        tokens, text tokens and their ratio; save_results writes `result.mmd`, figure crops under
        `images/` and `result_with_boxes.jpg` into output_path. Without an image file the prompt is
        answered alone. generation: arguments of `generate`, which go before what is chosen here.
        Raises PageError for an unreadable file, OptionError for sizes that cannot be.
        """
        sizes = {"base_size": base_size, "image_size": image_size, "crop_mode": crop_mode}
        return infer(
            self,
            tokenizer,
            prompt,
            image_file,
            output_path,
            PageOptions(resampler="pillow", alpha="drop").override(sizes),
            test_compress=test_compress,
            save_results=save_results,
            eval_mode=eval_mode,
            generation=generation,
        )


def _only(targets: Tensor, kept: slice | Tensor) -> Tensor:
    """(B, S) with what is not kept ignored."""
    left = torch.full_like(targets, IGNORE_INDEX)
    left[:, kept] = targets[:, kept]
    return left
