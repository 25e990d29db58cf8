"""Scores of pages and folders, and `dsocr eval folder`."""

import json

import pytest

from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.order import match, order_distance
from vllm_dsocr.evaluation.page import score_folder, score_page, summary

TABLE = "<table><tr><td>a</td><td>b</td></tr></table>"


def test_a_page_is_scored_by_text_tables_and_order():
    truth = f"First words here.\n\nSecond of them.\n\n{TABLE}"
    same = score_page("p", f"<!-- page 1 -->\n\n{truth}\n", truth)
    assert (same.edits, same.word_edits, same.teds, same.order_distance) == (0, 0, 1, 0)
    other = score_page("p", "Second of them.\n\nFirst words here.", truth)
    assert (other.teds, other.order_distance) == (0, 1)
    plain = score_page("p", "a", "b")
    assert (plain.teds, plain.order_distance, plain.edit_distance) == (None, None, 1)


def test_order_is_that_of_what_was_found():
    truth = ["alpha one", "beta two", "gamma three"]
    assert match(["gamma thre", "unrelated words", "alpha one"], truth) == {0: 2, 2: 0}
    assert order_distance(["alpha one", "something else", "gamma three"], truth) == 0
    assert order_distance(["beta two", "alpha one", "gamma three"], truth) == pytest.approx(2 / 3)


def test_rates_are_sums_over_sums():
    total = summary([score_page("a", "x", "y"), score_page("b", "123456789", "123456789")])
    assert total["cer"] == pytest.approx(0.1)
    assert total["edit_distance"] == pytest.approx(0.5)
    assert total["teds"] is None


@pytest.fixture
def folders(tmp_path):
    truth, read = tmp_path / "truth", tmp_path / "read"
    for path, text in (
        (truth / "a.txt", "one two"),
        (truth / "sub" / "b.md", "four"),
        (truth / "c.txt", "never read"),
        (read / "a.md", "one twx\n"),
        (read / "sub" / "b" / "document.md", "<!-- page 1 -->\n\nfour\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read, truth


def test_texts_are_found_by_name_and_missing_ones_are_empty(folders):
    edits = {score.name: score.edits for score in score_folder(*folders)}
    assert edits == {"a": 1, "c": 10, "sub/b": 0}


def test_the_command_ends_with_json(folders, capsys):
    read, truth = map(str, folders)
    assert main(["eval", "folder", read, truth, "--pages"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["all"]["cer"] == pytest.approx(11 / 21)
    assert [line.split()[0] for line in lines[1:-1]] == ["all", "a", "c", "sub/b"]
    assert main(["eval", "folder", truth, read + "/none"]) == 2
    assert "no .md" in capsys.readouterr().err
