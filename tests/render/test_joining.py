"""What runs over the end of a page, and where it is said to be."""

from __future__ import annotations

import json

import pytest

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions
from vllm_dsocr.render.formats import FORMATS

BOX = "<|ref|>text<|/ref|><|det|>[[10, 20, 900, 90]]<|/det|>\n"


def _rendered(format: str, *texts: str) -> str:
    pages = [
        Page(number, "ok", 1000, 1400, text=text, blocks=parse_blocks(text))
        for number, text in enumerate(texts, 1)
    ]
    options = RenderOptions(join_pages=True)
    document = FinishedDocument("a.pdf", lambda: pages, lambda figure: b"", options=options)
    return FORMATS[format].text(document)


@pytest.mark.parametrize(
    ("texts", "pages"),
    [
        ((BOX + "The end.", ""), [1]),
        ((BOX + "It goes on", "", "", BOX + "to here."), [1]),
        ((BOX + "It goes on", BOX + "and on", BOX + "to here.", BOX + "Then more."), [1, 4]),
    ],
)
def test_words_are_on_the_page_they_began_on(texts: tuple[str, ...], pages: list[int]) -> None:
    (chunk,) = map(json.loads, _rendered("chunks", *texts).splitlines())
    assert chunk["pages"] == pages
    assert [box["page"] for box in chunk["boxes"]] == pages
    markdown = _rendered("md", *texts)
    assert markdown.index("<!-- page 1 -->") < markdown.index(texts[0][len(BOX) :][:8])
    for number in range(2, len(texts) + 1):
        assert f"<!-- page {number} -->" in markdown
    if len(texts) > 1:
        assert markdown.index("to here" if "to here" in markdown else "The end") < markdown.index(
            "<!-- page 2 -->"
        )
