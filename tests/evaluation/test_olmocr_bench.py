"""olmOCR-bench's layout and each kind of fact, one that holds beside one that does not."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.olmocr_bench import holds, page_file, read_facts, score
from vllm_dsocr.evaluation.olmocr_facts import CHECKS

TEXT = """# A heading

The **quick** brown fox — it’s here. Then comes the end.

| Name | Age |
| --- | --- |
| Ann | 31 |

<table><tr><th colspan=2>Both</th></tr><tr><td>left</td><td>right hand</td></tr></table>

So \\( a^{2} + \\mathbf{b}^2 = c^2 \\) holds, and $$\\left( x \\right) \\leq \\frac{1}{2}$$ too.
"""


@pytest.mark.parametrize(
    ("kind", "fact", "holds"),
    [
        ("present", {"text": "quick brown fox - it's here"}, True),
        ("present", {"text": "quick brown cat"}, False),
        ("present", {"text": "quick brown foxx", "max_diffs": 2}, True),
        ("present", {"text": "QUICK BROWN"}, False),
        ("present", {"text": "QUICK BROWN", "case_sensitive": False}, True),
        ("present", {"text": "Then comes", "first_n": 20}, False),
        ("present", {"text": "holds, and", "last_n": 70}, True),
        ("absent", {"text": "page 7"}, True),
        ("absent", {"text": "A heading"}, False),
        ("order", {"before": "A heading", "after": "the end"}, True),
        ("order", {"before": "the end", "after": "A heading"}, False),
        ("order", {"before": "no such thing", "after": "the end"}, False),
        ("table", {"cell": "31", "up": "Age", "left": "Ann"}, True),
        ("table", {"cell": "31", "up": "Name"}, False),
        ("table", {"cell": "31", "right": "Ann"}, False),
        ("table", {"cell": "31", "top_heading": "Age", "left_heading": "Ann"}, True),
        ("table", {"cell": "right hand", "top_heading": "Both", "left": "left"}, True),
        ("table", {"cell": "right"}, False),  # a part of a cell is not the cell
        ("table", {"cell": "right hant", "max_diffs": 1}, True),
        ("table", {"cell": "31", "ignore_markdown_tables": True}, False),
        ("baseline", {}, True),
        ("baseline", {"max_length": 10}, False),  # the page is blank, and so much was read
        ("math", {"math": "a^2+b^2=c^2"}, True),
        ("math", {"math": "(x) \\le \\frac{1}{2}"}, True),
        ("math", {"math": "a^2+b^2=d^2"}, False),
    ],
)
def test_facts(kind, fact, holds):
    assert CHECKS[kind](fact, TEXT) == holds


@pytest.mark.parametrize(
    ("text", "fact", "sound"),
    [
        ("", {"max_length": 5}, True),
        ("![a picture of words](x.png) two", {"max_length": 5}, False),
        (
            "![of words](x.png) two",
            {"max_length": 5, "max_length_skips_image_alt_tags": True},
            True,
        ),
        (" -- \n", {}, False),
        ("The end" + ". a" * 31, {}, False),
        ("The end" + ". a" * 31, {"max_repeats": 40}, True),
        ("Plain 漢 text", {}, False),
        ("Plain 漢 text", {"check_disallowed_characters": False}, True),
    ],
)
def test_a_page_is_sound(text, fact, sound):
    assert CHECKS["baseline"](fact, text) == sound


SPANS = """<table><thead><tr><td rowspan=2>Year</td><td colspan=2>Costs</td></tr>
<tr><td>plan</td><td>real</td></tr></thead>
<tr><td>2019</td><td>10</td><td>12</td></tr></table>"""


@pytest.mark.parametrize(
    ("fact", "holds"),
    [
        ({"cell": "12", "top_heading": "Costs"}, True),
        ({"cell": "12", "top_heading": "plan"}, False),
        ({"cell": "2019", "up": "Year"}, True),
        ({"cell": "real", "left_heading": "Year"}, True),
        ({"cell": "Costs", "down": "real"}, True),
        ({"cell": "Year", "right": "plan"}, True),
    ],
)
def test_neighbours_of_cells_that_span(fact, holds):
    assert CHECKS["table"](fact, SPANS) == holds


def test_a_few_letters_do_not_hold_a_sentence():
    """The benchmark's checker would look for the short one in the long one, and find it."""
    fact = {"text": "The quick brown fox jumps."}
    assert not CHECKS["present"](fact, "fox")
    assert CHECKS["absent"](fact, "fox")
    assert CHECKS["present"](fact | {"max_diffs": 1}, "The quick brown fox jumps")


