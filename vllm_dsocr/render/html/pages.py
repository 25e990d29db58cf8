"""What every HTML of a document has in common: head, blocks of a page, pictures as URLs.

Knows nothing of files; no network is needed when the result is opened.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from html import escape

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.render.finished import FIGURE_MEDIA_TYPE, FigureLink, FinishedDocument
from vllm_dsocr.render.html.content import content_html
from vllm_dsocr.render.html.style import CSS, content_policy
from vllm_dsocr.render.markdown import page_note

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


def page_text(page: Page, link: FigureLink, color: LabelColor | None = None) -> Iterator[str]:
    """The page's blocks, with their labels where there is a colour for them, and its trouble."""
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
