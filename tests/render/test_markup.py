"""Markup as the model writes it for each task, and what every format makes of it.

`python -m tests.render.test_markup` writes the expected files anew; look at what changed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.record import page_from_record
from vllm_dsocr.render.finished import FinishedDocument, RenderOptions
from vllm_dsocr.render.formats import FORMATS

DATA = Path(__file__).parent.parent / "data" / "markup"
SCHEMA = Path(__file__).parents[2] / "docs" / "document.schema.json"
CASES = sorted(path.stem for path in DATA.glob("*.markup"))
ABOUT = {
    "source": {"name": "a.pdf", "sha256": "0" * 64},
    "settings": {"task": "markdown"},
    "versions": {"vllm-dsocr": "0"},
}
OPTIONS = {
    "md": RenderOptions(),
    "pipes.md": RenderOptions(tables="markdown", furniture=False, page_comments=False),
    "official.md": RenderOptions(markdown="official"),
    "html": RenderOptions(),
    "json": RenderOptions(),
    "txt": RenderOptions(),
    "jsonl": RenderOptions(),
    "chunks": RenderOptions(),
}


def _page(name: str, number: int = 1) -> Page:
    text = (DATA / f"{name}.markup").read_text("utf-8")
    return Page(number, "ok", 1000, 1400, text=text, blocks=parse_blocks(text))


def _rendered(name: str, kind: str) -> str:
    page = _page(name)
    document = FinishedDocument(
        name, lambda: [page], lambda figure: b"png", about=ABOUT, options=OPTIONS[kind]
    )
    text = FORMATS[kind.rpartition(".")[2]].text(document)
    if kind == "html":  # without the head, which is the same for all
        return text[text.index("<article") :]
    return re.sub(r'"version": "[^"]*"', '"version": "0"', text)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_format_is_as_expected(name: str, kind: str) -> None:
    expected = (DATA / "expected" / f"{name}.{kind}").read_bytes().decode()
    assert _rendered(name, kind) == expected


@pytest.mark.parametrize("name", CASES)
def test_the_json_is_what_the_schema_says_and_reads_back(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(_rendered(name, "json"))
    jsonschema.validate(document, json.loads(SCHEMA.read_text("utf-8")))
    assert page_from_record(document["pages"][0]) == _page(name)


@pytest.mark.parametrize("name", CASES)
def test_every_word_of_the_page_is_in_every_format(name: str) -> None:
    text = re.sub(r"<\|det\|>.*?<\|/det\|>|^[a-z_]+\[\[.*", " ", _page(name).text, flags=re.M)
    text = re.sub(r"<\|ref\|>[a-z_]+<\|/ref\|>|<\|/?ref\|>|</?[a-z]+\b[^<>]*>", " ", text)
    words = set(re.findall(r"[A-Z]?[a-z]{4,}", text)) - {"mathrm"}
    for kind in ("md", "txt", "json"):
        rendered = _rendered(name, kind)
        assert not [word for word in words if word not in rendered], kind


def test_what_runs_over_a_page_end_is_joined_when_asked_for() -> None:
    first = "A paragraph that is not\n\n<|ref|>footer<|/ref|><|det|>[[1,2,3,4]]<|/det|>\n1"
    second = "over yet.\n\n<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
    third = "<table><tr><th>a</th></tr><tr><td>2</td></tr></table>\n\nNext."
    pages = [
        Page(number, "ok", text=text, blocks=parse_blocks(text))
        for number, text in enumerate((first, second, third), 1)
    ]
    options = RenderOptions(
        tables="markdown", furniture=False, page_comments=False, join_pages=True
    )
    document = FinishedDocument("t", lambda: pages, lambda figure: b"", options=options)
    assert FORMATS["md"].text(document).split("\n\n") == [
        "A paragraph that is not over yet.",
        "| a |\n| --- |\n| 1 |\n| 2 |",
        "Next.",
        "",
    ]


def test_chunks_carry_their_headings_and_boxes() -> None:
    chunks = [json.loads(line) for line in _rendered("layout", "chunks").splitlines()]
    assert [chunk["headings"] for chunk in chunks] == [
        ["On the Drift of Paper Boats"],
        ["On the Drift of Paper Boats", "1 Method"],
    ]
    assert chunks[0]["boxes"] == [{"page": 1, "label": "text", "box": [80, 130, 480, 210]}]
    assert "Preprint" not in chunks[1]["text"]


if __name__ == "__main__":
    (DATA / "expected").mkdir(exist_ok=True)
    for name in CASES:
        for kind in OPTIONS:
            (DATA / "expected" / f"{name}.{kind}").write_bytes(_rendered(name, kind).encode())
