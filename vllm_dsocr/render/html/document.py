"""Format `html`: one self-contained file to read, one article a page."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.html.pages import END, figure_url, head, page_text


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The file, page by page; figures are inside it."""
    yield head(document.title)
    for page in document.pages():
        yield f'<article id="page-{page.number}">\n<p class="fate">page {page.number}</p>\n'
        yield from page_text(page, figure_url(document), furniture=document.options.furniture)
        yield "</article>\n"
    yield END
