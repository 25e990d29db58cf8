"""Error rates on cases one can count by hand."""

import random

import pytest

from vllm_dsocr.metrics import (
    box_iou,
    character_error_rate,
    edit_distance,
    normalised_distance,
    word_error_rate,
)


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("abc", "abc", 0)],
)
def test_edit_distance(a, b, edits):
    assert edit_distance(a, b) == edit_distance(b, a) == edits


def test_rates_are_per_character_and_word_of_the_truth():
    assert character_error_rate("abcx", "abcd") == 0.25
    assert word_error_rate("a  b c", "a b d e") == 0.5
    assert character_error_rate("ab", "") == 2.0
    assert normalised_distance("ab", "abcd") == 0.5


def distance_by_table(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], best
    return row[-1]


def test_any_hashable_elements_have_the_distances_of_the_table():
    rng = random.Random(0)
    for kind in (str, int, lambda n: (n, "x")):
        for _ in range(100):
            a, b = ([kind(rng.randrange(3)) for _ in range(rng.randrange(9))] for _ in range(2))
            assert edit_distance(a, b) == distance_by_table(a, b)


def test_overlap_of_boxes():
    assert box_iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == box_iou((3, 3, 3, 9), (3, 3, 3, 9)) == 0
