"""What every HTML of a document has in common: head, blocks of a page, pictures as URLs.

Knows nothing of files; no network is needed when the result is opened.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from html import escape

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.document.labels import is_words
from vllm_dsocr.document.parts import Part, page_parts
from vllm_dsocr.render.finished import FIGURE_MEDIA_TYPE, FigureLink, FinishedDocument
from vllm_dsocr.render.html.content import part_html
from vllm_dsocr.render.html.style import CSS, content_policy
from vllm_dsocr.render.markdown import page_note
from vllm_dsocr.render.text.prose import alt_text

LabelColor = Callable[[str], str]
END = "</body>\n</html>\n"


def data_url(data: bytes, media_type: str) -> str:
    """A picture's bytes as a URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def figure_url(document: FinishedDocument) -> FigureLink:
    """Figures as URLs that hold them."""
    return lambda figure: data_url(document.figure(figure), FIGURE_MEDIA_TYPE)


def head(title: str) -> str:
    """Everything up to the first page."""
    name = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="mul">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1></header>\n"
    )


def page_text(
    page: Page, link: FigureLink, color: LabelColor | None = None, furniture: bool = True
) -> Iterator[str]:
    """The page's blocks, with their labels where there is a colour for them, and its trouble."""
    parts = page_parts(page)
    for index, block in enumerate(page.blocks):
        shown = [p for p in parts if p.block == index and (furniture or p.kind != "furniture")]
        if shown or (color and block.boxes):
            yield _block_html(f"{page.number}-{index}", block, shown, link, color)
    if note := page_note(page):
        yield f'<p class="note">{escape(note)}</p>\n'


def _block_html(
    name: str, block: Block, parts: Iterable[Part], link: FigureLink, color: LabelColor | None
) -> str:
    tag, style = "", ""
    if color and block.label is not None:
        if not is_words(block.label, block.content):
            tag = f'<span class="tag">{escape(block.label)}</span>\n'
        style = f' style="--color: {color(block.label)}"'
    text = "\n".join(_figures(part, link) if part.figures else part_html(part) for part in parts)
    return f'<div class="block" data-block="{name}"{style}>\n{tag}{text}\n</div>\n'


def _figures(part: Part, link: FigureLink) -> str:
    alt = escape(alt_text(part.caption or ""))
    return "\n".join(
        f'<figure><img src="{escape(link(figure))}" alt="{alt}"></figure>'
        for figure in part.figures
    )
