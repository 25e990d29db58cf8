"""Scores of pages and folders, and `dsocr eval folder`."""

import json

import pytest

from vllm_dsocr.cli import main
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


def test_nothing_read_has_the_worst_order_and_missing_paragraphs_worsen_it():
    truth = "The alpha paragraph.\n\nA beta one.\n\nGamma comes third.\n\nAnd delta last."
    assert score_page("p", "", truth).order_distance == 1
    assert score_page("p", truth, truth).order_distance == 0
    missing = "The alpha paragraph.\n\nGamma comes third.\n\nAnd delta last."
    assert score_page("p", missing, truth).order_distance == pytest.approx(1 / 4)


def test_pictures_and_marks_of_pages_are_no_text():
    text = "<!-- page 1 -->\n\nOne\n\n![A figure](figures/p1-1.png)\n\ntwo"
    assert score_page("p", text, "One\n\ntwo").edits == 0


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


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_folder_of_a_document_has_the_name_of_its_file(folders, suffix):
    read, truth = folders
    folder = read / f"c{suffix}"
    folder.mkdir()
    (folder / "document.md").write_text("<!-- page 1 -->\n\nnever read\n")
    assert {score.name: score.edits for score in score_folder(read, truth)}["c"] == 0
    (read / "c.tiff").mkdir()
    (read / "c.tiff" / "document.md").write_text("another")
    assert {score.name: score.edits for score in score_folder(read, truth)}["c"] == 10


def test_the_command_ends_with_json(folders, capsys):
    read, truth = map(str, folders)
    assert main(["eval", "folder", read, truth, "--pages"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["all"]["cer"] == pytest.approx(11 / 21)
    assert [line.split()[0] for line in lines[1:-1]] == ["all", "a", "c", "sub/b"]
    assert main(["eval", "folder", truth, read + "/none"]) == 2
    assert "no .md" in capsys.readouterr().err
