"""Format `report`: a self-contained file to check a document, each page's picture beside its text.

The picture carries the boxes; pointing at a box or at its text lights up the other. Needs Pillow
where there are pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from vllm_dsocr.document.blocks import BOX_MAX, Page
from vllm_dsocr.render.colors import label_color
from vllm_dsocr.render.finished import FinishedDocument, Pictures
from vllm_dsocr.render.html.pages import END, data_url, figure_url, head, page_text
from vllm_dsocr.render.html.style import SCRIPT

PICTURE_WIDTH = 1000  # px at most


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The file, page by page."""
    pictures = document.pictures()
    yield head(document.title)
    for page in document.pages():
        yield f'<article class="report" id="page-{page.number}">\n'
        yield _picture(page, _picture_url(page, pictures))
        yield "<div>\n" + _fate(page)
        yield from page_text(page, figure_url(document), label_color)
        yield "</div>\n</article>\n"
    yield f"<script>{SCRIPT}</script>\n{END}"


def _picture_url(page: Page, pictures: Pictures) -> str | None:
    image = pictures.image(page.number)
    if image is None:
        return None
    from vllm_dsocr.render.figures import jpeg_bytes

    image.thumbnail((PICTURE_WIDTH, image.height))
    return data_url(jpeg_bytes(image), "image/jpeg")


def _picture(page: Page, url: str | None) -> str:
    if url is None:
        return '<div class="picture"><p class="note">no picture of this page</p></div>\n'
    boxes = "".join(
        f'<rect data-block="{page.number}-{index}" x="{box.x1}" y="{box.y1}" '
        f'width="{box.x2 - box.x1}" height="{box.y2 - box.y1}" '
        f'fill="{label_color(block.label or "")}" stroke="{label_color(block.label or "")}">'
        f"<title>{escape(block.label or '')}</title></rect>\n"
        for index, block in enumerate(page.blocks)
        for box in block.boxes
    )
    return (
        f'<div class="picture"><img src="{escape(url)}" alt="page {page.number}" loading="lazy" '
        f'width="{page.width}" height="{page.height}">\n'
        f'<svg viewBox="0 0 {BOX_MAX} {BOX_MAX}" preserveAspectRatio="none">\n{boxes}</svg></div>\n'
    )


def _fate(page: Page) -> str:
    tokens = f"{page.num_text_tokens} text tokens"
    if page.num_vision_tokens is not None:
        tokens = f"{page.num_vision_tokens} vision tokens, {tokens}"
    return (
        f'<p class="fate">page {page.number} '
        f'<span class="status {page.status}">{page.status}</span> '
        f"{page.width}&times;{page.height} px, {tokens}</p>\n"
    )
