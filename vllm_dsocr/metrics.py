"""How far a text or box is from the truth. Knows nothing of models."""

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


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 for boxes without area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)
