"""Printed pages as a PDF through the bundled reader: the text comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the pages use matplotlib's DejaVu fonts")
pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

from examples.reader_training.pages import held_out_pages  # noqa: E402
from vllm_dsocr.cli import main  # noqa: E402
from vllm_dsocr.metrics import edit_distance  # noqa: E402

READER = Path(__file__).parents[2] / "examples" / "reader"
NUM_PAGES = 6
MAX_CER = 0.03


def test_a_printed_pdf_becomes_its_text(tmp_path: Path) -> None:
    pages = held_out_pages(NUM_PAGES, seed=70_000)
    first, *others = [page.image.convert("RGB") for page in pages]
    first.save(tmp_path / "a.pdf", save_all=True, append_images=others, resolution=72, quality=95)
    options = ["--engine", "hf", "--model", str(READER), "--task", "free", "--dpi", "72"]
    assert main(["convert", str(tmp_path / "a.pdf"), "-o", str(tmp_path / "out"), *options]) == 0
    document = json.loads((tmp_path / "out" / "a.pdf" / "document.json").read_text("utf-8"))
    texts = [page["text"] for page in document["pages"]]
    assert [page["status"] for page in document["pages"]] == ["ok"] * NUM_PAGES
    edits = sum(edit_distance(text, page.text) for text, page in zip(texts, pages, strict=True))
    assert edits <= MAX_CER * sum(len(page.text) for page in pages)
