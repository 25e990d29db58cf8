"""Page image + page -> pictures: the crops of its figures, and the layout drawn over it.

Knows nothing of where pictures are stored. Needs Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from vllm_dsocr.document.blocks import Block, Figure, Page
from vllm_dsocr.document.unicode import utf8
from vllm_dsocr.render.colors import label_color

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FILL_ALPHA = 26
_JPEG_QUALITY = 80
_LONGEST_NAME = 40


def crop_figures(image: Image.Image, page: Page) -> Iterator[tuple[Figure, bytes]]:
    """Every figure of the page with its crop as PNG bytes."""
    for figure in page.figures:
        crop = image.crop(figure.box.pixels(image.width, image.height))
        if crop.width and crop.height:
            yield figure, png_bytes(crop)


def draw_layout(image: Image.Image, page: Page) -> Image.Image:
    """A copy of the page image with every box and label drawn over it."""
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = ImageFont.load_default(size=max(12, image.height // 90))
    for block in page.blocks:
        _draw_block(draw, block, image.size, font)
    return canvas


def png_bytes(image: Image.Image) -> bytes:
    """Lossless file bytes, the same for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def jpeg_bytes(image: Image.Image, quality: int = _JPEG_QUALITY) -> bytes:
    """File bytes of a page to look at."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _draw_block(
    draw: ImageDraw.ImageDraw,
    block: Block,
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    color = label_color(block.label or "")
    name = _name(block.label or "")
    width = 4 if block.label == "title" else 2
    for box in block.boxes:
        corners = box.pixels(*size)
        draw.rectangle(corners, fill=f"{color}{_FILL_ALPHA:02x}", outline=color, width=width)
        label = draw.textbbox(corners[:2], name, font=font, anchor="lb")
        shift = -min(label[1], 0)  # labels of boxes at the top edge stay on the page
        draw.rectangle((label[0], label[1] + shift, label[2], label[3] + shift), fill="#ffffffd0")
        draw.text((corners[0], corners[1] + shift), name, color, font, anchor="lb")


def _name(label: str) -> str:
    """A label in one short line: for some prompts it holds text of the page."""
    name = " ".join(utf8(label).decode().split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."
