"""TEDS on tables whose distance one can count by hand."""

import pytest

from vllm_dsocr.document.tables import parse_table
from vllm_dsocr.evaluation.teds import MAX_CELLS, teds


def table(*rows):
    """Cells of a row are the characters of a string; `.` spans two columns."""
    cells = ("".join(cell(char) for char in row) for row in rows)
    return parse_table("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")


def cell(char):
    return "<td colspan=2>x</td>" if char == "." else f"<td>{char}</td>"


@pytest.mark.parametrize(
    ("read", "truth", "edits", "nodes"),
    [
        (["ab", "cd"], ["ab", "cd"], 0, 6),
        (["ab", "cx"], ["ab", "cd"], 1, 6),
        (["ab"], ["ab", "cd"], 3, 6),
        (["ab", "ef", "cd"], ["ab", "cd"], 3, 9),
        (["b", "cd"], ["ab", "cd"], 1, 6),
        (["x"], ["."], 1, 2),
        (["abcd"], ["ab", "cd"], 3, 6),
        ([], ["ab"], 3, 3),
    ],
)
def test_edits_per_node(read, truth, edits, nodes):
    expected = pytest.approx(1 - edits / nodes)
    assert teds(table(*read), table(*truth)) == expected
    assert teds(table(*truth), table(*read)) == expected


def test_texts_count_in_part_or_not_at_all():
    read = parse_table("<table><tr><td>abcx</td></tr></table>")
    truth = parse_table("<table><thead><tr><th>abcd</th></tr></thead></table>")
    assert teds(read, truth) == pytest.approx(1 - 0.25 / 2)
    assert teds(read, truth, structure_only=True) == 1


def test_huge_tables_are_right_or_wrong():
    huge = table("a" * (MAX_CELLS + 1))
    assert teds(huge, huge) == 1
    assert teds(huge, table("a")) == 0
