"""The list in a box tag -> boxes, however the model wrote it. Never evaluates anything.

As trained: `[[x1, y1, x2, y2], ...]`, integers 0..999, x1 <= x2 and y1 <= y2. Four numbers are a
box in any other brackets too; what had to be done to them is said. Standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from vllm_dsocr.document.blocks import BOX_MAX, Box

_NUMBERS_ONLY = re.compile(r"[-+0-9.,;\s\[\](){}]*", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
UNREADABLE = "the boxes could not be read"


@dataclass(frozen=True, slots=True)
class Reading:
    """Boxes of a list, and one sentence where they are not simply what was written."""

    boxes: tuple[Box, ...]
    note: str | None = None


def read_boxes(written: str) -> Reading:
    """What a list says; no boxes when it says nothing that could be one. Never raises."""
    if not _NUMBERS_ONLY.fullmatch(written):
        return Reading((), UNREADABLE)
    groups = [_NUMBER.findall(part) for part in re.split(r"[\[\](){}]", written)]
    groups = [group for group in groups if group]
    fours = _fours(groups)
    if not fours:
        return Reading((), UNREADABLE)
    done = {} if _is_as_trained(written) else {"taken from another kind of list": None}
    boxes = tuple(_box(four, done) for four in fours)
    if sum(map(len, groups)) > 4 * len(fours):
        done["taken without what is no box"] = None
    return Reading(boxes, f"the boxes were {', '.join(done)}" if done else None)


def _is_as_trained(written: str) -> bool:
    try:
        boxes = json.loads(written)
    except (ValueError, RecursionError):
        return False
    return isinstance(boxes, list) and all(
        isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)
        for box in boxes
    )


def _fours(groups: list[list[str]]) -> list[list[float]]:
    """Four numbers for each box: groups of four, else pairs of corners, else one long row."""
    numbers = [[float(number) for number in group] for group in groups]
    if any(len(group) == 4 for group in numbers):
        return [group for group in numbers if len(group) == 4]
    if len(numbers) % 2 == 0 and all(len(group) == 2 for group in numbers):
        return [numbers[i] + numbers[i + 1] for i in range(0, len(numbers), 2)]
    if len(numbers) == 1 and len(numbers[0]) % 4 == 0:
        return [numbers[0][i : i + 4] for i in range(0, len(numbers[0]), 4)]
    return []


def _box(numbers: list[float], done: dict[str, None]) -> Box:
    """The box of four numbers; what was done to them is added to `done`."""
    clamped = [min(max(number, 0.0), float(BOX_MAX)) for number in numbers]
    rounded = [round(number) for number in clamped]
    x1, y1, x2, y2 = rounded
    corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    changes = {
        "clamped": clamped != numbers,
        "rounded": rounded != clamped,
        "sorted": list(corners) != rounded,
    }
    done.update((change, None) for change, is_so in changes.items() if is_so)
    return Box(*corners)
