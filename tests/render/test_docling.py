"""The Docling export, read back with Docling's own classes."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.render.finished import FinishedDocument

pytest.importorskip("docling_core", reason="pip install 'vllm-dsocr[docling]'")

MARKUP = Path(
    os.environ.get("DSOCR_MARKUP_DATA") or Path(__file__).parents[3] / "shared" / "markup"
)
TEXT = """<|ref|>title<|/ref|><|det|>[[0, 0, 999, 99]]<|/det|>
# A Title
<|ref|>header<|/ref|><|det|>[[0, 0, 999, 9]]<|/det|>
running head
<|ref|>table<|/ref|><|det|>[[0, 100, 999, 400]]<|/det|>
<table><tr><th>a</th><th>b</th></tr><tr><td colspan="2">wide</td></tr></table>
<|ref|>image<|/ref|><|det|>[[0, 500, 500, 900], [500, 500, 999, 900]]<|/det|>
"""


def _export(*pages: Page):
    from vllm_dsocr.render.docling import docling_document

    made = docling_document(FinishedDocument("a.pdf", lambda: pages, _png))
    return type(made).model_validate_json(made.model_dump_json())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "PNG")
    return buffer.getvalue()


def _page(text: str, width: int = 1000, height: int = 2000) -> Page:
    return Page(1, "ok", width, height, text=text, blocks=parse_blocks(text))


def test_items_have_their_kind_and_place() -> None:
    document = _export(_page(TEXT), Page(2, "failed", reason="x"))
    assert [item.label.value for item in document.texts] == ["title", "page_header"]
    assert document.texts[0].text == "A Title"
    box = document.texts[0].prov[0].bbox
    assert (box.l, box.t, box.r, box.b) == pytest.approx((0, 0, 1000, 198.2), abs=0.1)
    assert len(document.pictures) == 2
    assert document.pictures[0].image.size.width == 8
    assert sorted(document.pages) == [1, 2]


def test_table_cells_keep_their_spans() -> None:
    data = _export(_page(TEXT)).tables[0].data
    assert (data.num_rows, data.num_cols) == (2, 2)
    assert [(cell.text, cell.col_span) for cell in data.table_cells] == [
        ("a", 1),
        ("b", 1),
        ("wide", 2),
    ]


def test_a_table_behind_its_caption_has_the_place_of_the_mark_before_it() -> None:
    document = _export(
        _page(
            "<|ref|>table<|/ref|><|det|>[[0, 500, 999, 900]]<|/det|>\n"
            "<|ref|>table_caption<|/ref|><|det|>[[0, 100, 999, 200]]<|/det|>\nTable 1. Of things."
            "\n\n<table><tr><td>1</td></tr></table>"
        )
    )
    (table,), (caption,) = document.tables, document.texts
    assert table.prov[0].bbox.t == pytest.approx(1001, abs=0.1)
    assert caption.prov[0].bbox.t == pytest.approx(200.2, abs=0.1)
    assert caption.label.value == "caption"
    assert table.captions[0].resolve(document) is caption
    assert document.export_to_markdown().startswith("Table 1. Of things.\n\n| 1 ")


def test_formulas_lists_code_and_levels() -> None:
    document = _export(
        _page(
            "<|ref|>sub_title<|/ref|><|det|>[[0, 0, 9, 9]]<|/det|>\n### Deep\n"
            "<|ref|>equation<|/ref|><|det|>[[0, 9, 9, 19]]<|/det|>\n\\[ x_1^2 \\]\n"
            "<|ref|>text<|/ref|><|det|>[[0, 9, 9, 19]]<|/det|>\n1. one\n2. two costs $5"
        )
    )
    heading, formula, one, two = document.texts
    assert (heading.label.value, heading.level, heading.text) == ("section_header", 2, "Deep")
    assert (formula.label.value, formula.text) == ("formula", "x_1^2")
    assert [(one.text, one.enumerated), (two.text, two.marker)] == [
        ("one", True),
        ("two costs $5", "2."),
    ]


RECORDED = sorted(MARKUP.glob("*.md.json")) if MARKUP.is_dir() else []


@pytest.mark.skipif(not RECORDED, reason="the recorded pages are not there")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_pages_are_what_doclings_own_reader_makes_of_them(path: Path) -> None:
    """But for text before the first tag, which only ours keeps, <center>, and 999 for 1000."""
    theirs = json.loads(path.read_text("utf-8"))
    text = path.with_suffix("").read_text("utf-8")
    size = theirs["pages"]["1"]["size"]
    ours = _export(_page(text, int(size["width"]), int(size["height"])))
    tag = text.find("<|ref|>")
    items = [item for item in ours.texts if item.prov]
    assert len(ours.texts) - len(items) == (1 if text[:tag].strip() else 0)
    assert [_facts(item.model_dump(mode="json")) for item in items] == [
        _facts(item) for item in theirs["texts"]
    ]
    for mine, his in zip(items, theirs["texts"], strict=True):
        _assert_same_place(mine.model_dump(mode="json"), his)
    for kind in ("tables", "pictures"):
        assert len(getattr(ours, kind)) == len(theirs[kind])
        for mine, his in zip(getattr(ours, kind), theirs[kind], strict=True):
            assert len(mine.captions) == len(his["captions"])
            _assert_same_place(mine.model_dump(mode="json"), his)


def _facts(item: dict) -> tuple:
    text = re.sub(r"\\\((.*?)\\\)|\$(.*?)\$", r"\1\2", re.sub(r" *</?center> *", "", item["text"]))
    level = item.get("level")
    return item["label"], level, " ".join(text.split())


def _assert_same_place(mine: dict, his: dict) -> None:
    for side in "ltrb":
        assert mine["prov"][0]["bbox"][side] == pytest.approx(
            his["prov"][0]["bbox"][side], rel=2e-3
        )
