"""Pages -> self-contained HTML: a document to read, or a report with each page beside its text.

Both come in pieces, page by page. Knows nothing of files: the caller supplies pictures as URLs.
Standard library only, and no network when the result is opened.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from html import escape

from vllm_dsocr.document.blocks import BOX_MAX, Block, Page
from vllm_dsocr.render.content_html import content_html
from vllm_dsocr.render.markdown import FigureLink, page_note
from vllm_dsocr.render.style import CSS, SCRIPT, content_policy

PageLink = Callable[[Page], str | None]
LabelColor = Callable[[str], str]


def data_url(data: bytes, media_type: str) -> str:
    """A picture's bytes as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def document_html(title: str, pages: Iterable[Page], link: FigureLink) -> Iterator[str]:
    """A document to read: one article per page, figures by `link`."""
    yield _head(title)
    for page in pages:
        yield f'<article id="page-{page.number}">\n<p class="fate">page {page.number}</p>\n'
        yield from _page_text(page, link)
        yield "</article>\n"
    yield "</body>\n</html>\n"


def report_html(
    title: str, pages: Iterable[Page], link: FigureLink, picture: PageLink, color: LabelColor
) -> Iterator[str]:
    """A document to check: each page's picture with its boxes beside the text.

    picture: URL of a page's image, None when there is none.  Pointing at a box or at its text
    lights up the other.
    """
    yield _head(title)
    for page in pages:
        yield f'<article class="report" id="page-{page.number}">\n'
        yield _page_picture(page, picture(page), color)
        yield "<div>\n" + _fate(page)
        yield from _page_text(page, link, color)
        yield "</div>\n</article>\n"
    yield f"<script>{SCRIPT}</script>\n</body>\n</html>\n"


def _head(title: str) -> str:
    name = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="mul">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1></header>\n"
    )


def _page_text(page: Page, link: FigureLink, color: LabelColor | None = None) -> Iterator[str]:
    figures = iter(page.figures)
    for index, block in enumerate(page.blocks):
        if not block.content.strip() and not block.boxes:
            continue
        shown = [next(figures) for _ in block.boxes] if block.is_figure else []
        yield _block_html(f"{page.number}-{index}", block, [link(f) for f in shown], color)
    if note := page_note(page):
        yield f'<p class="note">{escape(note)}</p>\n'


def _block_html(name: str, block: Block, pictures: list[str], color: LabelColor | None) -> str:
    tag, style = "", ""
    if color and block.label is not None:
        tag = f'<span class="tag">{escape(block.label)}</span>\n'
        style = f' style="--color: {color(block.label)}"'
    shown = "".join(f'<figure><img src="{escape(url)}" alt=""></figure>\n' for url in pictures)
    text = content_html(block.content)
    return f'<div class="block" data-block="{name}"{style}>\n{tag}{shown}{text}\n</div>\n'


def _page_picture(page: Page, url: str | None, color: LabelColor) -> str:
    if url is None:
        return '<div class="picture"><p class="note">no picture of this page</p></div>\n'
    boxes = "".join(
        f'<rect data-block="{page.number}-{index}" x="{box.x1}" y="{box.y1}" '
        f'width="{box.x2 - box.x1}" height="{box.y2 - box.y1}" '
        f'fill="{color(block.label or "")}" stroke="{color(block.label or "")}">'
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