def test_repeats_vote():
    fact = {"type": "present", "text": "fox"}
    assert holds(fact, ("a fox", "a fox", "a cat"))
    assert not holds(fact, ("a fox", "a cat"))
    assert not holds({"type": "absent", "text": "fox"}, ())


@pytest.fixture
def bench(tmp_path):
    place = {"pdf": "papers/one.pdf", "page": 1}
    facts = {
        "text": [
            {**place, "id": "1", "type": "present", "text": "brown fox"},
            {**place, "id": "2", "type": "absent", "text": "brown fox"},
            {"pdf": "none.pdf", "page": 1, "id": "3", "type": "absent", "text": "x"},
            {**place, "id": "4", "type": "footnote", "marker": "1"},
        ],
        "tables": [{**place, "id": "5", "type": "table", "cell": "31"}],
        "only_math": [{**place, "id": "6", "type": "math", "math": "y^2"}],
    }
    for name, lines in facts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    folder = tmp_path / "ours" / "papers"
    folder.mkdir(parents=True)
    (tmp_path / "ours" / page_file("papers/one.pdf", 1)).write_text(TEXT)
    (folder / "one_pg1_repeat2.md").write_text(TEXT)
    (folder / "one_pg1_repeat3.md").write_text("nothing of it")
    (folder / "one_pg10_repeat1.md").write_text("another page")
    return tmp_path


def test_files_are_means_math_and_the_implicit_baseline_with_them(bench, capsys):
    assert main(["eval", "olmocr-bench", str(bench), "ours"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    files = {"only_math": 0, "tables": 1, "text": pytest.approx(1 / 3), "baseline": 0.5}
    assert result["files"] == files
    assert result["overall"] == pytest.approx((0 + 1 + 1 / 3 + 0.5) / 4)
    assert (result["skipped"], result["missing"]) == ({"footnote": 1}, 1)


def test_the_pdfs_that_are_there_have_a_baseline_each(bench):
    (bench / "pdfs").mkdir()
    for name in ("one", "two"):
        (bench / "pdfs" / f"{name}.pdf").touch()
    with_own = {"pdf": "two.pdf", "page": 1, "id": "7", "type": "baseline", "max_length": 10}
    (bench / "blank.jsonl").write_text(json.dumps(with_own))
    implicit = [fact["pdf"] for group, fact in read_facts(bench) if group == "baseline"]
    assert implicit == ["one.pdf"]


def test_what_an_empty_reader_would_get_is_said_and_not_more(bench):
    (bench / "empty").mkdir()
    for pdf in ("papers/one.pdf", "none.pdf"):
        path = bench / "empty" / page_file(pdf, 1)
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    result = score(bench, "empty")
    assert result["overall"] == result["empty_reader"] == pytest.approx((0 + 0 + 2 / 3 + 0) / 4)
    (bench / "nobody").mkdir()
    assert score(bench, "nobody")["overall"] == 0


@pytest.mark.parametrize("line", ['{"pdf": "../one.pdf", "page": 1, "type": "absent"}', "[1]"])
def test_lines_that_are_no_facts_are_refused(bench, line):
    (bench / "text.jsonl").write_text(line)
    with pytest.raises(ValueError, match="no path inside|no fact with"):
        score(bench, "ours")


def test_a_candidate_has_a_folder(bench):
    with pytest.raises(ValueError, match="needs"):
        score(bench, "theirs")
