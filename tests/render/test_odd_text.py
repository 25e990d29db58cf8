"""Every format, with text and labels that are hard to write."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.page.pdfs import image_pdf
from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.page.files import iter_pages
from vllm_dsocr.render.finished import FinishedDocument
from vllm_dsocr.render.formats import FORMATS

HALF = "\ud83d"
TAG = "<|ref|>{}<|/ref|><|det|>[[10, 10, 500, 600]]<|/det|>"
TEXTS = {
    "half a surrogate pair everywhere": "\n\n".join(
        [TAG.format(f"line {HALF} two"), TAG.format("title") + f"# {HALF} T"]
        + [TAG.format("code") + f"```\n{HALF}\n```", TAG.format("equation") + f"\\[ {HALF} \\]"]
        + [TAG.format("list") + f"- {HALF}\n- b", TAG.format("image")]
        + [TAG.format("image_caption") + HALF]
        + [f"<table><caption>{HALF}</caption><tr><td>{HALF}</td></tr></table>"]
    ),
    "lines and controls in a label": TAG.format("first\nsecond \x00\x1b[31m " + "long " * 99),
    "empty": "",
    "only a tag": TAG.format("table"),
    "an empty label": TAG.format("") + "text",
    "empty cells": "<table><tr></tr><tr><td></td></tr></table>",
    "one box without area": TAG.format("image").replace("500, 600", "10, 10"),
    "deep": ">" * 3000 + "<b>" * 3000 + "\\(" + "{" * 3000 + "\\)" + "[" * 3000,
}  # fmt: skip


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_every_format_can_be_written(text: str, tmp_path: Path) -> None:
    pytest.importorskip("docling_core")
    pytest.importorskip("pikepdf")
    source = image_pdf(tmp_path / "a.pdf", 1, size=(300, 400))
    (read,) = iter_pages(source)
    page = Page(1, "ok", 300, 400, read.size_points, text, parse_blocks(text), frame=read.frame)

    class Pictures:
        def image(self, number: int) -> Image.Image:
            return Image.new("RGB", (300, 400), "white")

    document = FinishedDocument(
        f"a{HALF}.pdf", lambda: [page], _png, Pictures, {"source": {"name": HALF}}, source
    )
    for format in FORMATS.values():
        for _, pieces in format.files(document):
            assert all(isinstance(piece, str | bytes) for piece in pieces)
        if format.media_type.startswith("text/"):
            assert format.data(document).decode()
