"""Paragraphs of a text and of the truth -> how much their order differs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllm_dsocr.metrics import edit_distance, normalised_distance

SAME = 0.5  # paragraphs further apart, in edits per character, are different ones


def paragraphs(text: str) -> list[str]:
    """What empty lines separate."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def order_distance(read: Sequence[str], truth: Sequence[str]) -> float:
    """Edits per paragraph that put the paragraphs found into the order of the truth; 0 to 1.

    Paragraphs that were not found or are not in the truth do not count here.
    """
    found = match(read, truth)
    places = [found[i] for i in sorted(found)]
    return edit_distance(places, sorted(places)) / max(1, len(places))


def match(read: Sequence[str], truth: Sequence[str]) -> dict[int, int]:
    """Index in `read` -> index in `truth`; the closest pairs first, none twice."""
    pairs = [
        (distance, i, j)
        for i, a in enumerate(read)
        for j, b in enumerate(truth)
        if _may_match(a, b) and (distance := normalised_distance(a, b)) <= SAME
    ]
    found: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if i not in found and j not in taken:
            found[i] = j
            taken.add(j)
    return found


def _may_match(a: str, b: str) -> bool:
    """Whether the lengths alone leave it open."""
    return abs(len(a) - len(b)) <= SAME * max(len(a), len(b))
