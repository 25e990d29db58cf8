"""What a model may write: every format can be written, no text is lost, no HTML does anything."""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from lxml import html
from PIL import Image

from tests.fuzz.values import number, text
from tests.page.pdfs import image_pdf
from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.labels import LAYOUT_LABELS
from vllm_dsocr.page.files import iter_pages
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions
from vllm_dsocr.render.formats import FORMATS, encoded
from vllm_dsocr.render.html.style import SCRIPT

SECONDS = 60  # for one page in every format; a page takes a tenth of a second
WORDS = (
    "words", "# Title", "## Sub", "- item", "1. one", "|a|b|\n|-|-|\n|1|2|", "```\ncode\n```",
    "\\( x^2 \\)", "\\[ \\frac12 \\]", "$5 and $6", "$$ y", "<table><tr><td>1</td></tr></table>",
    "<table><tr><td rowspan=3 colspan=99>x", "<td>", "</table>", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![b](file:///etc/passwd)",
    "<center>caption</center>", "<iframe srcdoc='<script>'>", "<svg onload=alert(1)>", "<math><mi>",
    "<style>*{display:none}</style>", "&lt;b&gt;", "<!-- -->", "<![CDATA[", "http://example.org/a",
)  # fmt: skip
HOSTILE = re.compile(r"javascript:|vbscript:|file:", re.IGNORECASE)
ACTIVE = {"script", "iframe", "object", "embed", "form", "input", "link", "base", "use", "animate"}


@contextmanager
def markup() -> Iterator[Callable[[Random], None]]:
    with tempfile.TemporaryDirectory() as folder:
        source = image_pdf(Path(folder) / "a.pdf", 1, size=(60, 80))
        (page,) = iter_pages(source)
        yield lambda rng: check(rng, source, page)


def answer(rng: Random) -> str:
    """Something like a page's text."""
    pieces = []
    for _ in range(rng.randrange(1, 12)):
        if rng.random() < 0.6:
            pieces.append(tag(rng))
        pieces.append(rng.choice([rng.choice(WORDS), text(rng), " ".join(rng.choices(WORDS, k=4))]))
        if rng.random() < 0.05:
            pieces.append(rng.choice(WORDS) * rng.choice([10, 500]))
    joined = rng.choice(["", "\n", "\n\n"]).join(pieces)
    if rng.random() < 0.2:  # cut off, as an answer that ran out of tokens is
        joined = joined[: rng.randrange(len(joined) + 1)]
    return joined


def tag(rng: Random) -> str:
    label = rng.choice([*LAYOUT_LABELS, text(rng, 12)])
    numbers = ", ".join(str(number(rng)) for _ in range(rng.choice([4, 4, 4, 3, 8])))
    boxes = rng.choice([f"[[{numbers}]]", f"[{numbers}]", f"[[{numbers}], [1, 2, 3, 4]]", numbers])
    form = rng.choice(["<|ref|>{}<|/ref|><|det|>{}<|/det|>\n"] * 8 + ["{}{}\n", "<|ref|>{}{}"])
    return form.format(label, boxes)


def check(rng: Random, source: Path, read: object) -> None:
    words, began = answer(rng), time.monotonic()
    blocks = parse_blocks(words)
    place = 0
    for block in blocks:  # every content is there, in order
        place = words.index(block.content, place) + len(block.content)
    page = Page(1, "ok", 60, 80, read.size_points, words, blocks, frame=read.frame)
    options = RenderOptions(
        rng.choice(["html", "markdown"]),
        rng.choice(["dollar", "official"]),
        rng.choice(["tidy", "official"]),
        furniture=rng.random() < 0.5,
        join_pages=rng.random() < 0.5,
    )
    document = FinishedDocument("a", lambda: [page], _png, Pictures, {}, source, options)
    for name, format in FORMATS.items():
        for file, pieces in format.files(document):
            data = b"".join(map(encoded, pieces))
            if file.endswith(".html"):
                check_html(name, data.decode())
    assert time.monotonic() - began < SECONDS, "took too long"


def check_html(name: str, page: str) -> None:
    """Nothing in it runs, is fetched from elsewhere, or leads to where it should not."""
    for element in html.document_fromstring(page).iter():
        if element.tag in ACTIVE:
            assert element.text_content().strip() == SCRIPT.strip(), (name, element.tag)
        for attribute, value in element.attrib.items():
            assert not attribute.startswith("on"), (name, attribute)
            assert not HOSTILE.match(value.strip()), (name, attribute, value)


class Pictures:
    """White pages."""

    def image(self, number: int) -> Image.Image:
        return Image.new("RGB", (60, 80), "white")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()
