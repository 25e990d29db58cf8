"""Prompt ids and images -> expanded prompt ids and one set of page tensors per image, for vLLM.

    options: checkpoint, then server, then request -> PageOptions
    image -> page.pixels -> global_view, tiles, grid;  TilePlan -> number of placeholders

Needs no processor class of the checkpoint and no torchvision. Whatever is wrong with a request is
raised here, in the API server, as a ValueError that vLLM answers with HTTP 400. Knows nothing of
the model's weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import torch
from transformers import BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict, MultiModalInput
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
    PromptUpdate,
    TimingContext,
)
from vllm.transformers_utils.repo_utils import get_hf_file_to_dict

from vllm_dsocr.config import IMAGE_TOKEN, MODES, PageOptions, Resolution
from vllm_dsocr.page.geometry import TilePlan, plan_tiles
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.prompt import expand_placeholders, with_bos
from vllm_dsocr.page.source import PageError
from vllm_dsocr.plugin.inputs.images import PageDataParser
from vllm_dsocr.plugin.setup.page_limits import page_limits

# Keys that vLLM itself puts among a server's processor options.
VLLM_OPTIONS = ("device",)
# A prompt is at least BOS and the image, and at least one token must be generated.
TOKENS_BESIDE_IMAGE = 2


class DeepseekOCRProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about images before there are any."""

    def get_data_parser(self) -> MultiModalDataParser:
        return PageDataParser()

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        return {"image": self.largest_plan.num_image_tokens} if mm_counts.get("image") else {}

    @property
    def image_token_id(self) -> int:
        return self.get_tokenizer().get_vocab()[IMAGE_TOKEN]

    @functools.cached_property
    def page_options(self) -> PageOptions:
        """Options of a request that states none: the server's on top of the checkpoint's.

        Raises OptionError naming the key that cannot be honoured.
        """
        config = self.ctx.model_config
        stated = self.ctx.get_mm_config().mm_processor_kwargs or {}
        server = {key: value for key, value in stated.items() if key not in VLLM_OPTIONS}
        return checkpoint_options(config.model, config.revision).override(server)

    @functools.cached_property
    def largest_plan(self) -> TilePlan:
        """The page with the most image tokens that a request may ask for and this server holds.

        Raises ValueError when it holds none.
        """
        limits = page_limits(self.ctx.model_config.hf_config)
        own = self.page_options.resolution
        resolutions = {own, *MODES.values()} if limits.request_modes else {own}
        plans = [plan for each in resolutions for plan in _grids(each, *self._largest_sides)]
        room = self.ctx.model_config.max_model_len - TOKENS_BESIDE_IMAGE
        fitting = [plan for plan in plans if plan.num_image_tokens <= room]
        smallest = min(plan.num_image_tokens for plan in plans)
        if not fitting:
            raise ValueError(
                f"max_model_len must be at least {smallest + TOKENS_BESIDE_IMAGE} "
                f"to hold one image, got {room + TOKENS_BESIDE_IMAGE}"
            )
        in_step = [plan for plan in fitting if plan.num_image_tokens <= (limits.max_tokens or room)]
        if not in_step:
            raise ValueError(
                f"with --disable-chunked-mm-input, max_num_batched_tokens must be at least "
                f"{smallest} to hold one image, got {limits.max_tokens}"
            )
        return max(in_step, key=lambda plan: plan.num_image_tokens)

    @property
    def _largest_sides(self) -> tuple[int | None, int | None]:
        """Width and height of pages at most, px, as --limit-mm-per-prompt states them."""
        options = self.ctx.get_mm_config().limit_per_prompt.get("image")
        return getattr(options, "width", None), getattr(options, "height", None)


@functools.lru_cache
def checkpoint_options(model: str, revision: str | None) -> PageOptions:
    """What the checkpoint's processor_config.json says of page preparation."""
    stated = get_hf_file_to_dict("processor_config.json", model, revision) or {}
    return PageOptions.from_checkpoint(stated)


