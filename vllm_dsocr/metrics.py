"""How far a text is from the truth: edit distance and error rates. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rapidfuzz.distance import Levenshtein


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein)."""
    return Levenshtein.distance(a, b)


def character_error_rate(text: str, truth: str) -> float:
    """Edits per character of the truth; may exceed 1. An empty truth counts as one character."""
    return edit_distance(text, truth) / max(1, len(truth))


def word_error_rate(text: str, truth: str) -> float:
    """Edits per white-space separated word of the truth."""
    words = truth.split()
    return edit_distance(text.split(), words) / max(1, len(words))


def normalised_distance(text: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """Edits per element of the longer one, 0 to 1; 0 when both are empty."""
    return edit_distance(text, truth) / max(1, len(text), len(truth))
