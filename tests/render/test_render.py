"""Markdown, HTML and JSON of pages."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vllm_dsocr.document.blocks import Attempt, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.record import page_from_record, page_record
from vllm_dsocr.render.colors import label_color
from vllm_dsocr.render.figures import crop_figures, draw_layout
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions, figure_name
from vllm_dsocr.render.formats import FORMATS
from vllm_dsocr.render.html.content import content_html

SCHEMA = Path(__file__).parents[2] / "docs" / "document.schema.json"
TEXT = (
    "<|ref|>title<|/ref|><|det|>[[100, 50, 900, 100]]<|/det|>\n# A <b>Title</b> & more\n\n"
    "<|ref|>text<|/ref|><|det|>[[100, 120, 900, 300]]<|/det|>\nMath \\( a < b \\) and $$x_1$$.\n\n"
    "<|ref|>image<|/ref|><|det|>[[100, 350, 500, 600]]<|/det|>\n"
    "<|ref|>table<|/ref|><|det|>[[100, 650, 900, 900]]<|/det|>\n"
    '<table><tr><td rowspan="2">a</td><td>b</td></tr><tr><td>c</td></tr></table>'
)


def _page(text: str = TEXT, **more) -> Page:
    facts = {"width": 1000, "height": 1400, "text": text, "blocks": parse_blocks(text), **more}
    return Page(**{"number": 1, "status": "ok", **facts})


def _render(name: str, pages: list[Page], **more) -> str:
    facts = {"title": "<t>", "figure": lambda figure: b"png", **more}
    return FORMATS[name].text(FinishedDocument(pages=lambda: pages, **facts))


class _Pictures:
    """White images of some pages."""

    def __init__(self, numbers: set[int]) -> None:
        self._numbers = numbers

    def image(self, number: int) -> Image.Image | None:
        return Image.new("RGB", (1000, 1400), "white") if number in self._numbers else None


def _failed(number: int = 2) -> Page:
    return Page(number, "failed", reason="the PDF is damaged", attempts=(Attempt("first", "x"),))


def test_markdown_links_figures_and_keeps_math_and_tables() -> None:
    text = _render("md", [_page(), _failed()])
    assert "![](images/0001-0.png)" in text
    assert "Math $a < b$ and $$x_1$$." in text
    assert '<td rowspan="2">a</td>' in text
    assert "<|" not in text
    assert "page 2 could not be read: the PDF is damaged" in text


def test_markdown_tables_when_asked_for() -> None:
    text = _render("md", [_page()], options=RenderOptions(tables="markdown"))
    assert "| a | b |\n| --- | --- |\n| a | c |" in text


@pytest.mark.parametrize("status", ["truncated", "repeated"])
def test_trouble_is_said_beside_the_text(status: str) -> None:
    text = _render("md", [_page("words", status=status)])
    assert "words" in text
    assert "> **Note:**" in text


def test_html_is_self_contained_and_inert() -> None:
    hostile = "<script>alert(1)</script> <img src=http://x/y onerror=alert(1)> [a](javascript:b)"
    html = _render("html", [_page(hostile), _page()])
    assert "<script>" not in html
    assert "<img src=http" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<title>&lt;t&gt;</title>" in html
    assert '<td rowspan="2">a</td>' in html
    assert "Content-Security-Policy" in html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("## Head **line**", "<h2>Head <strong>line</strong></h2>"),
        ("one\ntwo\n\nthree", "<p>one<br>\ntwo</p>\n<p>three</p>"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("x <sup>2</sup> <i>", "<p>x <sup>2</sup> &lt;i&gt;</p>"),
        ("```py\na < b\n```", "<pre><code>a &lt; b\n</code></pre>"),
        ("2 ** 3 ** 4 $5 and $9", "<p>2 ** 3 ** 4 $5 and $9</p>"),
        ("`<a>`", "<p><code>&lt;a&gt;</code></p>"),
        ("[1]: http://x [a](b) ![c](d)", "<p>[1]: http://x [a](b) ![c](d)</p>"),
    ],
)
def test_what_the_model_writes_as_html(text: str, html: str) -> None:
    assert content_html(text) == html


def test_formulas_are_mathml_and_what_fails_stays() -> None:
    html = content_html("\\(\\frac{a}{b}\\)2 and \\(\\begin{array}{c}\\)")
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in html
    assert "\\(\\begin{array}{c}\\)" in html
    table = "<table><tr><td>$5</td><td>\\(x^2\\)</td><td>$6_a$ </td></tr></table>"
    html = _render("html", [_page(table)])
    assert "<td>$5</td><td><math" in html
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html


HOSTILE = st.lists(
    st.sampled_from(
        ["<script>", "</script>", "<img src=x onerror=alert(1)>", "<svg onload=x>", "<b>", "</b>"]
        + ["<style>", "<math>", "<mtext>", "<table>", "<tr>", "<td>", "</table>", "&lt;"]
        + ["\\(", "\\)", "\\[", "\\]", "$", "$$", "\\text{", "\\href{javascript:x}{", "}", "`q"]
        + ["\n", "\n\n", "# ", "| a | b |\n|---|---|\n", "[a](javascript:x)", "<!--", "]]>"]
        + ["<|ref|>text<|/ref|><|det|>[[1,2,3,4]]<|/det|>", "javascript:", "word ", "word"]
        + ["<|ref|>image<|/ref|><|det|>[[1,2,9,9]]<|/det|>"]
    ),
    max_size=12,
).map("".join)
ACTIVE = re.compile(
    r"<(?:script|style|svg|iframe|object|a|form|link|meta)\b|<[^>]*\bon\w+\s*="
    r"|<img(?! src=\"data:image/png)",
    re.IGNORECASE,
)


@settings(max_examples=250, deadline=None)
@given(HOSTILE)
def test_nothing_the_model_writes_is_active(text: str) -> None:
    html = _render("html", [_page(text)])
    body = html[html.index("</header>") :]
    assert not ACTIVE.search(body)
    assert re.sub(r"<[^>]*>", "", body).count("word") == text.count("word")


def test_report_puts_boxes_over_the_picture() -> None:
    html = _render("report", [_page(), _failed()], pictures=lambda: _Pictures({1}))
    assert html.count("<rect") == 4
    assert '<rect data-block="1-0" x="100" y="50" width="800" height="50"' in html
    assert "no picture of this page" in html


def test_page_records_read_back() -> None:
    for page in (_page(size_points=(595.0, 842.0), mode="base", num_vision_tokens=273), _failed()):
        assert page_from_record(json.loads(json.dumps(page_record(page)))) == page


def test_document_json_is_what_the_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    about = {
        "source": {"name": "a.pdf", "sha256": "0" * 64},
        "settings": {"task": "markdown"},
        "versions": {"vllm-dsocr": "0"},
    }
    pages = [_page(size_points=(595.0, 842.0)), _failed()]
    document = json.loads(_render("json", pages, about=about))
    jsonschema.validate(document, json.loads(SCHEMA.read_text("utf-8")))
    assert document["pages"][0]["blocks"][0]["boxes_px"] == [[100, 70, 900, 140]]
    assert json.loads(_render("json", [], about=about))["pages"] == []


def test_figures_are_cut_from_the_page() -> None:
    image = Image.new("RGB", (1000, 1400), "white")
    image.paste((255, 0, 0), (100, 490, 500, 840))
    ((figure, data),) = crop_figures(image, _page())
    path_image = Image.open(io.BytesIO(data))
    assert figure_name(figure) == "0001-0.png"
    assert path_image.size == (400, 350)
    assert path_image.getcolors() == [(400 * 350, (255, 0, 0))]


def test_a_box_without_area_is_no_figure() -> None:
    tag = "<|ref|>image<|/ref|><|det|>[[9, 9, 9, 99]]<|/det|>"
    page = _page(tag + tag.replace("9, 9, 9,", "9, 9, 99,"))
    assert [figure.index for figure, _ in crop_figures(Image.new("RGB", (500, 600)), page)] == [1]
    assert _render("md", [page]).count("![](") == 1


def test_layout_is_drawn_over_a_copy() -> None:
    image = Image.new("RGB", (1000, 1400), "white")
    layout = draw_layout(image, _page())
    assert image.getcolors() == [(1000 * 1400, (255, 255, 255))]
    color = tuple(bytes.fromhex(label_color("text")[1:]))
    assert layout.getpixel((500, int(120 / 999 * 1400))) == color


@pytest.mark.parametrize("name", ["md", "html", "report"])
def test_half_a_surrogate_pair_is_written(name: str) -> None:
    assert "a \ufffd b \U0001f600 c" in _render(name, [_page("a \ud800 b \ud83d\ude00 c")])


def test_half_a_surrogate_pair_reads_back_from_the_json() -> None:
    (page,) = json.loads(_render("json", [_page("a \ud800 b")]))["pages"]
    assert page["text"] == "a \ud800 b"
