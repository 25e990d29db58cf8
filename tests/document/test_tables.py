"""HTML tables of the model, good and bad."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_dsocr.document.tables import (
    MAX_PLACES,
    Cell,
    Table,
    parse_table,
    split_tables,
    table_html,
)

SPANS = (
    "<table><tr><th rowspan='2'>a</th><th colspan=2>b</th></tr>"
    "<tr><td>c</td><td>d</td></tr><tr><td>e</td><td>f</td><td>g</td></tr></table>"
)


def test_spans_take_their_places() -> None:
    grid = [[cell and cell.text for cell in row] for row in parse_table(SPANS).grid()]
    assert grid == [["a", "b", None], [None, "c", "d"], ["e", "f", "g"]]


def test_html_keeps_spans_and_heads() -> None:
    html = table_html(parse_table(SPANS))
    assert '<th rowspan="2">a</th><th colspan="2">b</th>' in html
    assert parse_table(html) == parse_table(SPANS)


def test_a_spanning_cell_may_be_in_every_place() -> None:
    filled = [[cell and cell.text for cell in row] for row in parse_table(SPANS).filled()]
    assert filled == [["a", "b", "b"], ["a", "c", "d"], ["e", "f", "g"]]


def test_cell_text_survives() -> None:
    table = parse_table("<table><tr><td>x &lt; y<br/>a|b \\( a<b \\)</td></tr></table>")
    assert table.rows == ((Cell("x < y\na|b \\( a<b \\)"),),)
    assert "x &lt; y<br>a|b \\( a&lt;b \\)" in table_html(table)


def test_other_markup_becomes_text() -> None:
    html = "<table><tr><td><script>alert(1)</script><img src=x onerror=alert(1)></td></tr></table>"
    assert "<script" not in table_html(parse_table(html))
    assert "<img" not in table_html(parse_table(html))
    assert "alert(1)" in table_html(parse_table(html))


@pytest.mark.parametrize("num_cells", range(1, 8))
def test_a_table_cut_off_keeps_its_cells(num_cells: int) -> None:
    end = [match.end() for match in re.finditer(r"</t[dh]>", SPANS)][num_cells - 1]
    before, table = split_tables("text " + SPANS[:end])
    assert before == "text "
    assert isinstance(table, Table)
    cells = [cell for row in table.rows for cell in row]
    assert cells == [cell for row in parse_table(SPANS).rows for cell in row][:num_cells]


def test_text_outside_cells_is_not_lost() -> None:
    table = parse_table("<table>stray<tr><td>a</td>between<td>b</td></tr></table>")
    assert [[cell.text for cell in row] for row in table.rows] == [["stray"], ["a", "between", "b"]]


def test_text_around_tables_stays() -> None:
    before, table, after = split_tables("before <table><tr><td>1</td></tr></table> after")
    assert (before, after) == ("before ", " after")
    assert isinstance(table, Table)


def test_huge_spans_do_not_fill_the_memory() -> None:
    cell = "<td rowspan=9999 colspan=9999>x</td>"
    grid = parse_table("<table>" + f"<tr>{cell * 30}</tr>" * 30 + "</table>").grid()
    assert sum(len(row) for row in grid) <= 30 * MAX_PLACES
    assert sum(found is not None for row in grid for found in row) == 900


def test_no_rows() -> None:
    assert parse_table("<table></table>").grid() == []


@pytest.mark.parametrize(
    "text", ["the <table> element", "use `<table>` here", "```\n<table><tr>\n```"]
)
def test_prose_that_names_a_table_opens_none(text: str) -> None:
    assert list(split_tables(text)) == [text]


def test_caption_and_inline_tags_stay() -> None:
    table = parse_table(
        "<table><caption>T <b>1</b></caption><tr><td>H<sub>2</sub>O</td>"
        "<td>p <0.05</td></tr></table>"
    )
    assert table.caption == Cell("T 1")
    assert table.rows == ((Cell("H2O"), Cell("p <0.05")),)
    html = table_html(table)
    assert "<caption>T <b>1</b></caption>" in html
    assert "<td>H<sub>2</sub>O</td><td>p &lt;0.05</td>" in html
    assert table_html(parse_table(html)) == html


def test_a_table_in_a_cell_ends_with_its_own_end() -> None:
    inner = "<table><tr><td>x</td></tr></table>"
    table, after = split_tables(f"<table><tr><td>a{inner}b</td></tr></table> after")
    assert after == " after"
    assert [cell.text for row in table.rows for cell in row] == ["a", "x", "b"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<table>", "</table>", "<tr>", "<td>", "</td>", "<b>", "</b>", "<br>", "<caption>"]
            + ["word", " < ", "&amp;", "&lt;", "```", "\n", "<td colspan=3>", "<script>"]
        ),
        max_size=14,
    ).map("".join)
)
def test_no_word_is_lost_and_html_is_stable(text: str) -> None:
    words = 0
    for part in split_tables(text):
        if isinstance(part, Table):
            cells = [*(cell for row in part.rows for cell in row), part.caption or Cell("")]
            words += sum(cell.text.count("word") for cell in cells)
            html = table_html(part)
            assert "<script" not in html
            assert table_html(parse_table(html)) == html
        else:
            words += part.count("word")
    assert words == text.count("word")
