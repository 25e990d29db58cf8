"""Format `md`: Markdown as common readers take it.

Formulas between dollars, figures with their captions for alt text, tables as HTML or with pipes.
Knows nothing of files: the document says what a figure is called. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.parts import Part
from vllm_dsocr.render.finished import DEFAULTS, FigureLink, FinishedDocument, RenderOptions
from vllm_dsocr.render.text.joining import PageParts, joined, parts_of
from vllm_dsocr.render.text.official import page_markdown
from vllm_dsocr.render.text.prose import alt_text, pipe_table, prose, table_text

_NOTES = {
    "truncated": "the text of this page is cut off at the token limit",
    "repeated": "the model went round in circles on this page; the text ends at the loop",
}


def pieces(document: FinishedDocument) -> Iterator[str]:
    """The whole document, page by page; page breaks and troubles are marked."""
    options = document.options
    for page, text in _page_texts(document):
        if options.page_comments:
            yield f"<!-- page {page.number} -->\n\n"
        for part in (text, _note(page)):
            if part:
                yield part + "\n\n"


def _page_texts(document: FinishedDocument) -> Iterator[tuple[Page, str]]:
    options = document.options
    if options.markdown == "official":
        for page in document.pages():
            yield page, re.sub(r"\n\s*\n", "\n\n", page_markdown(page, document.link)).strip()
        return
    pages: Iterable[PageParts] = parts_of(document.pages(), options.furniture)
    for held in joined(pages) if options.join_pages else pages:
        yield held.page, parts_markdown(held.parts, document.link, options)


def parts_markdown(
    parts: Iterable[Part], link: FigureLink, options: RenderOptions = DEFAULTS
) -> str:
    """The parts as Markdown, with an empty line between all but lines that belong together."""
    text, before = "", None
    for part in parts:
        if written := part_markdown(part, link, options):
            gap = "\n" if part.kind == before == "line" else "\n\n"
            text += (gap if text else "") + written
            before = part.kind
    return text


def part_markdown(part: Part, link: FigureLink, options: RenderOptions = DEFAULTS) -> str:
    """One part; empty where there is nothing to write."""
    if part.figures:
        alt = alt_text(part.caption or "")
        return "\n\n".join(f"![{alt}]({link(figure)})" for figure in part.figures)
    if part.table is not None:
        return _table(part, options)
    if part.kind == "code":
        return part.text if part.text.startswith(("```", "~~~")) else _fenced(part.text)
    text = prose(part.text, options.math)
    if part.kind == "heading":
        return "#" * min(part.level, 6) + " " + text.replace("\n", " ")
    return text


def page_note(page: Page) -> str | None:
    """One sentence on what is wrong with the page's text, None when nothing is."""
    if page.status == "failed":
        return f"page {page.number} could not be read: {page.reason}"
    if page.status == "text-layer":
        return f"the text of this page is the PDF's own; it could not be read: {page.reason}"
    return _NOTES.get(page.status)


def _table(part: Part, options: RenderOptions) -> str:
    table = part.table
    assert table is not None
    if options.tables == "html":
        return table_text(table, options.math)
    caption = prose(table.caption.text, options.math) if table.caption else ""
    return "\n\n".join(filter(None, (caption, pipe_table(table, options.math))))


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text.strip(chr(10))}\n{fence}"


def _note(page: Page) -> str:
    note = page_note(page)
    return f"> **Note:** {note}" if note else ""
