"""How far a text is from the truth: edit distance and error rates. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein)."""
    if not a:
        return len(b)
    return [len(a), *_last_row(a, b, anchored=True)][-1]


def closest_distance(part: Sequence[Hashable], text: Sequence[Hashable]) -> tuple[int, int]:
    """Edit distance of `part` to the piece of `text` most like it, and where that piece ends."""
    row = enumerate(_last_row(part, text, anchored=False), 1) if part else ()
    distance, end = min(((d, end) for end, d in row), default=(len(part), 0))
    return min((distance, end), (len(part), 0))


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


def _last_row(
    rows: Sequence[Hashable], columns: Sequence[Hashable], anchored: bool
) -> Iterator[int]:
    """The last row of the table of distances, left to right, without its first entry.

    A whole column of the table is a pair of integers, one bit per row that says whether the value
    rises or falls there (Myers 1999, Hyyrö 2003). anchored: else a piece may begin anywhere.
    """
    places: dict[Hashable, int] = {}
    for i, element in enumerate(rows):
        places[element] = places.get(element, 0) | 1 << i
    mask, last, distance = (1 << len(rows)) - 1, 1 << (len(rows) - 1), len(rows)
    rises, falls = mask, 0
    for element in columns:
        equal = places.get(element, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal
        right_rises = falls | (mask & ~(diagonal | rises))
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises, right_falls = right_rises << 1 | anchored, right_falls << 1
        equal |= falls
        rises, falls = (right_falls | ~(equal | right_rises)) & mask, right_rises & equal & mask
        yield distance
