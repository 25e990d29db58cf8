"""Small documents for tests of the service."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageDraw

from tests.page.pdfs import page_image


def png(color: str = "white", text: str = "page") -> bytes:
    """A picture of its own for every text."""
    image = Image.new("RGB", (300, 400), color)
    ImageDraw.Draw(image).text((20, 20), text, fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pdf(num_pages: int, size: tuple[int, int] = (120, 160)) -> bytes:
    """A PDF whose pages differ; another size makes another document."""
    first, *others = [page_image(index, size) for index in range(num_pages)]
    buffer = io.BytesIO()
    first.save(buffer, "PDF", save_all=True, append_images=others, resolution=72)
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
