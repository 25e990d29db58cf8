"""Token ids and page views -> hidden states: the decoder with the vision tower inside.

    input_ids -> embed_tokens -> (image positions <- embed_pages) -> decoder layers

Gradients reach the vision tower unless the caller freezes it. Knows nothing of losses, image files
or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages, num_passes
from vllm_dsocr.encoder.clip import Embeddings as ClipEmbeddings
from vllm_dsocr.encoder.sam import Attention as SamAttention
from vllm_dsocr.encoder.sam import LayerNorm2d, SamVit
from vllm_dsocr.hf.configuration import DeepseekOCRConfig
from vllm_dsocr.hf.model.moe import DecoderLayer, MoE, Router
from vllm_dsocr.hf.model.ranks import missing_passes
from vllm_dsocr.hf.model.views import as_rows, from_pixel_values, page_views, place

EMPTY_SIDE = 64  # px; the smallest view that gives an embedding


class DeepseekOCRPreTrainedModel(LlamaPreTrainedModel):
    config_class = DeepseekOCRConfig
    input_modalities = ("image", "text")
    _no_split_modules = ["LlamaDecoderLayer", "DecoderLayer", "SamVit", "ClipVit"]
    _can_compile_fullgraph = False  # tokens are sorted by expert, whose counts the host must see

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Whether `experts_implementation` is heard; see `experts`."""
        return True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Router):
            init.normal_(module.weight, std=std)
        elif isinstance(module, SamVit):
            init.normal_(module.pos_embed, std=std)
        elif isinstance(module, SamAttention):
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif isinstance(module, LayerNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ClipEmbeddings):
            init.normal_(module.class_embedding, std=std)
            # Saved with the weights, but some checkpoints lack it.
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[1])[None])
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
        # In the checkpoint, but no pass uses it; DDP would wait for its gradient.
        self.vision_model.embeddings.patch_embedding.requires_grad_(False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        images: Any = None,
        images_seq_mask: Tensor | None = None,
        images_spatial_crop: Tensor | None = None,
        return_dict: bool | None = None,
        image_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        images_alone: bool = False,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Tensor, ...] | Tensor:
        """See DeepseekOCRForCausalLM.forward; with images_alone see place_images."""
        if pixel_values is not None:
            images, images_seq_mask, images_spatial_crop = self.from_pixel_values(
                pixel_values, input_ids
            )
        if images_alone:
            return self._placed(images, images_seq_mask, images_spatial_crop)
        given = image_embeds is None and images is not None and len(images) > 0
        pages = page_views(images, images_spatial_crop) if given else []
        missing = self._missing_passes(pages)
        if image_embeds is not None or given or missing:
            inputs_embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
            input_ids = None
        if image_embeds is not None:
            mask = as_rows(images_seq_mask, inputs_embeds)
            inputs_embeds = torch.where(mask, image_embeds.to(inputs_embeds), inputs_embeds)
        elif given:
            inputs_embeds = place(inputs_embeds, images_seq_mask, embed_pages(self, pages))
        if missing:
            inputs_embeds = inputs_embeds + self._empty_work(missing).to(inputs_embeds)
        if position_ids is None and cache_position is not None:
            position_ids = cache_position[None]
        optional = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": return_dict,
        }
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{name: value for name, value in optional.items() if value is not None},
            **kwargs,
        )

    def from_pixel_values(
        self, pixel_values: Tensor, input_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See views.from_pixel_values."""
        token = getattr(self.config, "image_token_id", None)
        return from_pixel_values(pixel_values, input_ids, token)

    def _missing_passes(self, pages: Sequence[PageViews]) -> int:
        return missing_passes(self, num_passes(self, pages), self.image_newline.device)

    def _empty_work(self, passes: int) -> Tensor:
        """Zero, after so many passes through towers and projector; see ranks.py."""
        view = torch.zeros(3, EMPTY_SIDE, EMPTY_SIDE, dtype=torch.uint8)
        page = PageViews(view, view[None][:0], 1, 1)
        return 0 * sum(embed_pages(self, [page])[0].sum() for _ in range(passes))

    @torch.no_grad()
    def place_images(
        self, images: Any, images_seq_mask: Tensor | None, images_spatial_crop: Tensor | None
    ) -> Tensor:
        """The images of a batch, encoded, at the positions of its prompts: (B, S, D).

        What `forward` takes as `image_embeds`; zeros where no image is.
        """
        # Through the module, whose hooks fetch weights that lie elsewhere.
        return self(
            images=images,
            images_seq_mask=images_seq_mask,
            images_spatial_crop=images_spatial_crop,
            images_alone=True,
        )

    def _placed(
        self, images: Any, images_seq_mask: Tensor | None, images_spatial_crop: Tensor | None
    ) -> Tensor:
        pages = page_views([] if images is None else images, images_spatial_crop)
        missing = self._missing_passes(pages)
        embeddings = embed_pages(self, pages)
        if missing:
            self._empty_work(missing)
        batch = (1, 1) if images_seq_mask is None else tuple(images_seq_mask.shape)
        onto = self.image_newline.new_zeros(*batch, self.config.hidden_size)
        return place(onto, images_seq_mask, embeddings)
