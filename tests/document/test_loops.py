"""Where text goes round in circles."""

from __future__ import annotations

import pytest

from vllm_dsocr.document.loops import MIN_LOOP_CHARS, TAIL_CHARS, loop_start


@pytest.mark.parametrize("piece", ["a", "ab c ", "the same line again\n", "x" * 60 + "y"])
def test_one_turn_of_the_loop_is_kept(piece: str) -> None:
    head = "A beginning that is said once. "
    text = head + piece * (MIN_LOOP_CHARS // len(piece) + 5)
    start = loop_start(text)
    assert start is not None
    assert text[:start].rstrip() == (head + piece).rstrip()


def test_a_last_turn_cut_short_counts() -> None:
    text = "start: " + "0123456789 abcdef." * 20 + "0123456"
    assert loop_start(text) == len("start: " + "0123456789 abcdef.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "Contents " + "." * 60,
        "".join(f"{number}. line\n" for number in range(500)),
        "three times is no loop: " + "x y z and so on, quite long a sentence indeed, " * 3,
    ],
)
def test_what_is_no_loop(text: str) -> None:
    assert loop_start(text) is None


def test_text_before_the_looked_at_tail_is_kept() -> None:
    text = "word " * (TAIL_CHARS // 2)
    start = loop_start(text)
    assert start is not None
    assert start >= len(text) - TAIL_CHARS
