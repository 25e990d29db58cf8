"""What is written, as a person asks for it on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_server import Answer, fake_server
from tests.page.pdfs import image_pdf

pytest.importorskip("openai", reason="pip install 'vllm-dsocr[client]'")
pytest.importorskip("pikepdf", reason="pip install 'vllm-dsocr[pdf]'")

PAGE = (
    "<|ref|>header<|/ref|><|det|>[[0, 0, 999, 20]]<|/det|>\nrunning head\n\n"
    "<|ref|>text<|/ref|><|det|>[[50, 50, 900, 900]]<|/det|>\nOf \\(x^2\\) we know \ud800 that it"
)


def _convert(tmp_path: Path, answer: str, *arguments: str) -> Path:
    source = image_pdf(tmp_path / "a.pdf", 1, size=(300, 400))
    with fake_server(lambda *_: Answer(answer)) as server:
        command = [sys.executable, "-m", "vllm_dsocr.cli", "convert", str(source)]
        rest = ["-o", str(tmp_path / "out"), "--server", server.url, *arguments]
        done = subprocess.run(command + rest, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return tmp_path / "out" / "a.pdf"


def test_every_wish_is_heeded(tmp_path: Path) -> None:
    formats = ("--format", "md,txt,jsonl,chunks,pdf,json")
    wishes = ("--math", "official", "--no-furniture", "--no-page-comments", "--join-pages")
    folder = _convert(tmp_path, PAGE, *formats, *wishes)
    markdown = (folder / "document.md").read_text("utf-8")
    assert markdown == "Of \\(x^2\\) we know \ufffd that it\n\n"
    assert "running head" not in (folder / "document.txt").read_text("utf-8")
    assert len((folder / "document.jsonl").read_text("utf-8").splitlines()) == 1
    assert json.loads((folder / "document.chunks.jsonl").read_text("utf-8"))["pages"] == [1]
    assert (folder / "document.pdf").read_bytes().startswith(b"%PDF-")
    (page,) = json.loads((folder / "document.json").read_text("utf-8"))["pages"]
    assert page["text"].endswith("we know \ud800 that it")
    assert page["frame"] == {"crop_box": [0.0, 0.0, 300.0, 400.0], "rotation": 0}


def test_lines_that_are_read_are_in_the_documents(tmp_path: Path) -> None:
    """For this task the model writes the text into the tags."""
    lines = "<|ref|>The perils of paper<|/ref|><|det|>[[352, 30, 624, 111]]<|/det|>\n"
    folder = _convert(tmp_path, lines, "--task", "ocr", "--format", "md,html,docling")
    for name in ("document.md", "document.html", "document.docling.json"):
        assert "The perils of paper" in (folder / name).read_text("utf-8")
