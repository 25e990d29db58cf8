"""Text -> where its tail starts to go round in circles, if it does.

Knows nothing of tokens, models or why decoding ended; standard library only.
"""

from __future__ import annotations

MIN_REPEATS = 4
MIN_LOOP_CHARS = 200
TAIL_CHARS = 16_384  # how far back a loop is looked for


def loop_start(text: str, min_chars: int = MIN_LOOP_CHARS) -> int | None:
    """Index where the text's last cycle began, after one full turn of it; None without a loop.

    A loop is a tail of at least `min_chars` characters that is one piece written MIN_REPEATS times
    or more; the last turn may be cut short. `text[:loop_start(text)]` keeps one turn. Time and
    memory are linear in the (bounded) tail.
    """
    tail = text.rstrip()[-TAIL_CHARS:]
    matches = _prefix_matches(tail[::-1])
    for period in range(1, len(tail) // MIN_REPEATS + 1):
        length = period + matches[period]
        if length >= max(min_chars, MIN_REPEATS * period):
            return len(text.rstrip()) - length + period
    return None


def _prefix_matches(text: str) -> list[int]:
    """For each i, how many characters from i on equal the beginning of the text (Z function)."""
    matches = [0] * len(text)
    left = right = 0
    for i in range(1, len(text)):
        length = min(right - i, matches[i - left]) if i < right else 0
        while i + length < len(text) and text[length] == text[i + length]:
            length += 1
        if i + length > right:
            left, right = i, i + length
        matches[i] = length
    return matches
