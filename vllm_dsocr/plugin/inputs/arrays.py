"""Arrays and tensors, one image or a batch of them -> PIL images.

    (H, W), (H, W, C), (C, H, W) -> one image;  (N, H, W, C), (N, C, H, W) -> N images

Values are 0..255; floats that stay within 0..1 are read as shares of 255. Knows nothing of vLLM.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from vllm_dsocr.page.source import PageError

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
SHAPES = "(height, width), (height, width, channels) or (channels, height, width)"


def as_images(data: Any) -> list[Any]:
    """What a caller gave for the images of a prompt, as a list; batches are taken apart."""
    if isinstance(data, (np.ndarray, torch.Tensor)) and data.ndim == 4:
        return list(data)
    return list(data) if isinstance(data, (list, tuple)) else [data]


def image_from_array(array: np.ndarray | torch.Tensor) -> Image.Image:
    """Raises PageError, in one sentence, for what is no image."""
    values = _on_host(array)
    pixels = _channels_last(values)
    if pixels.dtype.kind == "f":
        pixels = _from_floats(pixels)
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint8 and (pixels.ndim == 3 or pixels.dtype != np.uint16):
        raise _refused(values, "values must be 0 to 255, as bytes or floats")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _on_host(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).numpy()
    return array


def _channels_last(values: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C); where first and last may both be channels, the last are."""
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        if values.shape[2] not in CHANNELS and values.shape[0] in CHANNELS:
            values = values.transpose(1, 2, 0)
        if values.shape[2] in CHANNELS:
            return values[:, :, 0] if values.shape[2] == 1 else values
    raise _refused(values, f"an image has the shape {SHAPES}")


def _from_floats(pixels: np.ndarray) -> np.ndarray:
    """0..1 as what torchvision's ToTensor gives, else 0..255."""
    if not np.isfinite(pixels).all():
        raise _refused(pixels, "values must be finite")
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if low < 0 or high > 255:
        raise _refused(pixels, f"values must be 0 to 1 or 0 to 255, got {low:g} to {high:g}")
    return np.rint(pixels * 255 if high <= 1 else pixels).astype(np.uint8)


def _refused(values: np.ndarray, why: str) -> PageError:
    shape = "x".join(map(str, values.shape))
    return PageError(f"not an image: an array of {shape} {values.dtype}; {why}")
