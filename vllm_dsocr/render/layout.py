"""Format `layout`: every page as a picture, its boxes and labels drawn over it. Needs Pillow."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.render.figures import draw_layout, png_bytes
from vllm_dsocr.render.finished import FinishedDocument


def files(document: FinishedDocument) -> Iterator[tuple[str, list[bytes]]]:
    """0001.png, ...: one per page that has an image."""
    for page, image in drawn_pages(document):
        yield f"{page.number:04d}.png", [png_bytes(image)]


def drawn_pages(document: FinishedDocument) -> Iterator[tuple[Page, Image.Image]]:
    """Every page that has an image, with that image drawn over."""
    pictures = document.pictures()
    for page in document.pages():
        image = pictures.image(page.number)
        if image is not None:
            yield page, draw_layout(image, page)
