"""Error rates on cases one can count by hand."""

import pytest

from vllm_dsocr.metrics import character_error_rate, edit_distance, word_error_rate


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