def _grids(
    resolution: Resolution, width: int | None = None, height: int | None = None
) -> Iterator[TilePlan]:
    """A page for every grid the resolution allows, the uncut page included.

    Pages wider or higher than stated, in px, are scaled down, which may leave fewer tiles.
    """
    side, most = resolution.image_size, resolution.max_crops if resolution.crop_mode else 1
    for rows in range(1, most + 1):
        for cols in range(1, most // rows + 1):
            page = cols * side, rows * side
            stated = zip(page, (width, height), strict=True)
            scale = min([1.0, *(limit / length for length, limit in stated if limit)])
            scaled_width, scaled_height = (max(1, int(length * scale)) for length in page)
            yield plan_tiles(scaled_width, scaled_height, resolution)


class DeepseekOCRDummyInputsBuilder(BaseDummyInputsBuilder[DeepseekOCRProcessingInfo]):
    """The largest page there is, for memory profiling and warm-up."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: MultiModalDummyOptions,
    ) -> MultiModalDataDict:
        width, height = self.info.largest_plan.size  # within the sides that mm_options states
        images = self._get_dummy_images(
            width=width, height=height, num_images=mm_counts.get("image", 0)
        )
        return {"image": images}


class DeepseekOCRMultiModalProcessor(BaseMultiModalProcessor[DeepseekOCRProcessingInfo]):
    """Plans and cuts the images of one request and makes room for them in its prompt."""

    def get_dummy_inputs(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: MultiModalDummyOptions,
    ) -> ProcessorInputs:
        inputs = super().get_dummy_inputs(seq_len, mm_counts, mm_options)
        return replace(inputs, hf_processor_mm_kwargs=asdict(self.info.largest_plan.resolution))

    def apply(self, inputs: ProcessorInputs, timing_ctx: TimingContext) -> MultiModalInput:
        """Checks the request as a whole first, so nothing of a bad one is cached.

        From here on the options are complete and in one order: they are part of each image's cache
        key, and two spellings of one resolution share it. Raises ValueError.
        """
        options = self.info.page_options.override(inputs.hf_processor_mm_kwargs)
        if inputs.cache is None and None in inputs.mm_data_items.get("image", ()):
            raise PageError(
                "an image known by its uuid alone needs the processor cache, which is off "
                "(mm_processor_cache_gb is 0); send the image itself"
            )
        checked = replace(
            inputs,
            prompt=self._checked_prompt(inputs),
            hf_processor_mm_kwargs=options.to_dict(),
        )
        return super().apply(checked, timing_ctx)

    def _checked_prompt(self, inputs: ProcessorInputs) -> list[int]:
        """The prompt with one BOS and, so far, one placeholder per image."""
        ids = with_bos(inputs.prompt, self.info.get_tokenizer().bos_token_id)
        images = inputs.mm_data_items.get_count("image", strict=False)
        return expand_placeholders(ids, self.info.image_token_id, counts=[1] * images)

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        """Per image: global_view uint8 (3, B, B), tiles uint8 (T, 3, S, S), grid (rows, cols)."""
        options = PageOptions().override(hf_kwargs)
        images = mm_items["image"].get_all() if "image" in mm_items else []
        pages = [page_tensors(image, options) for image in images]
        return BatchFeature(
            {
                "global_view": [page.global_view for page in pages],
                "tiles": [page.tiles for page in pages],
                "grid": [torch.tensor((page.plan.rows, page.plan.cols)) for page in pages],
            }
        )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        """All fields by image: a flat field would pad tiles of different modes to one size."""
        return {
            "global_view": MultiModalFieldConfig.batched("image"),
            "tiles": MultiModalFieldConfig.batched("image"),
            "grid": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        resolution = PageOptions().override(hf_processor_mm_kwargs).resolution
        token = self.info.image_token_id

        def placeholders(item_idx: int) -> list[int]:
            size = mm_items.get_items("image", ImageProcessorItems).get_image_size(item_idx)
            plan = plan_tiles(size.width, size.height, resolution)
            return [token] * plan.num_image_tokens

        return [PromptReplacement(modality="image", target=[token], replacement=placeholders)]
