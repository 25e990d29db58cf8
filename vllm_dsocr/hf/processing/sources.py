"""Images as users of transformers pass them -> upright RGB images, flat and in order.

Paths, bytes, PIL images, arrays, tensors, base64 and, from hosts that were named, URLs; nested per
prompt or not. Knows nothing of tiles or prompts.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vllm_dsocr.page.fetch import fetch, is_url
from vllm_dsocr.page.source import PageError, open_image

DATA_URL = "data:"
SHORTEST_BASE64 = 256  # characters; a shorter text is taken for a path


def is_image(value: Any) -> bool:
    """Whether it can only be an image (a string may be a prompt as well)."""
    return isinstance(value, (Image.Image, np.ndarray, torch.Tensor, bytes, os.PathLike))


def per_prompt(images: Any) -> list[int] | None:
    """How many images each prompt has, where they are nested that way; else None."""
    if not isinstance(images, (list, tuple)) or not images:
        return None
    nested = [isinstance(entry, (list, tuple)) for entry in images]
    return [len(entry) for entry in images] if all(nested) else None


def flat_images(images: Any, allowed_hosts: Collection[str] = ()) -> list[Image.Image]:
    """Every image, opened. Raises PageError, for a URL whose host is not allowed too."""
    return [_open(source, allowed_hosts) for source in _flat(images)]


def _flat(images: Any) -> Iterator[Any]:
    if images is None:
        return
    if isinstance(images, (list, tuple)):
        for entry in images:
            yield from _flat(entry)
    elif isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        yield from images
    else:
        yield images


def _open(source: Any, allowed_hosts: Collection[str]) -> Image.Image:
    if isinstance(source, torch.Tensor):
        source = (source.float() if source.is_floating_point() else source).detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if not isinstance(source, str):
        return open_image(source, alpha=None)
    if is_url(source):
        with tempfile.TemporaryDirectory() as folder:
            return open_image(fetch(source, Path(folder), allowed_hosts), alpha=None)
    if source.startswith(DATA_URL):
        return open_image(_decoded(source.partition(",")[2]), alpha=None)
    if len(source) >= SHORTEST_BASE64 and not os.path.exists(source):
        return open_image(_decoded(source), alpha=None)
    return open_image(source, alpha=None)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise PageError(f"the base64 text of an image is damaged: {error}") from error


def _from_array(pixels: np.ndarray) -> Image.Image:
    """Grey (H, W) or colours (H, W, C) or (C, H, W): 0..255 as integers or 0..1 as floats."""
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if np.issubdtype(pixels.dtype, np.floating):
        if not ((pixels >= 0) & (pixels <= 1)).all():
            raise PageError("an array of floats holds values outside 0..1; pass integers 0..255")
        pixels = np.rint(pixels * 255)
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
        raise PageError("an array of integers holds values outside 0..255")
    try:
        return open_image(Image.fromarray(pixels.astype(np.uint8)))
    except (TypeError, ValueError) as error:
        raise PageError(f"an array of shape {pixels.shape} is no image: {error}") from error
