"""OmniDocBench's file layout, on pages of it."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.omni_blocks import read_blocks, truth_blocks
from vllm_dsocr.evaluation.omni_match import match_blocks, order_distance
from vllm_dsocr.evaluation.omnidocbench import score_page

TABLE = "<table><tr><td>1</td><td>2</td></tr></table>"


def block(category, order, number, **content):
    return {"category_type": category, "order": order, "anno_id": number, **content}


BLOCKS = [
    block("table", 3, 1, html=TABLE),
    block("title", 1, 2, text="A title of it"),
    block("text_block", 2, 3, text="Some text that $x^{2}$ is in."),
    block("equation_isolated", 4, 4, latex="$$\\mathrm E = m c^2$$"),
    block("header", None, 5, text="Running head"),
    block("figure_caption", 5, 6, text="Figure 1. A drawing of a house"),
    block("text_block", 6, 7, text="The paragraph begins here and"),
    block("text_block", 9, 8, text="ends in the other column."),
    block("figure", None, 9),
]
READ = f"""# A title of it

Some text that \\(x^2\\) is in.

{TABLE}

\\[E = m c^2\\]

The paragraph begins here and

ends in the other column."""


def page(name, blocks, language):
    info = {"image_path": name, "page_attribute": {"language": language, "special_issue": []}}
    joined = {"relation_type": "truncated", "source_anno_id": 7, "target_anno_id": 8}
    return {"layout_dets": blocks, "page_info": info, "extra": {"relation": [joined]}}


@pytest.fixture
def bench(tmp_path):
    pages = [page("one.jpg", BLOCKS, "english"), page("two.png", BLOCKS[1:3], "chinese")]
    (tmp_path / "OmniDocBench.json").write_text(json.dumps(pages))
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "one.md").write_text(READ)
    return tmp_path


def scores(markdown, blocks=BLOCKS):
    return score_page(page("one.jpg", blocks, "english"), markdown)


def test_a_page_read_well_has_no_edits_whatever_is_left_out_or_read_besides():
    one = scores(READ)
    assert (one.text_edit, one.formula_edit, one.order_edit, one.teds) == (0, 0, 0, (1,))
    more = scores(f"Running head\n\n{READ}\n\nFigure 1. A drawing of a house")
    assert (more.text_edit, more.order_edit) == (0, 0)


def test_pieces_of_the_truth_are_one_block():
    keys = [block.key for block in truth_blocks(page("one.jpg", BLOCKS, "english"))]
    assert "Theparagraphbeginshereandendsintheothercolumn" in keys


def test_order_that_is_wrong_or_missing_counts():
    first, second, *rest = READ.split("\n\n")
    turned = scores("\n\n".join([second, *rest, first]))
    assert turned.text_edit == 0
    assert 0 < turned.order_edit < 1
    assert scores("\n\n".join([first, *rest])).order_edit == pytest.approx(1 / 3)


def test_nothing_read_is_the_worst_there_is():
    one = scores("")
    assert (one.text_edit, one.formula_edit, one.order_edit, one.teds) == (1, 1, 1, (0,))


def test_a_table_is_read_as_html_or_pipes_and_only_once():
    pipes = READ.replace(TABLE, "| 1 | 2 |\n| --- | --- |")
    assert (scores(pipes).teds, scores(pipes).text_edit) == ((1,), 0)
    assert scores(READ.replace(TABLE, "")).teds == (0,)


def test_blocks_that_a_reader_joined_or_separated_are_found():
    truth = read_blocks("The first paragraph of the page.\n\nThe second one, which is longer.")
    joined = match_blocks(
        read_blocks("The first paragraph of the page. The second one, which is longer.\n\nx"), truth
    )  # noqa: E501
    assert len(joined[0].truth) == 2
    assert order_distance(joined) == 0
    whole = read_blocks("A paragraph that goes on and on.\n\nAnother, of something else.")
    halves = match_blocks(
        read_blocks("A paragraph that\n\ngoes on and on.\n\nAnother, of something else."), whole
    )
    assert sorted(len(match.read) for match in halves) == [1, 2]
    assert all(read == truth for read, truth in (match.keys for match in halves))


def test_scores_by_attribute_and_missing_pages_count(bench, capsys):
    arguments = ["eval", "omnidocbench", str(bench / "read"), str(bench / "OmniDocBench.json")]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["all"]["pages"], result["missing"]) == (2, 1)
    assert (result["all"]["text_edit"], result["all"]["order_edit"]) == (0.5, 0.5)
    assert result["all"]["teds"] == 1
    assert result["language: english"]["text_edit"] == 0
    assert result["language: chinese"]["text_edit"] == 1


def test_what_convert_wrote_is_read(bench):
    folder = bench / "converted" / "one.jpg"
    folder.mkdir(parents=True)
    (folder / "document.md").write_text(f"<!-- page 1 -->\n\n{READ}")
    assert main(["eval", "omnidocbench", str(folder.parent), str(bench / "OmniDocBench.json")]) == 0


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '[{"layout_dets": [], "page_info": 3}]'])
def test_another_file_is_refused(bench, capsys, content):
    (bench / "OmniDocBench.json").write_text(content)
    arguments = ["eval", "omnidocbench", str(bench), str(bench / "OmniDocBench.json")]
    assert main(arguments) == 2
    assert "no list of pages" in capsys.readouterr().err
