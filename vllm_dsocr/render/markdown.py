"""Pages -> Markdown. LaTeX is kept; figures become links; tables stay HTML or become pipe tables.

`page_markdown` equals the official post-processing to the letter, except that every box of a figure
has a link of its own. Knows nothing of files: the caller says where a figure lives.
Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vllm_dsocr.document.blocks import Block, Page
from vllm_dsocr.document.tables import Table, split_tables, table_markdown
from vllm_dsocr.render.finished import FigureLink, FinishedDocument

# Written by the official code wherever a page has layout tags: these two are not in plain LaTeX.
_PLAIN_LATEX = {"\\coloneqq": ":=", "\\eqqcolon": "=:"}
_NOTES = {
    "truncated": "the text of this page is cut off at the token limit",
    "repeated": "the model went round in circles on this page; the text ends at the loop",
}


def page_markdown(page: Page, link: FigureLink) -> str:
    """The page's text with its tags taken out and `![](link)` for every figure."""
    figures = iter(page.figures)
    parts: list[str] = []
    for block in page.blocks:
        if block.is_figure:
            parts += [f"![]({link(next(figures))})\n" for _ in block.boxes]
        parts.append(block.content)
    text = "".join(parts)
    return _plain_latex(text) if _is_grounded(page.blocks) else text


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The whole document, page by page; page breaks and troubles are marked."""
    for page in document.pages():
        yield f"<!-- page {page.number} -->\n\n"
        text = tidy(page_markdown(page, document.link))
        if document.options.tables == "markdown":
            text = pipe_tables(text)
        for part in (text, _note(page)):
            if part:
                yield part + "\n\n"


def tidy(text: str) -> str:
    """Without outer white space and with at most one empty line in a row."""
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


def pipe_tables(text: str) -> str:
    """The text with its HTML tables as Markdown tables, each on lines of its own."""
    parts = (
        f"\n\n{table_markdown(part)}\n\n" if isinstance(part, Table) else part
        for part in split_tables(text)
    )
    return tidy("".join(parts))


def page_note(page: Page) -> str | None:
    """One sentence on what is wrong with the page's text, None when nothing is."""
    if page.status == "failed":
        return f"page {page.number} could not be read: {page.reason}"
    return _NOTES.get(page.status)


def _note(page: Page) -> str:
    note = page_note(page)
    return f"> **Note:** {note}" if note else ""


def _is_grounded(blocks: Iterable[Block]) -> bool:
    return any(block.label is not None for block in blocks)


def _plain_latex(text: str) -> str:
    for command, plain in _PLAIN_LATEX.items():
        text = text.replace(command, plain)
    return text
