"""The grammar of layout tags, and what is not in it."""

from __future__ import annotations

import os

import pytest

from vllm_dsocr.document.blocks import Box
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
    "written",
    [
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4, 5]]",
        "[[1, 2, 3, 1000]]",
        "[[-1, 2, 3, 4]]",
        "[[1.5, 2, 3, 4]]",
        "[[3, 2, 1, 4]]",
        "[[1, 4, 3, 2]]",
        "[1, 2, 3, 4]",
        "[[]]",
        "[]",
        "",
        "[[1, 2, 3, 4], [1, 2]]",
        "[[1, 2, 3, 4]",
        "[[１, ２, ３, ４]]",
        "[[x for x in (1, 2, 3, 4)]]",
    ],
)
def test_a_malformed_tag_is_text_and_hides_nothing(written: str) -> None:
    text = f"a<|ref|>text<|/ref|><|det|>{written}<|/det|>b{TITLE}c"
    first, title = parse_blocks(text)
    assert first.content == f"a<|ref|>text<|/ref|><|det|>{written}<|/det|>b"
    assert (title.label, title.content) == ("title", "c")


@pytest.mark.parametrize("cut", range(1, len(TITLE)))
def test_a_tag_cut_off_anywhere_is_text(cut: int) -> None:
    (block,) = parse_blocks("some text " + TITLE[:cut])
    assert block.content == ("some text " + TITLE[:cut]).strip()


def test_code_in_a_tag_does_nothing_and_stays(tmp_path) -> None:
    victim = tmp_path / "touched"
    code = f"__import__('os').system('touch {victim}')"
    text = f"<|ref|>image<|/ref|><|det|>[[{code}]]<|/det|>"
    (block,) = parse_blocks(text)
    assert block.content == text
    assert not os.path.exists(victim)


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
