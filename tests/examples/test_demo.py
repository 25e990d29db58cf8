"""What the demonstration does with an answer, no server needed: files, figures, which page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("openai")

from examples.demo import LAYOUT, LINES, case_for, finished, mean_overlap, write
from vllm_dsocr.document.grounding import parse_blocks

LABELS = ["title", "text", "table", "image", "image_caption", "footer"]


@pytest.fixture(scope="module")
def truth() -> str:
    return LAYOUT.truth.read_text(encoding="utf-8").rstrip("\n")


def test_the_page_follows_what_the_reader_was_trained_for(tmp_path: Path) -> None:
    figures = {"cer": 0.01}
    (tmp_path / "evaluation.json").write_text(json.dumps(figures))
    assert case_for(tmp_path) is LINES
    (tmp_path / "evaluation.json").write_text(json.dumps({**figures, "layout": {"iou": 0.9}}))
    assert case_for(tmp_path) is LAYOUT


def test_an_answer_becomes_files(tmp_path: Path, truth: str) -> None:
    paths = write(finished(LAYOUT, truth), tmp_path)
    assert all(path.exists() for path in paths)
    markdown = (tmp_path / "document.md").read_text(encoding="utf-8")
    assert "# Intern" in markdown and '<td colspan="2">Watches</td>' in markdown
    assert "<|ref|>" not in markdown and "images/0001-0.png" in markdown
    with Image.open(tmp_path / "images" / "0001-0.png") as crop, Image.open(LAYOUT.page) as page:
        box = next(b for b in parse_blocks(truth) if b.label == "image").boxes[0]
        left, top, right, bottom = box.pixels(*page.size)
        assert crop.size == (right - left, bottom - top)
    with Image.open(tmp_path / "layout" / "0001.png") as drawn:
        assert drawn.size == (640, 640) and len(drawn.getcolors(1 << 20)) > 300


def pdf_text(path: Path) -> str:
    pdfium = pytest.importorskip("pypdfium2")
    with pdfium.PdfDocument(path) as pdf:
        return " ".join(pdf[0].get_textpage().get_text_bounded().split())


def test_the_pdf_is_searchable(tmp_path: Path, truth: str) -> None:
    write(finished(LAYOUT, truth), tmp_path)
    said = pdf_text(tmp_path / "document.pdf")
    for text in ("Intern", "Truncated interpreted", "$1,811.43", "Figure 3"):
        assert text in said


def test_lines_become_files_too(tmp_path: Path) -> None:
    text = LINES.truth.read_text(encoding="utf-8")
    assert all(path.exists() for path in write(finished(LINES, text), tmp_path))


def test_overlap_counts_missing_boxes(truth: str) -> None:
    assert mean_overlap(truth, truth) == 1
    assert 0 < mean_overlap(truth[: len(truth) // 2], truth) < 1
    assert mean_overlap("", truth) == mean_overlap(truth, "") == 0


def test_the_page_is_one_of_the_held_out_ones(truth: str) -> None:
    pytest.importorskip("matplotlib", reason="the pages use its DejaVu fonts")
    from examples.reader_training.layout.answers import markdown_answer
    from examples.reader_training.layout.page import held_out_layouts

    assert [block.label for block in parse_blocks(truth)] == LABELS
    (page,) = held_out_layouts(1, seed=21219)
    assert markdown_answer(page).text == truth
