"""TEDS on tables whose distance one can count by hand, and how tables find each other."""

import time

import pytest

from vllm_dsocr.evaluation.tables import teds as teds_module
from vllm_dsocr.evaluation.tables.cells import parse_html
from vllm_dsocr.evaluation.tables.form import mean_teds, normalised, pipe_html, tables_of
from vllm_dsocr.evaluation.tables.teds import teds


def table(*rows):
    """Cells of a row are the characters of a string; `.` spans two columns."""
    cells = ("".join(cell(char) for char in row) for row in rows)
    return parse_html("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")


def cell(char):
    return "<td colspan=2>x</td>" if char == "." else f"<td>{char}</td>"


CASES = [
    (["ab", "cd"], ["ab", "cd"], 0, 6),
    (["ab", "cx"], ["ab", "cd"], 1, 6),
    (["ab"], ["ab", "cd"], 3, 6),
    (["ab", "ef", "cd"], ["ab", "cd"], 3, 9),
    (["b", "cd"], ["ab", "cd"], 1, 6),
    (["x"], ["."], 1, 2),
    (["abcd"], ["ab", "cd"], 3, 6),
    ([], ["ab"], 3, 3),
]


@pytest.mark.parametrize(("read", "truth", "edits", "nodes"), CASES)
def test_edits_per_node(read, truth, edits, nodes):
    expected = pytest.approx(1 - edits / nodes)
    assert teds(table(*read), table(*truth)) == expected
    assert teds(table(*truth), table(*read)) == expected


@pytest.mark.parametrize(("read", "truth", "edits", "nodes"), CASES)
def test_rows_give_the_same_where_only_cells_and_rows_changed(
    monkeypatch, read, truth, edits, nodes
):
    monkeypatch.setattr(teds_module, "MAX_NODES", 0)
    by_rows = teds(table(*read), table(*truth))
    assert by_rows <= 1 - edits / nodes + 1e-9
    if (read, truth) != (["abcd"], ["ab", "cd"]):  # one row cut in two: the tree keeps the cells
        assert by_rows == pytest.approx(1 - edits / nodes)


def test_the_tree_has_head_and_body_and_cells_of_one_kind():
    plain = parse_html("<table><tr><td>a</td></tr></table>")
    headed = parse_html("<table><thead><tr><th>a</th></tr></thead></table>")
    assert teds(plain, headed) == pytest.approx(1 - 1 / 3)
    assert teds(normalised(plain), normalised(headed)) == 1


def test_texts_count_in_part_or_not_at_all():
    read = parse_html("<table><tr><td>abcx</td></tr></table>")
    truth = parse_html("<table><tr><td>abcd</td></tr></table>")
    assert teds(read, truth) == pytest.approx(1 - 0.25 / 2)
    assert teds(read, truth, structure_only=True) == 1


def test_normalised_as_published():
    (one,), _ = tables_of(
        "<table>\n<tbody><tr><th>Ｈ<sub>2</sub>O</th><td>a\n  b</td></tr></tbody></table>"
    )  # noqa: E501
    (other,), _ = tables_of("<table><tr><td>H2O</td><td>a b</td></tr></table>")
    assert teds(one, other) == 1


def test_a_large_table_with_one_wrong_digit_is_nearly_right():
    rows = [[f"{r}.{c}" for c in range(30)] for r in range(40)]
    right = big_table(rows)
    rows[20][7] = "20.8"
    started = time.process_time()
    assert teds(big_table(rows), right) == pytest.approx(1 - 0.25 / (40 * 31), abs=1e-9)
    del rows[3]
    assert teds(big_table(rows), right) == pytest.approx(1 - 31.25 / (40 * 31), abs=1e-9)
    assert time.process_time() - started < 60  # a bound on the algorithm, not on the machine


def big_table(rows):
    cells = ("".join(f"<td>{text}</td>" for text in row) for row in rows)
    return parse_html("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")


def test_tables_are_paired_by_what_they_say():
    first, second = table("ab", "cd"), table("wx", "yz")
    assert mean_teds([second, first], [first, second]) == 1
    assert mean_teds([second], [first, second]) == 0.5
    assert mean_teds([], [first]) == 0
    assert mean_teds([first], []) is None


def test_pipe_tables_are_tables():
    text = "Before\n\n| a | b |\n| --- | --- |\n| c\\|d |  |\n\nAfter"
    tables, rest = tables_of(text)
    truth = parse_html("<table><tr><td>a</td><td>b</td></tr><tr><td>c|d</td><td></td></tr></table>")
    assert teds(tables[0], truth) == 1
    assert rest.split() == ["Before", "After"]
    assert parse_html(pipe_html("| \x00a |")) is not None


@pytest.mark.parametrize("text", ["<table>", "<table><tr><td colspan=99999>", "<table></table>",
                                  "<table><tr><thx丘<td>a</td></tr></table>"])  # fmt: skip
def test_odd_tables_do_no_harm(text):
    tables, _ = tables_of(text)
    assert mean_teds(tables, [table("ab")]) < 1
