"""Images as vLLM hands them over -> upright images whose pixels are the page line's own.

vLLM's loader clips 16-bit greys and flattens transparency; what becomes of it is an option of the
request here, so it stays until options are known. Knows nothing of tiles or options.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm.inputs import ModalityData
from vllm.logger import init_logger
from vllm.multimodal.inputs import ImageItem
from vllm.multimodal.media import ImageMediaIO, MediaWithBytes
from vllm.multimodal.parse import ImageProcessorItems, ModalityDataItems, MultiModalDataParser

from vllm_dsocr.page.source import PageError, converts_plainly, open_image
from vllm_dsocr.plugin.inputs.arrays import as_images, image_from_array
from vllm_dsocr.plugin.inputs.loading import KNOWN_SETTINGS

logger = init_logger(f"vllm.{__name__}")  # vLLM shows its own loggers only


class PageDataParser(MultiModalDataParser):
    """Turns and converts images before vLLM hashes them: its hash does not see orientation."""

    def _parse_image_data(
        self, data: ModalityData[ImageItem]
    ) -> ModalityDataItems[Any, Any] | None:
        """One image or a list of them; None inside a list is an image known by its uuid.

        Raises PageError for what is no image.
        """
        if data is None:
            return None
        if self.is_embeddings(data):
            raise PageError("images as embeddings are not supported, send the image itself")
        items = as_images(data)
        return ImageProcessorItems([item if item is None else _page(item) for item in items])


def _page(item: Any) -> Image.Image | MediaWithBytes[Image.Image]:
    if isinstance(item, MediaWithBytes):
        return replace(item, media=open_image(_source(item), alpha=None))
    if isinstance(item, (np.ndarray, torch.Tensor)):
        item = image_from_array(item)
    if not isinstance(item, Image.Image):
        raise PageError(f"an image must be a PIL image or an array, got {type(item).__name__}")
    return open_image(item, alpha=None)


def _source(item: MediaWithBytes[Image.Image]) -> bytes | Image.Image:
    """What vLLM decoded where it read the image as we would, so that nothing is decoded twice."""
    if _converted_by_default(item) and not converts_plainly(item.original_bytes):
        return item.original_bytes
    return item.media


def _converted_by_default(item: MediaWithBytes[Image.Image]) -> bool:
    """Whether vLLM changed the mode unasked; a background the user chose stays."""
    loader, stated = ImageMediaIO(), item.io_config or {}
    if unknown := sorted(set(stated) - set(KNOWN_SETTINGS)):
        logger.warning_once(
            "vLLM reports settings of its image loader that vllm-dsocr does not know (%s); images "
            "are taken as vLLM decoded them.", ", ".join(unknown)
        )  # fmt: skip
        return False
    return bool(stated) and all(
        name not in stated or stated[name] == getattr(loader, name) for name in KNOWN_SETTINGS
    )
