"""The body of a chat request -> the vision tokens it will take, and the model it names.

Of images nothing is decoded but headers: an estimate for sharing work out, never a check. What
cannot be told counts as a usual page.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from vllm_dsocr.config import OptionError, PageOptions
from vllm_dsocr.page.geometry import plan_tiles

USUAL_PAGE = (1654, 2339)  # A4 at 200 dpi, px
_HEADER = 1 << 16  # characters of a data URL in which an image says its size


class ChatFacts(NamedTuple):
    """num_vision_tokens: of all images; 0 for text.  model: None where the body names none."""

    num_vision_tokens: int = 0
    model: str | None = None


def chat_facts(body: bytes) -> ChatFacts:
    """Nothing is known of what is no JSON object."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ChatFacts()
    if not isinstance(value, dict):
        return ChatFacts()
    model = value.get("model")
    return ChatFacts(_num_vision_tokens(value), model if isinstance(model, str) else None)


def _num_vision_tokens(value: dict[str, Any]) -> int:
    options = value.get("mm_processor_kwargs")
    try:
        resolution = PageOptions().override(options if isinstance(options, dict) else {}).resolution
    except (OptionError, TypeError):
        resolution = PageOptions().resolution
    sizes = [_size(url) for url in _images(value.get("messages"))]
    return sum(plan_tiles(*size, resolution).num_image_tokens for size in sizes)


def _images(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            image = part.get("image_url") if isinstance(part, dict) else None
            if image is not None:
                yield image.get("url") if isinstance(image, dict) else image


def _size(url: Any) -> tuple[int, int]:
    """(width, height) px, from the first bytes of a data URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return USUAL_PAGE
    start = url.find(",") + 1
    try:
        header = base64.b64decode(url[start : start + _HEADER])
        with Image.open(io.BytesIO(header)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return USUAL_PAGE
