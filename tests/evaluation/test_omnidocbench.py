"""OmniDocBench's file layout, on two pages of it."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.omnidocbench import truth_text

TABLE = "<table><tr><td>1</td></tr></table>"
BLOCKS = [
    {"category_type": "table", "order": 3, "html": TABLE, "ignore": False},
    {"category_type": "title", "order": 1, "text": "A title", "ignore": False},
    {"category_type": "text_block", "order": 2, "text": "Some text.", "ignore": False},
    {"category_type": "equation_isolated", "order": 4, "latex": "$$x$$", "ignore": False},
    {"category_type": "header", "order": 5, "text": "left out", "ignore": False},
    {"category_type": "text_block", "order": 6, "text": "ignored", "ignore": True},
    {"category_type": "figure", "order": None, "ignore": False},
]


def page(name, blocks, language):
    info = {"image_path": name, "page_attribute": {"language": language, "special_issue": []}}
    return {"layout_dets": blocks, "page_info": info, "extra": {}}


@pytest.fixture
def bench(tmp_path):
    pages = [page("one.jpg", BLOCKS, "english"), page("two.png", BLOCKS[1:2], "simplified_chinese")]
    (tmp_path / "OmniDocBench.json").write_text(json.dumps(pages))
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "one.md").write_text(f"A title\n\nSome text.\n\n{TABLE}\n\n$$x$$")
    return tmp_path


def test_truth_is_in_order_and_without_what_is_left_out():
    text = truth_text(page("one.jpg", BLOCKS, "english"))
    assert text == f"A title\n\nSome text.\n\n{TABLE}\n\n$$x$$"


def test_scores_by_attribute(bench, capsys):
    arguments = ["eval", "omnidocbench", str(bench / "read"), str(bench / "OmniDocBench.json")]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["all"]["pages"], result["missing"]) == (2, 1)
    assert result["all"]["edit_distance"] == 0.5
    english = result["language: english"]
    assert (english["cer"], english["teds"], english["order_distance"]) == (0, 1, 0)
    assert result["language: simplified_chinese"]["cer"] == 1


def test_another_file_is_refused(bench, capsys):
    (bench / "OmniDocBench.json").write_text('{"a": 1}')
    arguments = ["eval", "omnidocbench", str(bench), str(bench / "OmniDocBench.json")]
    assert main(arguments) == 2
    assert "no list of pages" in capsys.readouterr().err
