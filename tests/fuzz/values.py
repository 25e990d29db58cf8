"""Random text and JSON values of the unpleasant kind."""

from __future__ import annotations

from random import Random
from typing import Any

CHARACTERS = "\0\x1b\x7f\u0085\u200e\u202e\ufeff\ud83d\uffff中é𝔘\n\r\t <>&\"'`|\\{}[]()$#*_~-="
STRINGS = (
    "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/latest", "data:,", "\0",
    "data:image/png;base64,AAAA", "data:application/pdf;base64,JVBERi0=", "1-", "9-1", "markdown",
    "javascript:alert(1)", "{{7*7}}", "' OR 1=1 --", "a" * 5000, "locate", "tiny", "gundam",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 1e308, -0.0, 0.5, float("nan"), float("inf"))


def text(rng: Random, longest: int = 40) -> str:
    """A few characters, most of them odd."""
    pool = CHARACTERS if rng.random() < 0.5 else "abc 0123"
    return "".join(rng.choices(pool, k=rng.randrange(longest)))


def number(rng: Random) -> int | float:
    return rng.choice([*NUMBERS, rng.randrange(-3, 2000), rng.uniform(-5, 5)])


def value(rng: Random, depth: int = 3) -> Any:
    """A JSON value; at most `depth` levels."""
    kind = rng.randrange(7 if depth else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return number(rng)
    if kind in (2, 3):
        return rng.choice(STRINGS)
    if kind == 4:
        return text(rng)
    if kind == 5:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng, 8): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def changed(rng: Random, good: Any) -> Any:
    """A good JSON value with something in it replaced, removed or added."""
    if isinstance(good, dict) and good and rng.random() < 0.8:
        copy = dict(good)
        key = rng.choice(list(copy))
        action = rng.random()
        if action < 0.15:
            del copy[key]
        elif action < 0.3:
            copy[text(rng, 8) or "x"] = value(rng)
        else:
            copy[key] = changed(rng, copy[key])
        return copy
    if isinstance(good, list) and good and rng.random() < 0.6:
        copy = list(good)
        place = rng.randrange(len(copy))
        copy[place] = changed(rng, copy[place])
        return copy
    return value(rng)
