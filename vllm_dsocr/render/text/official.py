"""A page -> the Markdown that the official post-processing makes of it.

It equals that to the letter, except that every figure has a link of its own, and that a tag which
is not closed swallows nothing. Standard library only.
"""

from __future__ import annotations

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.render.finished import FigureLink

# Written by the official code where a page has tags of more than images: these are no plain LaTeX.
_PLAIN_LATEX = {"\\coloneqq": ":=", "\\eqqcolon": "=:"}


def page_markdown(page: Page, link: FigureLink) -> str:
    """The page's text with its tags taken out and `![](link)` for every figure."""
    parts: list[str] = []
    for block, figures in page.illustrated:
        parts += [f"![]({link(figure)})\n" for figure in figures]
        parts.append(block.content)
    text = "".join(parts)
    if any(block.label not in (None, "image") for block in page.blocks):
        for command, plain in _PLAIN_LATEX.items():
            text = text.replace(command, plain)
    return text
