"""The Docling export, read back with Docling's own classes."""

from __future__ import annotations

import pytest

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks

pytest.importorskip("docling_core", reason="pip install 'vllm-dsocr[docling]'")

TEXT = """<|ref|>title<|/ref|><|det|>[[0, 0, 999, 99]]<|/det|>
# A Title
<|ref|>header<|/ref|><|det|>[[0, 0, 999, 9]]<|/det|>
running head
<|ref|>table<|/ref|><|det|>[[0, 100, 999, 400]]<|/det|>
<table><tr><th>a</th><th>b</th></tr><tr><td colspan="2">wide</td></tr></table>
<|ref|>image<|/ref|><|det|>[[0, 500, 500, 900], [500, 500, 999, 900]]<|/det|>
"""


def _document():
    from vllm_dsocr.render.docling import docling_document

    pages = [Page(1, "ok", 1000, 2000, blocks=parse_blocks(TEXT)), Page(2, "failed", reason="x")]
    document = docling_document("a.pdf", pages)
    return type(document).model_validate_json(document.model_dump_json())


def test_items_have_their_kind_and_place() -> None:
    document = _document()
    assert [item.label.value for item in document.texts] == ["section_header", "page_header"]
    assert document.texts[0].text == "A Title"
    box = document.texts[0].prov[0].bbox
    assert (box.l, box.t, box.r, box.b) == (0, 0, 1000, 198)
    assert len(document.pictures) == 2
    assert sorted(document.pages) == [1, 2]


def test_table_cells_keep_their_spans() -> None:
    data = _document().tables[0].data
    assert (data.num_rows, data.num_cols) == (2, 2)
    assert [(cell.text, cell.col_span) for cell in data.table_cells] == [
        ("a", 1),
        ("b", 1),
        ("wide", 2),
    ]
