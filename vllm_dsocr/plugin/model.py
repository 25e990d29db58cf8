"""DeepSeek-OCR as a vLLM model: prompt ids and page tensors -> hidden states and logits.

    global_view, tiles, grid -> encoder.assembly -> image embeddings -+
    input_ids -> embed_tokens ----------------------------------------+-> DeepSeek decoder -> logits

Vision runs whole on every tensor-parallel rank; the decoder is vLLM's own DeepSeek model, which
brings tensor and pipeline parallelism, LoRA and its kernels. Knows nothing of files or tiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import vllm.envs as envs
from torch import Tensor, nn
from transformers import PretrainedConfig
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsEagle3,
    SupportsLoRA,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors
from vllm.transformers_utils.repo_utils import get_hf_file_to_dict

from vllm_dsocr.config import IMAGE_TOKEN, VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.encoder.attention import Forms
from vllm_dsocr.encoder.positions import keep_constants
from vllm_dsocr.encoder.sam import SamVit
from vllm_dsocr.plugin.encoder import attention
from vllm_dsocr.plugin.encoder.graphs import EncoderGraphs
from vllm_dsocr.plugin.encoder.quantised import quantise
from vllm_dsocr.plugin.encoder.shards import encode_sharded
from vllm_dsocr.plugin.inputs.processing import (
    DeepseekOCRDummyInputsBuilder,
    DeepseekOCRMultiModalProcessor,
    DeepseekOCRProcessingInfo,
)
from vllm_dsocr.plugin.setup.adapters import decoder_config

DECODER = "DeepseekV2ForCausalLM"  # vLLM's name; it takes plain attention where the config says so


@MULTIMODAL_REGISTRY.register_processor(
    DeepseekOCRMultiModalProcessor,
    info=DeepseekOCRProcessingInfo,
    dummy_inputs=DeepseekOCRDummyInputsBuilder,
)
class DeepseekOCRForCausalLM(
    EncoderGraphs, nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA, SupportsEagle3
):
    """The whole model; vision attributes carry the checkpoint's names."""

    supports_encoder_tp_data = True

    hf_to_vllm_mapper: ClassVar[WeightsMapper] = WeightsMapper(
        orig_to_new_prefix={
            "model.sam_model.": "sam_model.",
            "model.vision_model.": "vision_model.",
            "model.projector.": "projector.",
            "model.image_newline": "image_newline",
            "model.view_seperator": "view_seperator",
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """What stands for the i-th image in a chat prompt. Raises ValueError for other media."""
        if not modality.startswith("image"):
            raise ValueError(f"{modality} input is not supported, only images are")
        return IMAGE_TOKEN

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        with self._mark_tower_model(vllm_config, "image"):
            sizes = vision_sizes(vllm_config.model_config)
            wanted = attention.wanted(vllm_config)
            forms = Forms(wanted.form)
            build_vision_tower(self, sizes, forms, wanted.plain)
            quantise(self, vllm_config, prefix)
        with self._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=decoder_config(vllm_config),
                hf_config=self.config.text_config,
                architectures=[DECODER],
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        self._prepare_encoder(vllm_config, forms, sizes)

    def _prepare_encoder(self, vllm_config: VllmConfig, forms: Forms, sizes: VisionSizes) -> None:
        """What is decided once: sides of views, forms of attention, who encodes what."""
        info = MULTIMODAL_REGISTRY.get_processing_info(vllm_config.model_config)
        self.resolution = info.page_options.resolution
        multimodal, parallel = (
            vllm_config.model_config.multimodal_config,
            vllm_config.parallel_config,
        )
        by_data = multimodal.mm_encoder_tp_mode == "data"
        self._sharded = by_data and parallel.tensor_parallel_size > 1
        keep_constants(self)
        if isinstance(self.sam_model, SamVit):  # not where no image may come, nor on later stages
            sides = self.recorded_sides().values()
            attention.choose(forms, sizes.sam, sides, self.image_newline)

    def embed_multimodal(self, **kwargs: Any) -> MultiModalEmbeddings:
        """One (num_image_tokens, hidden) tensor per image; none for a call without images.

        kwargs: `global_view`, `tiles` and `grid` as the processor made them.
        """
        pages = self._pages(kwargs)
        if self._sharded and pages:
            return encode_sharded(self._encode, pages, self.image_newline)
        return self._encode(pages)

    def _encode(self, pages: Sequence[PageViews]) -> list[Tensor]:
        if envs.VLLM_BATCH_INVARIANT:  # kernels may differ with the number of views
            return [embed_pages(self, [page])[0] for page in pages]
        return embed_pages(self, pages)

    def _pages(self, mm_kwargs: Mapping[str, Any]) -> list[PageViews]:
        return list(_pages(**mm_kwargs))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """(tokens,) ids or (tokens, hidden) embeddings -> (tokens, hidden) hidden states."""
        if intermediate_tensors is not None:
            inputs_embeds = None  # a later pipeline stage takes the former one's output
        return self.language_model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """(tokens, hidden) -> (tokens, vocabulary), on the rank that has them."""
        return self.language_model.compute_logits(hidden_states)

    def set_aux_hidden_state_layers(self, layers: tuple[int, ...]) -> None:
        """Which decoder layers also give their hidden states, for an Eagle3 drafter."""
        self.language_model.set_aux_hidden_state_layers(layers)

    def get_eagle3_default_aux_hidden_state_layers(self) -> tuple[int, ...]:
        """Those of vLLM's DeepSeek model."""
        return self.language_model.get_eagle3_aux_hidden_state_layers()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads the official layout; raises for tensors the model has no place for."""
        loaded = AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
        keep_constants(self)  # they are made of weights
        return loaded

    def get_mm_mapping(self) -> MultiModelKeys:
        """Which submodules are decoder, connector and tower, for LoRA and quantisation."""
        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector="projector",
            tower_model=["sam_model", "vision_model"],
        )


def _pages(
    global_view: Iterable[Tensor] = (), tiles: Iterable[Tensor] = (), grid: Iterable[Tensor] = ()
) -> Iterator[PageViews]:
    """Page by page; vLLM stacks a field where all pages agree in size and lists it otherwise."""
    for view, page_tiles, rows_cols in zip(global_view, tiles, grid, strict=True):
        yield PageViews(view, page_tiles, *rows_cols.tolist())


def vision_sizes(model_config: ModelConfig) -> VisionSizes:
    """Tower sizes of the checkpoint, with the official ones where it gives none."""
    stated = get_hf_file_to_dict("config.json", model_config.model, model_config.revision) or {}
    config = model_config.hf_config
    return VisionSizes.from_config(
        _stated(config.vision_config, stated.get("vision_config", {})),
        _stated(config.projector_config, stated.get("projector_config", {})),
    )


def _stated(section: PretrainedConfig, in_file: Mapping[str, Any]) -> dict[str, Any]:
    """A config section without the defaults of vLLM's config class, which is another model's."""
    defaults = type(section)().to_dict()
    changed = {key: value for key, value in section.to_dict().items() if value != defaults.get(key)}
    return {**in_file, **changed}
