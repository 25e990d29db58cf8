"""The grammar of layout tags, and what is not in it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_dsocr.config import DET_CLOSE, DET_OPEN, REF_CLOSE, REF_OPEN
from vllm_dsocr.document.blocks import Block, Box
from vllm_dsocr.document.grounding import parse_blocks

TITLE = "<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>"


def test_blocks_carry_label_boxes_and_text() -> None:
    title, text = parse_blocks(
        TITLE + "\n# T\n<|ref|>text<|/ref|><|det|>[[5,6,7,8],\n [9, 10, 11, 12]]<|/det|>\nbody"
    )
    assert (title.label, title.boxes, title.content) == ("title", (Box(1, 2, 3, 4),), "\n# T\n")
    assert text.boxes == (Box(5, 6, 7, 8), Box(9, 10, 11, 12))
    assert text.content == "\nbody"


def test_text_before_the_first_tag_is_a_block_without_label() -> None:
    first, title = parse_blocks("before " + TITLE + "after")
    assert (first.label, first.content) == (None, "before ")
    assert (title.label, title.content) == ("title", "after")


def test_text_without_tags_is_one_block() -> None:
    (block,) = parse_blocks(" just text\n")
    assert (block.label, block.boxes, block.content) == (None, (), "just text")
    assert parse_blocks(" \n ") == ()


def test_a_located_phrase_is_a_label() -> None:
    (block,) = parse_blocks("<|ref|>the a < b sign<|/ref|><|det|>[[0, 0, 999, 999]]<|/det|>")
    assert (block.label, block.boxes) == ("the a < b sign", (Box(0, 0, 999, 999),))


@pytest.mark.parametrize(
    ("written", "boxes", "note"),
    [
        ("[[1,2,\n 3 , 4],[5,6,7,8]]", [(1, 2, 3, 4), (5, 6, 7, 8)], None),
        ("[[1, 2, 3, 1000]]", [(1, 2, 3, 999)], "clamped"),
        ("[[-1, 2, 3, 4]]", [(0, 2, 3, 4)], "clamped"),
        ("[[1.6, 2, 3.0, 4]]", [(2, 2, 3, 4)], "rounded"),
        ("[[3, 2, 1, 4]]", [(1, 2, 3, 4)], "sorted"),
        ("[[1, 4, 3, 2]]", [(1, 2, 3, 4)], "sorted"),
        ("[1, 2, 3, 4]", [(1, 2, 3, 4)], "another kind of list"),
        ("[1, 2, 3, 4, 5, 6, 7, 8]", [(1, 2, 3, 4), (5, 6, 7, 8)], "another kind of list"),
        ("[(1, 2, 3, 4), (5, 6, 7, 8)]", [(1, 2, 3, 4), (5, 6, 7, 8)], "another kind of list"),
        ("[[(1, 2), (3, 4)]]", [(1, 2, 3, 4)], "another kind of list"),
        ("[[1 2 3 4]]", [(1, 2, 3, 4)], "another kind of list"),
        ("[[1, 2, 3, 4]", [(1, 2, 3, 4)], "another kind of list"),
        ("[[1, 2, 3, 4], [1, 2]]", [(1, 2, 3, 4)], "without what is no box"),
        ("[[" + "9" * 5000 + ", 0, 1e0]]", [], "could not be read"),
        ("[[" + "9" * 5000 + ", 0, 1, 2]]", [(1, 0, 999, 2)], "clamped"),
        ("[" * 100_000, [], "could not be read"),
        ("[[1, 2, 3]]", [], "could not be read"),
        ("[[1, 2, 3, 4, 5]]", [], "could not be read"),
        ("[[]]", [], "could not be read"),
        ("", [], "could not be read"),
        ("[[１, ２, ３, ４]]", [], "could not be read"),
        ("[[x for x in (1, 2, 3, 4)]]", [], "could not be read"),
        ("[[nan, inf, 1, 2]]", [], "could not be read"),
    ],
)
def test_four_numbers_are_a_box_and_what_was_done_is_said(written, boxes, note) -> None:
    tag = f"<|ref|>text<|/ref|><|det|>{written}<|/det|>"
    before, text, title = parse_blocks(f"a{tag}b{TITLE}c")
    assert (before.content, text.label, text.content) == ("a", "text", "b")
    assert [box.corners for box in text.boxes] == boxes
    assert (text.note is None) if note is None else (note in text.note)
    assert text.tag == (None if note is None else tag)
    assert (title.label, title.content) == ("title", "c")


@pytest.mark.parametrize("cut", range(1, len(TITLE)))
def test_a_tag_cut_off_anywhere_is_text(cut: int) -> None:
    (block,) = parse_blocks("some text " + TITLE[:cut])
    assert block.content == ("some text " + TITLE[:cut]).strip()


def test_code_in_a_tag_does_nothing_and_stays_in_the_record(tmp_path) -> None:
    victim = tmp_path / "touched"
    code = f"__import__('os').system('touch {victim}')"
    text = f"<|ref|>image<|/ref|><|det|>[[{code}]]<|/det|>"
    (block,) = parse_blocks(text)
    assert (block.content, block.boxes, block.tag) == ("", (), text)
    assert not os.path.exists(victim)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (
            "title[[112, 89, 881, 140]]\n# T\n\ntext[[1,2,3,4]]\nb",
            [("title", "\n# T\n\n"), ("text", "\nb")],
        ),
        ("table[[1, 2, 3, 4], [5, 6, 7, 8]]", [("table", "")]),
        ("see figure[[1, 2, 3, 4]]", [(None, "see figure[[1, 2, 3, 4]]")]),
        ("matrix[[1, 2, 3, 4]]", [(None, "matrix[[1, 2, 3, 4]]")]),
        ("text[[1, 2, 3]]", [(None, "text[[1, 2, 3]]")]),
        (TITLE + "\ntext[[1, 2, 3, 4]]", [("title", "\ntext[[1, 2, 3, 4]]")]),
    ],
)  # fmt: skip
def test_tags_whose_special_tokens_were_dropped(text: str, read: list) -> None:
    assert [(block.label, block.content) for block in parse_blocks(text)] == read


@pytest.mark.parametrize(
    ("label", "content", "text"),
    [
        ("The perils of vibe coding", "\n", "The perils of vibe coding\n"),
        ("Total", "", "Total"),
        ("a dog", " on a mat", "a dog on a mat"),
        ("title", "\n", "\n"),
        ("seal_mark", "Approved", "Approved"),
    ],
)
def test_a_label_that_is_no_kind_is_the_text(label: str, content: str, text: str) -> None:
    assert Block(content, label).text == text


WORDS = st.text("ab <|[]1,\n", max_size=8)
TOKENS = st.sampled_from(
    [REF_OPEN, REF_CLOSE, DET_OPEN, DET_CLOSE]
    + ["[[1, 2, 3, 4]]", "[1,2,3,4]", "[[", "text", "title[["]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WORDS, TOKENS), max_size=14).map("".join))
def test_tags_and_contents_are_the_whole_text(text: str) -> None:
    rest = text.strip()
    for block in parse_blocks(text):
        assert block.content in rest
        before, _, rest = rest.partition(block.content) if block.content else ("", "", rest)
        assert not before or before.endswith((DET_CLOSE, "]")), "only tags are left out"
    assert not rest or rest.endswith((DET_CLOSE, "]"))


def test_labels_do_not_reach_over_other_tags() -> None:
    first, title = parse_blocks("<|ref|>open " + TITLE)
    assert (first.content, title.label) == ("<|ref|>open ", "title")


def test_a_long_row_of_open_tags_takes_no_long_time() -> None:
    text = "<|ref|>" * 50_000 + "<|ref|>a<|/ref|><|det|>[" * 20_000
    (block,) = parse_blocks(text)
    assert block.content == text


def test_pixels_and_points() -> None:
    box = Box(102, 33, 900, 999)
    assert box.pixels(1240, 1754) == (126, 57, 1117, 1754)
    left, bottom, right, top = box.points(595.0, 842.0)
    assert bottom == pytest.approx(0.0)
    assert (left, right) == (pytest.approx(102 / 999 * 595), pytest.approx(900 / 999 * 595))
    assert top == pytest.approx(842 - 33 / 999 * 842)
