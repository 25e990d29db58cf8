"""olmOCR-bench's layout and each kind of fact, one that holds beside one that does not."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.olmocr_bench import CHECKS, score

TEXT = """# A heading

The **quick** brown fox — it’s here. Then comes the end.

| Name | Age |
| --- | --- |
| Ann | 31 |

<table><tr><th colspan=2>Both</th></tr><tr><td>left</td><td>right</td></tr></table>
"""


@pytest.mark.parametrize(
    ("kind", "fact", "holds"),
    [
        ("present", {"text": "quick brown fox - it's here"}, True),
        ("present", {"text": "quick brown cat"}, False),
        ("present", {"text": "quick brown fax", "max_diffs": 1}, True),
        ("present", {"text": "QUICK BROWN"}, False),
        ("present", {"text": "QUICK BROWN", "case_sensitive": False}, True),
        ("present", {"text": "Then comes", "first_n": 20}, False),
        ("present", {"text": "left", "last_n": 60}, True),
        ("absent", {"text": "page 7"}, True),
        ("absent", {"text": "A heading"}, False),
        ("order", {"before": "A heading", "after": "the end"}, True),
        ("order", {"before": "the end", "after": "A heading"}, False),
        ("table", {"cell": "31", "up": "Age", "left": "Ann"}, True),
        ("table", {"cell": "31", "up": "Name"}, False),
        ("table", {"cell": "31", "right": "Ann"}, False),
        ("table", {"cell": "31", "top_heading": "Age", "left_heading": "Ann"}, True),
        ("table", {"cell": "right", "top_heading": "Both", "left": "left"}, True),
        ("baseline", {}, True),
    ],
)
def test_facts(kind, fact, holds):
    assert CHECKS[kind](fact, TEXT) == holds


@pytest.fixture
def bench(tmp_path):
    place = {"pdf": "papers/one.pdf", "page": 1}
    facts = {
        "text": [
            {**place, "id": "1", "type": "present", "text": "brown fox"},
            {**place, "id": "2", "type": "absent", "text": "brown fox"},
            {"pdf": "none.pdf", "page": 1, "id": "3", "type": "absent", "text": "x"},
            {**place, "id": "4", "type": "math", "math": "x^2"},
        ],
        "tables": [{**place, "id": "5", "type": "table", "cell": "31"}],
    }
    for name, lines in facts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    folder = tmp_path / "ours" / "papers"
    folder.mkdir(parents=True)
    (folder / "one_pg1_repeat1.md").write_text(TEXT)
    (folder / "one_pg1_repeat2.md").write_text("nothing of it")
    (folder / "one_pg10_repeat1.md").write_text(TEXT)
    return tmp_path


def test_repeats_and_files_are_means(bench, capsys):
    assert main(["eval", "olmocr-bench", str(bench), "ours"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["files"] == {"tables": 0.5, "text": pytest.approx((0.5 + 0.5 + 0) / 3)}
    assert result["overall"] == pytest.approx((0.5 + 1 / 3) / 2)
    assert result["skipped"] == {"math": 1}


def test_paths_stay_inside(bench):
    fact = {"pdf": "../one.pdf", "page": 1, "id": "1", "type": "present", "text": "x"}
    (bench / "text.jsonl").write_text(json.dumps(fact))
    with pytest.raises(ValueError, match="no path inside"):
        score(bench, "ours")
    with pytest.raises(ValueError, match="needs"):
        score(bench, "theirs")
