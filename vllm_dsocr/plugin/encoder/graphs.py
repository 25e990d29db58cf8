"""The encoder by vLLM's CUDA graph protocol: one path per side of a view, pages put together after.

    pages -> uint8 views by side -> a recorded pass per side (normalising inside) -> assembly

Recorded are the sides of the server's own mode, at vLLM's budgets of output tokens. Views of other
sides, as a request may ask for, and batches beyond the budgets go through the encoder eagerly.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.worker.encoder_cudagraph_defs import (
    EncoderCudaGraphCaptureInputs,
    EncoderCudaGraphConfig,
    EncoderCudaGraphPathConfig,
    EncoderCudaGraphReplayBuffers,
    EncoderItemSpec,
)

from vllm_dsocr.config import Resolution
from vllm_dsocr.encoder.assembly import (
    MAX_PATCHES_PER_PASS,
    PageViews,
    assemble_pages,
    encode_pass,
    encode_views,
    expected_tokens,
    views_by_side,
)
from vllm_dsocr.page.geometry import grid_side
from vllm_dsocr.plugin.encoder.shards import num_patches

PATCHES_PER_TOKEN = 16
MAX_TOKENS = MAX_PATCHES_PER_PASS // PATCHES_PER_TOKEN  # of one recorded pass


class EncoderGraphs:
    """The protocol's methods; beside a VisionTower that names its `resolution`."""

    supports_encoder_cudagraph = True
    resolution: Resolution
    image_newline: Tensor

    def _pages(self, mm_kwargs: Mapping[str, Any]) -> list[PageViews]:
        raise NotImplementedError

    def recorded_sides(self) -> dict[str, int]:
        """Path -> px."""
        sides = {self.resolution.base_size}
        if self.resolution.crop_mode:
            sides.add(self.resolution.image_size)
        return {f"views_{side}": side for side in sorted(sides, reverse=True)}

    def get_encoder_cudagraph_config(self) -> EncoderCudaGraphConfig:
        """One path per side, each with one buffer of uint8 pixels."""
        paths = {
            path: EncoderCudaGraphPathConfig(_tokens(side), allow_zero_tokens=True)
            for path, side in self.recorded_sides().items()
        }
        return EncoderCudaGraphConfig(
            modalities=["image"],
            buffer_keys=list(paths),
            out_hidden_size=self.image_newline.shape[-1],
            paths=paths,
        )

    def get_input_modality(self, mm_kwargs: dict[str, Any]) -> str:
        """Images are all there is."""
        return "image"

    def get_max_frames_per_video(self) -> int:
        """No video."""
        return 0

    def get_encoder_cudagraph_budget_range(self, vllm_config: VllmConfig) -> tuple[int, int]:
        """From one view of the smallest side to what one pass of the encoder takes."""
        tokens = [_tokens(side) for side in self.recorded_sides().values()]
        return min(tokens), max(MAX_TOKENS, *tokens)

    def get_encoder_cudagraph_item_specs(self, mm_kwargs: dict[str, Any]) -> list[EncoderItemSpec]:
        """Per page: patches, embeddings, and tokens by path, none where a side is not recorded."""
        return [
            EncoderItemSpec(num_patches(page), expected_tokens(page), self._path_tokens(page))
            for page in self._pages(mm_kwargs)
        ]

    def _path_tokens(self, page: PageViews) -> dict[str, int]:
        counts = {side: len(views) for side, views in views_by_side([page]).items()}
        return {
            path: counts.get(side, 0) * _tokens(side)
            for path, side in self.recorded_sides().items()
        }

    def select_encoder_cudagraph_items(
        self, mm_kwargs: dict[str, Any], indices: list[int]
    ) -> dict[str, Any]:
        """Some of the pages; lists, since their sizes may differ."""
        return {key: [values[i] for i in indices] for key, values in mm_kwargs.items()}

    def prepare_encoder_cudagraph_capture_inputs(
        self,
        token_budget: int,
        max_batch_size: int,
        max_frames_per_batch: int,
        device: torch.device,
        dtype: torch.dtype,
        path: str = "default",
        axis_keys: tuple[Hashable, ...] | None = None,
    ) -> EncoderCudaGraphCaptureInputs:
        """As many views as the budget holds; pixels are bytes whatever the model's dtype."""
        side = self.recorded_sides()[path]
        views = torch.zeros(
            token_budget // _tokens(side), 3, side, side, dtype=torch.uint8, device=device
        )
        return EncoderCudaGraphCaptureInputs(values={path: views})

    def prepare_encoder_cudagraph_replay_buffers(
        self,
        mm_kwargs: dict[str, Any],
        max_batch_size: int,
        max_frames_per_batch: int,
        path: str = "default",
    ) -> EncoderCudaGraphReplayBuffers:
        """The views of one side."""
        return EncoderCudaGraphReplayBuffers(values={path: self._views(mm_kwargs, path)})

    def _views(self, mm_kwargs: dict[str, Any], path: str) -> Tensor:
        return views_by_side(self._pages(mm_kwargs))[self.recorded_sides()[path]]

    def encoder_cudagraph_forward(self, values: dict[str, Tensor], path: str = "default") -> Tensor:
        """(N, 3, S, S) pixels -> (N * q*q, D)."""
        return encode_pass(self, values[path]).flatten(0, 1)

    def encoder_eager_forward(self, mm_kwargs: dict[str, Any], path: str = "default") -> Tensor:
        """The same beyond every budget, in passes."""
        return encode_views(self, self._views(mm_kwargs, path)).flatten(0, 1)

    def postprocess_encoder_output(
        self,
        outputs: dict[str, Tensor],
        indices: list[int],
        per_item_out_tokens: list[int],
        dest: dict[int, Tensor] | list[Tensor | None],
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Pages out of encoded views; a side without a path is encoded here.

        What is put together is new memory, so the graph's own may be written again.
        """
        pages = self._pages(batch_mm_kwargs or {})
        paths = {side: path for path, side in self.recorded_sides().items()}
        encoded = {}
        for side, views in views_by_side(pages).items():
            output = outputs.get(paths.get(side, ""))
            if output is None:
                encoded[side] = encode_views(self, views)
            else:  # with what padding the budget brought behind it
                encoded[side] = output.unflatten(0, (-1, _tokens(side)))[: len(views)]
        for index, embeddings in zip(indices, assemble_pages(self, pages, encoded), strict=True):
            dest[index] = embeddings


def _tokens(side: int) -> int:
    """Output tokens of one view."""
    return grid_side(side) ** 2
