"""How far a text is from the truth: edit distance and error rates. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], best
    return row[-1]


def character_error_rate(text: str, truth: str) -> float:
    """Edits per character of the truth; may exceed 1. An empty truth counts as one character."""
    return edit_distance(text, truth) / max(1, len(truth))


def word_error_rate(text: str, truth: str) -> float:
    """Edits per white-space separated word of the truth."""
    words = truth.split()
    return edit_distance(text.split(), words) / max(1, len(words))
